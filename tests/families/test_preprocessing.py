"""Preprocessing: inverses and log-determinants against autodiff, noise of bytes, families."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import swjko
from swjko.families.preprocessing import (
    chain,
    dequantize,
    interval,
    logit,
    preprocessed,
    quantize,
    scale,
)

MAPS = {
    "scale": lambda: scale(-1.0, 3.0),
    "scale by coordinate": lambda: scale(jnp.array([0.0, -2.0, 5.0]), jnp.array([0.5, 2.0, 5.5])),
    "logit": lambda: logit(),
    "logit near the border": lambda: logit(1e-3),
    "chain": lambda: chain(scale(0.1, 0.7), logit(0.02), scale(-4.0, 2.0)),
}


@pytest.mark.slow_except_first
@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [*((name, "float32", 1e-5) for name in MAPS), ("chain", "float64", 1e-12)],
)
def test_maps_invert_with_the_log_dets_of_their_jacobians(name, dtype, tolerance, key):
    with jax.enable_x64(dtype == "float64"):
        one = MAPS[name]()
        rows = jax.random.uniform(key, (6, 3), dtype).at[0, 0].set(0.0).at[1, 1].set(1.0)
        image, log_det = one.forward(rows)
        assert image.dtype == log_det.dtype == jnp.dtype(dtype)
        jacobians = jax.vmap(jax.jacfwd(lambda row: one.forward(row[None])[0][0]))(rows)
        exact = jnp.linalg.slogdet(jacobians)[1]
        np.testing.assert_allclose(log_det, exact, rtol=10 * tolerance, atol=10 * tolerance)
        back, log_det_back = one.inverse(image)
        np.testing.assert_allclose(back, rows, atol=tolerance)
        np.testing.assert_allclose(
            log_det_back, -log_det, rtol=100 * tolerance, atol=100 * tolerance
        )


@pytest.mark.parametrize(
    ("one", "ends"),
    [(scale(-1.0, 3.0), [-1.0, 1.0, 3.0]), (logit(0.05), np.log([0.05 / 0.95, 1.0, 0.95 / 0.05]))],
)
def test_where_the_unit_interval_goes(one, ends):
    image = one.forward(jnp.array([[0.0, 0.5, 1.0]]))[0]
    np.testing.assert_allclose(image, [ends], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_noise_is_uniform_within_a_level_and_rounded_away(levels, key):
    rows = jnp.repeat(jnp.arange(levels, dtype=float)[:, None] / (levels - 1), 400, axis=1)
    noisy = dequantize(key, rows, levels)
    assert float(noisy.min()) >= 0.0
    assert float(noisy.max()) < 1.0
    np.testing.assert_allclose(quantize(noisy, levels), rows, atol=1e-6)
    within = np.asarray(noisy * levels - jnp.round(rows * (levels - 1))).ravel()
    # Mean and variance of a uniform law, within five standard errors.
    assert abs(within.mean() - 1 / 2) < 5 / np.sqrt(12 * within.size)
    assert abs(within.var() - 1 / 12) < 5 / np.sqrt(180 * within.size)


def test_noise_next_to_the_next_level_stays_below_it(monkeypatch, key):
    """level + u rounds to level + 1 in float32 if u is the largest number below 1."""
    monkeypatch.setattr(
        jax.random,
        "uniform",
        lambda key, shape, dtype: jnp.full(shape, jnp.nextafter(jnp.ones((), dtype), 0.0)),
    )
    rows = jnp.arange(256, dtype=jnp.float32)[None] / 255
    np.testing.assert_allclose(quantize(dequantize(key, rows)), rows, atol=1e-6)


def test_quantize_clips():
    np.testing.assert_array_equal(quantize(jnp.array([[-0.2, 1.0, 1.7]])), [[0.0, 1.0, 1.0]])


@pytest.mark.slow
def test_a_family_of_rows_has_their_density(key):
    family = preprocessed(
        swjko.gaussian(3, init_mean=0.3, init_scale=0.8), chain(logit(), scale(-2.0, 2.0))
    )
    params, z = family.init(key), family.latent(key, 5)
    cloud = family.push(params, z)
    jacobians = jax.vmap(jax.jacfwd(lambda z: family.push(params, z[None]).points[0]))(z)
    exact = jax.scipy.stats.norm.logpdf(z).sum(axis=1) - jnp.linalg.slogdet(jacobians)[1]
    np.testing.assert_allclose(cloud.log_density, exact, rtol=1e-4)
    np.testing.assert_allclose(family.log_prob(params, cloud.points), exact, rtol=1e-3)


def test_a_family_of_rows_without_density(key):
    family = preprocessed(swjko.particles(jnp.zeros((4, 3))), logit())
    np.testing.assert_allclose(family.push(family.init(key), jnp.arange(4)).points, 0.5)
    assert (family.is_finite, family.has_density, family.log_prob) == (True, False, None)


def test_data_are_leaves_and_do_not_retrace():
    traces = []

    @jax.jit
    def forward(one, rows):
        traces.append(1)
        return one.forward(rows)[0]

    for high in (1.0, 2.0):
        one = chain(scale(0.0, high), scale(0.0, 2.0))
        np.testing.assert_allclose(forward(one, jnp.ones((1, 2))), 2 * high)
    assert len(traces) == 1


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scale(1.0, 0.0), "high`? must be above low"),
        (lambda: scale(jnp.zeros(2), jnp.array([1.0, 0.0])), "high`? must be above low"),
        (lambda: scale(jnp.zeros((2, 2)), 1.0), "low`? must be a number or one for each"),
        (lambda: scale(0.0, jnp.inf), "high`? must be finite"),
        (lambda: interval(1.0, 1.0), "high`? must be above low"),
        (lambda: interval(jnp.inf, jnp.inf), "high`? must be above low"),
        (lambda: interval(0.0, jnp.nan), "high`? must be above low"),
        (lambda: interval(jnp.zeros((2, 2)), 1.0), "low`? must be a number or one for each"),
        (
            lambda: preprocessed(swjko.gaussian(1), interval(jnp.zeros(3), 1.0)),
            "preprocessing`? must keep the 1 coordinates",
        ),
        (lambda: logit(0.0), "alpha`? must be"),
        (lambda: logit(0.5), "alpha`? must be below 1/2"),
        (lambda: chain(), "chain`? needs at least one"),
        (lambda: chain(scale(0.0, 1.0), jnp.exp), "argument 1"),
        (lambda: dequantize(jax.random.key(0), jnp.zeros((2, 2)), 1), "levels`? must be at least"),
        (lambda: dequantize(jax.random.key(0), jnp.zeros((2, 2), int)), "rows`? must be real"),
        (lambda: quantize(jnp.zeros(3)), "rows`? must have rank 2"),
        (lambda: preprocessed(logit(), logit()), "family` must be a swjko Family"),
        (lambda: preprocessed(swjko.gaussian(2), jnp.exp), "preprocessing` must be"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


INTERVALS = {
    "bounded": (jnp.array([0.0, -2.0, 5.0]), jnp.array([1.0, 3.0, 5.5])),
    "from below": (2.0, jnp.inf),
    "from above": (-jnp.inf, -1.0),
    "of each kind": (jnp.array([0.0, -jnp.inf, -jnp.inf]), jnp.array([jnp.inf, 1.0, jnp.inf])),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INTERVALS)
def test_intervals_go_to_the_line_with_the_log_dets_of_their_jacobians(name, key):
    with jax.enable_x64(True):
        one = interval(*INTERVALS[name])
        image = 3.0 * jax.random.normal(key, (6, 3), jnp.float64)
        rows, log_det = one.inverse(image)
        low, high = (jnp.reshape(jnp.asarray(end), (1, -1)) for end in INTERVALS[name])
        assert np.all((rows > low) & (rows < high))
        jacobians = jax.vmap(jax.jacfwd(lambda row: one.inverse(row[None])[0][0]))(image)
        np.testing.assert_allclose(log_det, jnp.linalg.slogdet(jacobians)[1], rtol=1e-9, atol=1e-9)
        back, log_det_back = one.forward(rows)
        np.testing.assert_allclose(back, image, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(log_det_back, -log_det, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (3.0, 4.0), (0.0, jnp.inf), (-jnp.inf, 1.0)])
def test_far_points_of_the_line_stay_inside_an_interval(ends):
    rows, log_det = interval(*ends).inverse(jnp.array([[-200.0], [-30.0], [30.0], [200.0]]))
    assert np.all((rows > ends[0]) & (rows < ends[1]))
    assert np.all(np.isfinite(log_det))


@pytest.mark.slow
def test_a_density_is_zero_outside_of_its_interval(key):
    family = preprocessed(swjko.gaussian(1, init_scale=0.7), interval(0.0, 1.0))
    params = family.init(key)
    outside = jnp.array([[-0.5], [0.0], [1.0], [jnp.inf]])
    np.testing.assert_array_equal(family.log_prob(params, outside), -jnp.inf)
    centres = (jnp.arange(2000.0)[:, None] + 0.5) / 2000
    np.testing.assert_allclose(jnp.exp(family.log_prob(params, centres)).mean(), 1.0, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ends", "log_prob", "mean", "variance"),
    [
        ((0.0, 1.0), lambda x: jax.scipy.stats.beta.logpdf(x[0], 2.0, 3.0), 0.4, 0.04),
        ((0.0, jnp.inf), lambda x: jax.scipy.stats.expon.logpdf(x[0]), 1.0, 1.0),
    ],
)
def test_a_flow_reaches_a_target_of_bounded_support(ends, log_prob, mean, variance, key):
    scheme = swjko.sw_jko(
        preprocessed(swjko.gaussian(1), interval(*ends)),
        swjko.kl_divergence(log_prob),
        optax.adam(5e-2),
        step_size=2.0,
        num_inner_steps=60,
        num_samples=256,
        num_projections=1,
    )
    solution = swjko.solve(key, scheme, 6, progress=False)
    points = solution.distribution.sample(key, 4096).points
    # A Gaussian on the line is close to these laws, not equal to them.
    assert abs(float(points.mean()) - mean) < 0.1 * mean
    assert abs(float(points.var()) - variance) < 0.35 * variance
    assert float(solution.history.energy[-1]) < 0.1
