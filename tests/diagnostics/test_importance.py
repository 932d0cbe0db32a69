"""Importance sampling against closed forms, and its figures on laws with known tails."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import swjko
from swjko import Cloud, FlowDistribution, flows
from swjko.diagnostics.importance import weigh


def _normal(dim, **start):
    family = swjko.gaussian(dim, **start)
    return FlowDistribution(family, family.init(jax.random.key(0)))


def _target(x):
    """Log of exp(-|x - 1|^2 / 2) without its constant, so that log Z = d log(2 pi) / 2."""
    return -0.5 * jnp.sum((x - 1.0) ** 2)


@pytest.mark.slow
def test_figures_of_two_gaussians(key):
    """q = N(0, s^2 I), p = N(1, I): log Z, ELBO, EUBO and effective fraction in closed form."""
    dim, s = 2, 1.4
    law = _normal(dim, init_scale=s)
    reference = 1.0 + jax.random.normal(jax.random.key(5), (20_000, dim))
    found = swjko.importance(key, law, _target, 20_000, reference=reference)
    log_z = dim / 2 * np.log(2 * np.pi)
    assert abs(found.log_evidence - log_z) < 4 * found.standard_error
    assert found.standard_error == pytest.approx(
        np.sqrt((1 / found.effective_fraction - 1) / 20_000), rel=1e-4
    )
    kl = dim * (np.log(1 / s) + (s**2 + 1) / 2 - 0.5)
    assert abs(found.elbo.value - (log_z - kl)) < 4 * found.elbo.standard_error
    reverse = dim * (np.log(s) + 2 / (2 * s**2) - 0.5)
    assert abs(found.eubo.value - (log_z + reverse)) < 4 * found.eubo.standard_error
    # E_q[w^2] / E_q[w]^2 = int p^2 / q for each coordinate.
    a = 1 - 1 / (2 * s**2)
    second = s / np.sqrt(2 * a) * np.exp(-1 + 1 / a) / 1.0
    assert found.effective_fraction == pytest.approx(second**-dim, rel=0.05)
    assert found.pareto_k < 0.5
    assert found.verdict.startswith("weights usable")
    assert "misses" in found.verdict
    weights = np.asarray(found.cloud.weights)
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(weights @ np.asarray(found.cloud.points), 1.0, atol=0.05)
    resampled = found.resample(jax.random.key(1), 20_000)
    np.testing.assert_allclose(np.mean(resampled, axis=0), 1.0, atol=0.06)


def _two_modes(x):
    """Log Z = 0; modes of deviation 0.5 at -3 and 3."""
    squares = jnp.stack([jnp.sum((x - 3.0) ** 2), jnp.sum((x + 3.0) ** 2)])
    return jax.nn.logsumexp(-squares / 0.5) - jnp.log(2.0) - jnp.log(2 * jnp.pi * 0.25)


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "lost"), [(3.0, True), (None, False)])
def test_a_wide_distribution_tells_of_a_mode_that_is_missed(mean, lost, key):
    """Half of the mass is missed by draws that are all effective."""
    family = swjko.gaussian_mixture(2, 2)
    params = family.init(key) | {
        "mean": jnp.full((2, 2), mean) if lost else jnp.array([[3.0, 3.0], [-3.0, -3.0]]),
        "log_diagonal": jnp.full((2, 2), np.log(0.5), jnp.float32),
    }
    law, wide = FlowDistribution(family, params), _normal(2, init_scale=5.0)
    found = swjko.importance(key, law, _two_modes, 4000, wide=wide)
    assert float(found.effective_fraction) > 0.99
    assert float(found.log_evidence) == pytest.approx(np.log(0.5) if lost else 0.0, abs=0.01)
    assert float(found.wide.log_evidence) == pytest.approx(0.0, abs=0.2)
    assert found.misses_mass == lost
    assert ("Modes are missed" in found.verdict) == lost
    # Equal weights leave k-hat undefined, and are no fault.
    assert "misses" in swjko.importance(key, law, _two_modes, 100).verdict


@pytest.mark.slow
@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_shape_of_the_tail_is_recovered(shape):
    """Weights with a generalised Pareto law have its shape, up to the noise of 425 excesses."""
    weights = scipy.stats.genpareto(shape).rvs(20_000, random_state=0) + 1.0
    cloud = Cloud(jnp.zeros((20_000, 1)), None, jnp.zeros(20_000))
    found = weigh(cloud, jnp.log(jnp.asarray(weights, float)))
    assert float(found.pareto_k) == pytest.approx(shape, abs=0.15)
    assert found.verdict.startswith("unreliable" if shape > 0.7 else "weights usable")


@pytest.mark.slow
def test_smoothed_tail_has_the_quantiles_of_its_law():
    weights = scipy.stats.genpareto(0.4).rvs(5_000, random_state=1) + 1.0
    cloud = Cloud(jnp.zeros((5_000, 1)), None, jnp.zeros(5_000))
    found = weigh(cloud, jnp.log(jnp.asarray(weights, float)))
    order, tail = np.argsort(weights), int(np.ceil(3 * np.sqrt(5_000)))
    smoothed = np.asarray(found.cloud.weights)[order]
    assert np.all(np.diff(smoothed) >= 0)
    ratio = smoothed / smoothed[0] * weights[order[0]] / weights[order]
    np.testing.assert_allclose(ratio[:-tail], 1.0, rtol=1e-4)
    # The largest draws of a heavy tail are the noisiest.
    np.testing.assert_allclose(ratio[-tail:-10], 1.0, atol=0.1)
    assert np.all(ratio[-10:] < 2.0)


def test_smoothed_weights_estimate_log_z_better_than_raw_ones():
    """200 sets of weights whose mean is 1 + 1 / (1 - 0.65), and whose variance is infinite."""
    weights = scipy.stats.genpareto(0.65).rvs((200, 2_000), random_state=2) + 1.0
    clouds = Cloud(jnp.zeros((200, 2_000, 1)), None, jnp.zeros((200, 2_000)))
    found = jax.vmap(weigh)(clouds, jnp.log(jnp.asarray(weights, float)))
    exact = np.log(1 + 1 / 0.35)
    raw = np.log(weights.mean(axis=1)) - exact
    smoothed = np.asarray(found.log_evidence) - exact
    assert np.sqrt(np.mean(smoothed**2)) < 0.8 * np.sqrt(np.mean(raw**2))
    assert np.max(np.abs(smoothed)) < np.max(np.abs(raw))
    # The error is that of the weights in use, whose largest are not those of single draws.
    assert np.median(found.standard_error) == pytest.approx(np.std(smoothed), rel=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 3])
def test_equal_laws_have_equal_weights(dim, key):
    law = _normal(dim)
    found = swjko.importance(key, law, lambda x: -0.5 * jnp.sum(x**2), 100)
    assert found.effective_fraction == pytest.approx(1.0, abs=1e-5)
    assert found.log_evidence == pytest.approx(dim / 2 * np.log(2 * np.pi), abs=1e-5)
    np.testing.assert_allclose(found.cloud.weights, 0.01, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("value", "words"), [(jnp.nan, "NaN"), (jnp.inf, "NaN or +infinity")])
def test_one_unusable_weight_leaves_no_finite_number(value, words, key):
    law = _normal(1)
    found = swjko.importance(key, law, lambda x: jnp.where(x[0] > 1.5, value, 0.0), 200)
    assert int(found.num_invalid) == int(np.sum(np.asarray(found.cloud.points) > 1.5)) > 0
    for number in (found.log_evidence, found.effective_fraction, found.elbo.value):
        assert np.isnan(number)
    assert np.all(np.isnan(found.resample(key, 5)))
    assert found.verdict.startswith("unusable")
    assert words in found.verdict


@pytest.mark.slow
def test_bounded_support_gives_zero_weights(key):
    law = _normal(1)
    found = swjko.importance(key, law, lambda x: jnp.where(x[0] > 0, 0.0, -jnp.inf), 4000)
    # p is flat on the positive half-line: weights 1 / q have no mean, which k-hat shows.
    assert found.verdict.startswith("unreliable")
    nowhere = swjko.importance(key, law, lambda x: -jnp.inf * jnp.ones(()), 4000)
    assert nowhere.log_evidence == -jnp.inf
    assert "no mass" in nowhere.verdict


def test_importance_is_jitted_and_checked(key):
    law = _normal(2)
    run = jax.jit(swjko.importance, static_argnames=("target_log_prob", "num_samples"))
    first, second = (f(key, law, _target, num_samples=64) for f in (run, swjko.importance))
    np.testing.assert_allclose(first.log_evidence, second.log_evidence, rtol=1e-5)
    with pytest.raises(ValueError, match=r"num_samples must be .*25"):
        swjko.importance(key, law, _target, 24)
    family = flows.mlp(2, 2)
    without = FlowDistribution(family, family.init(key))
    for refused in (
        lambda: swjko.importance(key, without, _target, 30),
        lambda: without.log_prob(jnp.zeros((3, 2))),
        lambda: without.sample_and_log_prob(key, 3),
    ):
        with pytest.raises(ValueError, match="distribution must have a density"):
            refused()


@pytest.mark.slow
def test_distribution_of_a_solution(key):
    """The same draws as ``sample``, and densities that the draws carry."""
    scheme = swjko.sw_jko(
        flows.coupling(2, num_layers=2, width=8),
        swjko.kl_divergence(_target),
        optax.adam(1e-2),
        step_size=0.5,
        num_inner_steps=2,
        num_samples=32,
        num_projections=4,
    )
    solution = swjko.solve(key, scheme, 1, progress=False)
    law = solution.distribution
    assert law.dim == 2
    points, log_density = law.sample_and_log_prob(key, 50)
    expected = swjko.sample(scheme.family, solution.state.params, key, 50)
    np.testing.assert_array_equal(points, expected.points)
    np.testing.assert_allclose(law.log_prob(points), log_density, rtol=1e-4, atol=1e-4)
    many = swjko.solve(jax.random.split(key, 2), scheme, 1, progress=False)
    assert many.distribution is None
