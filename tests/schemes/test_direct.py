"""Direct minimisation: the minimum where it is known, no gradient flow on the way, and otherwise the face of the schemes."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import swjko

jitted_run = jax.jit(swjko.run, static_argnames=("num_steps", "record"))


def log_prob(x):
    return -jnp.sum((x - 1.0) ** 2 * jnp.array([2.0, 0.5])) / 2


def direct(inner=150, rate=5e-2, **options):
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, inner))
    return swjko.direct_minimization(
        swjko.gaussian(2),
        swjko.kl_divergence(log_prob),
        optimizer,
        num_inner_steps=inner,
        num_samples=128,
        **options,
    )


def test_reaches_the_minimum_in_a_step_or_two(key):
    scheme = direct()
    state, infos = jitted_run(key, scheme, scheme.init(key), num_steps=2, record=swjko.infos)
    mean, cov = swjko.gaussian_moments(state.params)
    np.testing.assert_allclose(mean, 1.0, atol=0.02)
    np.testing.assert_allclose(cov, np.diag([0.5, 2.0]), atol=0.05)
    # -log of the normalisation, det(2 pi Sigma)^{1/2} = 2 pi.
    np.testing.assert_allclose(infos.energy[-1], -np.log(2 * np.pi), atol=0.01)
    assert np.all(infos.proximity == 0)
    np.testing.assert_array_equal(infos.objective, infos.energy)
    np.testing.assert_array_equal(infos.time, [1.0, 2.0])


def test_is_the_limit_of_large_steps_of_sw_jko(key):
    """The same draws and updates: a proximity divided by 1e12 is none."""
    scheme = direct(inner=5)
    jko = dataclasses.replace(scheme.jko, step_size=jnp.asarray(1e12))
    one, _ = jax.jit(type(scheme).step)(scheme, key, scheme.init(key))
    other, _ = jax.jit(type(jko).step)(jko, key, jko.init(key))
    chex.assert_trees_all_close(one.params, other.params, rtol=1e-5, atol=1e-6)


def test_computes_no_distance(key):
    scheme = direct(inner=2)
    text = jax.jit(type(scheme).step).lower(scheme, key, scheme.init(key)).compile().as_text()
    assert " sort(" not in text
    assert isinstance(scheme, swjko.Scheme)


def test_a_failed_step_leaves_the_state(key):
    scheme = swjko.direct_minimization(
        swjko.gaussian(2),
        swjko.potential(lambda x: jnp.sum(x) * jnp.nan),
        optax.adam(1e-2),
        num_inner_steps=2,
        num_samples=4,
    )
    state, info = jax.jit(type(scheme).step)(scheme, key, scheme.init(key))
    assert int(info.result) == swjko.Result.NON_FINITE
    chex.assert_trees_all_equal(state.params, scheme.init(key).params)


def test_refuses_what_sw_jko_refuses():
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        swjko.direct_minimization(
            swjko.gaussian(2),
            swjko.potential(jnp.sum),
            optax.sgd(0.1),
            num_inner_steps=1,
            num_samples=0,
        )
