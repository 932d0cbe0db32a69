"""Corrected schemes: modes and log Z against closed forms, exponents, codes, vmap and solve."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

import swjko
from swjko import flows
from swjko.functionals.base import effective_fraction
from swjko.schemes.correction import largest_exponent

CENTERS = jnp.array([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
LOG_Z = 1.5
jitted_run = jax.jit(swjko.run, static_argnames=("num_steps", "record"))


def modes(centers, x):
    """Three Gaussians of deviation 0.3, of mass exp(LOG_Z) together."""
    normal = -jnp.sum((x[None, :] - centers) ** 2, axis=1) / (2 * 0.09) - jnp.log(2 * jnp.pi * 0.09)
    return jax.nn.logsumexp(normal) - jnp.log(3.0) + LOG_Z


TARGET = Partial(modes, CENTERS)


def make(family=None, target=TARGET, **options):
    family = family or swjko.gaussian_mixture(2, 12, learned_weights=True, init_scale=2.0)
    jko = swjko.sw_jko(
        family,
        swjko.kl_divergence(target),
        optax.adam(1e-3),
        step_size=0.0025,
        num_inner_steps=1,
        num_samples=16,
        num_projections=4,
    )
    defaults = {"num_inner_steps": 60, "num_draws": 1000, "batch_size": 128}
    refit = options.pop("refit", optax.adam(0.05))
    return swjko.corrected(jko, target, refit, **(defaults | options))


CLOSED_FORM = {"refit": swjko.expectation_maximization(), "num_inner_steps": 5}


@pytest.mark.slow_except_first
@pytest.mark.parametrize("options", [CLOSED_FORM, {}, {"step_size": 1.0}])
def test_all_modes_are_held_and_log_z_is_right(options, key):
    scheme = make(**options)
    state, infos = jitted_run(key, scheme, scheme.init(key), 10, "infos")
    assert int(state.result) == swjko.Result.OK
    report = infos.extra
    assert float(report.exponent[-1]) == 1.0
    assert float(report.effective_fraction[-1]) > 0.7
    assert float(report.log_evidence[-1]) == pytest.approx(LOG_Z, abs=0.05)
    points = np.asarray(swjko.sample(scheme.family, state.params, key, 3000).points)
    nearest = np.argmin(np.linalg.norm(points[:, None] - np.asarray(CENTERS), axis=2), axis=1)
    np.testing.assert_allclose(np.bincount(nearest) / 3000, 1 / 3, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("options", [CLOSED_FORM, {}])
@pytest.mark.parametrize(("wide", "held"), [(False, 1), (True, 3)])
def test_a_wide_proposal_finds_modes_that_the_measure_has_lost(wide, held, options, key):
    lost = swjko.gaussian_mixture(2, 12, learned_weights=True, init_mean=CENTERS[0], init_scale=0.3)
    start = swjko.gaussian(2, init_scale=3.0)
    proposal = swjko.FlowDistribution(start, start.init(key)) if wide else None
    scheme = make(lost, proposal=proposal, **options)
    state, _ = jitted_run(key, scheme, scheme.init(key), 15, "infos")
    points = np.asarray(swjko.sample(lost, state.params, key, 1000).points)
    nearest = np.argmin(np.linalg.norm(points[:, None] - np.asarray(CENTERS), axis=2), axis=1)
    assert np.sum(np.bincount(nearest, minlength=3) > 1000 / 12) == held


def test_exponent_keeps_theeffective_fraction(key):
    log_weights = 5.0 * jax.random.normal(key, (2000,))
    exponent = largest_exponent(log_weights, 0.3)
    assert 0 < float(exponent) < 1
    assert float(effective_fraction(exponent * log_weights)) == pytest.approx(0.3, abs=1e-3)
    assert float(largest_exponent(0.1 * log_weights, 0.3)) == 1.0
    masked = jnp.where(jnp.arange(2000) < 1000, -jnp.inf, log_weights)
    assert 0 < float(largest_exponent(masked, 0.3)) < 1


@pytest.mark.slow
def test_an_exact_measure_is_not_moved_by_more_than_noise(key):
    family = swjko.gaussian(2)
    scheme = make(family, lambda x: -jnp.sum(x**2) / 2, num_draws=4000)
    state, info = jax.jit(scheme.step)(key, scheme.init(key))
    assert float(info.extra.effective_fraction) == pytest.approx(1.0, abs=1e-3)
    mean, cov = swjko.gaussian_moments(state.params)
    np.testing.assert_allclose(mean, 0.0, atol=0.15)
    np.testing.assert_allclose(cov, np.eye(2), atol=0.25)


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", [lambda x: jnp.where(x[0] > 0, jnp.nan, 0.0), lambda x: -jnp.inf + 0.0 * x[0]]
)
def test_a_target_without_numbers_stops_the_flow_before_the_correction(target, key):
    healthy = make()
    scheme = make(target=TARGET)
    scheme = swjko.corrected(
        healthy.scheme, target, optax.adam(0.05), num_inner_steps=5, num_draws=100, batch_size=16
    )
    state, info = jax.jit(scheme.step)(key, scheme.init(key))
    assert int(state.result) == int(info.result) == swjko.Result.NON_FINITE
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state.params))


@pytest.mark.slow
def test_flows_side_by_side_and_solve(key, tmp_path):
    scheme = make(num_inner_steps=5, num_draws=100, batch_size=16)
    keys = jax.random.split(key, 2)
    many = swjko.solve(keys, scheme, 3, progress=False)
    one = swjko.solve(keys[1], scheme, 3, progress=False, checkpoint_dir=tmp_path / "run")
    np.testing.assert_allclose(
        many.history.extra.log_evidence[1], one.history.extra.log_evidence, rtol=1e-3, atol=1e-3
    )
    resumed = swjko.solve(keys[1], scheme, 3, progress=False, checkpoint_dir=tmp_path / "run")
    np.testing.assert_array_equal(resumed.history.extra.exponent, one.history.extra.exponent)


def test_what_cannot_be_corrected_is_refused():
    family = flows.mlp(2, 2, width=4)
    jko = swjko.sw_jko(
        family, swjko.potential(jnp.sum), optax.adam(1e-3),
        step_size=1.0, num_inner_steps=1, num_samples=4, num_projections=2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="scheme must have a family with a density"):
        swjko.corrected(jko, TARGET, optax.adam(1e-3), num_inner_steps=1)
    with pytest.raises(ValueError, match="num_draws"):
        make(num_draws=5)
    with pytest.raises((TypeError, ValueError), match="effective_fraction"):
        make(effective_fraction=1.5)
