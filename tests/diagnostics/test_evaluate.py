"""Energies and divergences against closed forms, in standard errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import swjko

MEAN0, MEAN1 = np.array([0.5, -1.0]), np.array([0.0, 0.3])
SCALE0, SCALE1 = 1.2, 0.8


def kl(mean0, scale0, mean1, scale1):
    dim = len(mean0)
    return dim * (np.log(scale1 / scale0) - 0.5 + scale0**2 / (2 * scale1**2)) + np.sum(
        (mean0 - mean1) ** 2
    ) / (2 * scale1**2)


def family_and_params():
    family = swjko.gaussian(2, init_mean=MEAN0, init_scale=SCALE0)
    return family, family.init(jax.random.key(0))


def target_log_prob(x):
    return -jnp.sum((x - MEAN1) ** 2) / (2 * SCALE1**2)


def target_sample(key, num):
    return MEAN1[None, :] + SCALE1 * jax.random.normal(key, (num, 2))


evaluate = jax.jit(swjko.evaluate, static_argnames=("num_samples", "num_repeats"))


@pytest.mark.slow
def test_evaluate_against_the_exact_divergence():
    family, params = family_and_params()
    exact = kl(MEAN0, SCALE0, MEAN1, SCALE1) - np.log(2 * np.pi * SCALE1**2)
    functional = swjko.kl_divergence(target_log_prob)
    estimates = [
        evaluate(jax.random.key(seed), family, functional, params, num_samples=2000)
        for seed in range(8)
    ]
    z = [(float(e.value) - exact) / float(e.standard_error) for e in estimates]
    assert np.max(np.abs(z)) < 4.5
    assert scipy.stats.kstest(z, scipy.stats.t(15).cdf).pvalue > 1e-3


@pytest.mark.slow
def test_symmetric_kl_against_the_closed_form_whatever_the_normalisation():
    family, params = family_and_params()
    exact = kl(MEAN0, SCALE0, MEAN1, SCALE1) + kl(MEAN1, SCALE1, MEAN0, SCALE0)
    for shift in (0.0, 7.0):
        estimate = swjko.symmetric_kl(
            jax.random.key(1),
            family,
            params,
            lambda x, shift=shift: target_log_prob(x) + shift,
            target_sample,
            num_samples=20_000,
        )
        assert abs(float(estimate.value) - exact) < 4 * float(estimate.standard_error)
        assert float(estimate.standard_error) < 0.05 * exact


def test_symmetric_kl_resolves_values_far_below_the_noise_of_log_densities():
    family = swjko.gaussian(2, init_mean=MEAN1 + 0.005, init_scale=SCALE1)
    exact = 2 * 0.005**2 / SCALE1**2
    estimate = swjko.symmetric_kl(
        jax.random.key(2),
        family,
        family.init(jax.random.key(0)),
        lambda x: target_log_prob(x) - 3.0,
        target_sample,
        num_samples=10_000,
    )
    assert abs(float(estimate.value) - exact) < 4 * float(estimate.standard_error) < 0.1 * exact


def test_symmetric_kl_takes_points_of_the_target_too():
    family, params = family_and_params()
    points = target_sample(jax.random.key(3), 20_000)
    exact = kl(MEAN0, SCALE0, MEAN1, SCALE1) + kl(MEAN1, SCALE1, MEAN0, SCALE0)
    estimate = swjko.symmetric_kl(
        jax.random.key(1), family, params, target_log_prob, points, num_samples=20_000
    )
    assert abs(float(estimate.value) - exact) < 4 * float(estimate.standard_error)


def test_symmetric_kl_of_a_family_without_density_is_refused(key):
    family = swjko.particles(jnp.ones((3, 2)))
    with pytest.raises(ValueError, match=r"family.* must have a density"):
        swjko.symmetric_kl(
            key, family, family.init(key), target_log_prob, target_sample, num_samples=10
        )


def test_symmetric_kl_of_a_grid_is_refused(key):
    family = swjko.grid(jnp.ones((3, 2)), 1.0)
    with pytest.raises(ValueError, match="a grid has one"):
        swjko.symmetric_kl(
            key, family, family.init(key), target_log_prob, jnp.ones((3, 2)), num_samples=3
        )
