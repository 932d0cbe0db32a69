"""Barycentres as minimisers of weighted sums of distances to targets, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import swjko


def fixed_directions(_key, num, dim):
    return swjko.orthogonal_directions(jax.random.key(2), num, dim)


def energy_of(targets, weights, num_projections):
    # The same directions for all targets, whose gradients then cancel at the barycentre.
    terms = [
        swjko.sw_to_target(target, num_projections, direction_fn=fixed_directions)
        for target in targets
    ]
    return swjko.weighted_sum(*zip(weights, terms, strict=True))


@pytest.mark.slow
def test_on_the_line_quantiles_are_averaged():
    """There a step of length n along the gradient leads from anywhere to the barycentre."""
    rng = np.random.default_rng(0)
    targets = [jnp.asarray(rng.normal(size=(9, 1)), float) for _ in range(3)]
    weights = (0.2, 0.3, 0.5)
    start = jnp.asarray(rng.normal(size=(9, 1)), float)
    energy = energy_of(targets, weights, 1)
    slope = jax.grad(lambda x: energy(jax.random.key(0), swjko.Cloud(x)))(start)
    ordered = [np.sort(target, axis=0) for target in targets]
    expected = sum(weight * points for weight, points in zip(weights, ordered, strict=True))
    np.testing.assert_allclose(np.sort(start - 9 * slope, axis=0), expected, rtol=1e-4, atol=1e-5)


def test_of_isotropic_gaussians_has_the_mean_of_means_and_scales():
    """N(sum w m, (sum w s)^2 I), here exact, since the targets are images of one sample."""
    rng = np.random.default_rng(1)
    sample = jnp.asarray(rng.normal(size=(40, 2)), float)
    means, scales, weights = [(0.0, 2.0), (4.0, -2.0)], (0.5, 2.0), (0.25, 0.75)
    targets = [
        jnp.asarray(mean, float)[None] + scale * sample
        for mean, scale in zip(means, scales, strict=True)
    ]
    energy = energy_of(targets, weights, 16)

    def move(points, key):
        return points - 40 * jax.grad(lambda x: energy(key, swjko.Cloud(x)))(points), None

    end, _ = jax.jit(lambda x, keys: jax.lax.scan(move, x, keys))(
        sample, jax.random.split(jax.random.key(0), 60)
    )
    np.testing.assert_allclose(
        end, np.array([[3.0, -1.0]]) + 1.625 * np.asarray(sample), rtol=1e-3, atol=1e-3
    )
