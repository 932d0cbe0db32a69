"""Preprocessing: inverses, log-determinants, dequantisation, families mapped back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import swjko
from swjko.families.preprocessing import chain, dequantize, logit, preprocessed, quantize, scale

MAPS = {
    "scale": lambda: scale(-1.0, 3.0),
    "scale by coordinate": lambda: scale(jnp.array([0.0, -2.0, 5.0]), jnp.array([0.5, 2.0, 5.5])),
    "logit": lambda: logit(),
    "logit near the border": lambda: logit(1e-3),
    "chain": lambda: chain(scale(0.1, 0.7), logit(0.02), scale(-4.0, 2.0)),
}


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
        np.testing.assert_allclose(
            log_det, jnp.linalg.slogdet(jacobians)[1], rtol=10 * tolerance, atol=10 * tolerance
        )
        back, inverse_log_det = one.inverse(image)
        np.testing.assert_allclose(back, rows, atol=tolerance)
        np.testing.assert_allclose(
            inverse_log_det, -log_det, rtol=100 * tolerance, atol=100 * tolerance
        )


def test_scale_sends_the_unit_interval_to_its_ends():
    np.testing.assert_allclose(
        scale(-1.0, 3.0).forward(jnp.array([[0.0, 0.5, 1.0]]))[0], [[-1.0, 1.0, 3.0]]
    )


def test_logit_keeps_the_borders_finite_and_symmetric():
    image = logit(0.05).forward(jnp.array([[0.0, 0.5, 1.0]]))[0]
    np.testing.assert_allclose(
        image, [[np.log(0.05 / 0.95), 0.0, np.log(0.95 / 0.05)]], rtol=1e-5, atol=1e-6
    )


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
    """level + u rounds to level + 1 in float32 where u is the largest number below 1."""
    monkeypatch.setattr(
        jax.random,
        "uniform",
        lambda key, shape, dtype: jnp.full(shape, jnp.nextafter(jnp.ones((), dtype), 0.0)),
    )
    rows = jnp.arange(256, dtype=jnp.float32)[None] / 255
    np.testing.assert_allclose(quantize(dequantize(key, rows)), rows, atol=1e-6)


def test_what_lies_beyond_is_cut():
    np.testing.assert_array_equal(quantize(jnp.array([[-0.2, 1.0, 1.7]])), [[0.0, 1.0, 1.0]])


def test_a_family_of_what_is_mapped_back(key):
    family = preprocessed(
        swjko.gaussian(3, init_mean=0.3, init_scale=0.8), chain(logit(), scale(-2.0, 2.0))
    )
    params = family.init(key)
    z = family.latent(key, 5)
    cloud = family.push(params, z)
    jacobians = jax.vmap(jax.jacfwd(lambda z: family.push(params, z[None]).points[0]))(z)
    exact = jax.scipy.stats.norm.logpdf(z).sum(axis=1) - jnp.linalg.slogdet(jacobians)[1]
    np.testing.assert_allclose(cloud.log_density, exact, rtol=1e-4)
    np.testing.assert_allclose(family.log_prob(params, cloud.points), exact, rtol=1e-3)
    finite = preprocessed(swjko.particles(jnp.zeros((4, 3))), logit())
    np.testing.assert_allclose(finite.push(finite.init(key), jnp.arange(4)).points, 0.5)


def test_data_are_leaves_and_nothing_is_compiled_anew():
    traces = []

    @jax.jit
    def forward(one, rows):
        traces.append(1)
        return one.forward(rows)[0]

    for high in (1.0, 2.0):
        np.testing.assert_allclose(
            forward(chain(scale(0.0, high), scale(0.0, 2.0)), jnp.ones((1, 2))), 2 * high
        )
    assert len(traces) == 1


BAD = {
    "high below low": (lambda: scale(1.0, 0.0), "high must be above low"),
    "equal in a coordinate": (
        lambda: scale(jnp.zeros(2), jnp.array([1.0, 0.0])),
        "high must be above low",
    ),
    "a matrix": (
        lambda: scale(jnp.zeros((2, 2)), 1.0),
        "low must be a number or one for each coordinate",
    ),
    "no end": (lambda: scale(0.0, jnp.inf), "high must be finite"),
    "alpha of zero": (lambda: logit(0.0), "alpha must be above 0"),
    "alpha of a half": (lambda: logit(0.5), "alpha must be below 1/2"),
    "no maps": (lambda: chain(), "chain needs at least one"),
    "a function": (lambda: chain(scale(0.0, 1.0), jnp.exp), "argument 1"),
    "one level": (
        lambda: dequantize(jax.random.key(0), jnp.zeros((2, 2)), 1),
        "levels must be at least 2",
    ),
    "bytes": (
        lambda: dequantize(jax.random.key(0), jnp.zeros((2, 2), jnp.uint8)),
        "rows must be real floating point",
    ),
    "one picture": (lambda: quantize(jnp.zeros(3)), "rows must have rank 2"),
    "no family": (lambda: preprocessed(logit(), logit()), "family must be a swjko Family"),
    "no map": (
        lambda: preprocessed(swjko.gaussian(2), jnp.exp),
        "preprocessing must be a Preprocessing",
    ),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("what", BAD)
def test_bad_arguments_are_named(what):
    call, message = BAD[what]
    with pytest.raises((ValueError, TypeError), match=message):
        call()
