"""Annealed schemes: exponents in closed form, the end of the path, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import jitted_run
from jax.tree_util import Partial

import swjko


def shifted(mean, x):
    return -jnp.sum((x - mean) ** 2) / 2


def make(target_mean=4.0, **options):
    family = swjko.gaussian(1)
    target = Partial(shifted, jnp.asarray(target_mean))
    jko = swjko.sw_jko(
        family,
        swjko.kl_divergence(target),
        optax.adam(0.1),
        step_size=10.0,
        num_inner_steps=60,
        num_samples=128,
        num_projections=1,
    )
    start = swjko.FlowDistribution(family, family.init(jax.random.key(0)))
    return swjko.annealed(jko, target, start, **({"num_draws": 4096} | options))


@pytest.mark.slow
def test_exponents_are_those_of_gaussians_and_end_at_one(key):
    """Of weights exp(b m x) under N(c, 1), a fraction exp(-(b m)^2) is effective."""
    scheme = make()
    state, infos = jitted_run(key, scheme, scheme.init(key), num_steps=8, record=swjko.infos)
    assert int(state.result) == swjko.Result.OK
    found = np.asarray(infos.extra.exponent)
    expected = np.minimum(1.0, np.arange(1, 9) * np.sqrt(np.log(2)) / 4)
    np.testing.assert_allclose(found, expected, rtol=0.1)
    assert found[-1] == 1.0
    assert float(state.extra.exponent) == 1.0
    np.testing.assert_allclose(infos.extra.effective_fraction[:4], 0.5, atol=1e-3)
    assert float(infos.extra.effective_fraction[-1]) > 0.9
    mean, cov = swjko.gaussian_moments(state.params)
    assert float(mean[0]) == pytest.approx(4.0, abs=0.15)
    assert float(cov[0, 0]) == pytest.approx(1.0, abs=0.2)


def test_a_failed_step_keeps_the_exponent(key):
    scheme = make(jnp.nan)
    state, info = jax.jit(scheme.step)(key, scheme.init(key))
    assert int(state.result) == swjko.Result.NON_FINITE
    assert float(state.extra.exponent) == 0.0
    np.testing.assert_array_equal(state.params["mean"], 0.0)
    assert np.isnan(info.energy) or not np.isfinite(info.gradient_norm)


def test_bad_input_is_refused():
    scheme = make()
    target, start = scheme.target_log_prob, scheme.start
    particles = swjko.langevin(jnp.zeros((4, 1)), target, step_size=0.1)
    with pytest.raises(TypeError, match="scheme must have a functional of its own; got Langevin"):
        swjko.annealed(particles, target, start)
    with pytest.raises(TypeError, match=r"\bstart\b"):
        swjko.annealed(scheme.scheme, target, target)
    with pytest.raises(ValueError, match="num_draws must be at least 25; got 3"):
        make(num_draws=3)
    with pytest.raises(ValueError, match=r"effective_fraction must be .*; got 1\.5"):
        make(effective_fraction=1.5)
