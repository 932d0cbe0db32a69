"""Forward KL: value and minimum against closed forms, weights, batches, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from helpers import random_weights

import swjko
from swjko import flows

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(40, 2)) @ [[1.0, 0.5], [0.0, 0.6]] + [1.0, -2.0]
DATA = jnp.asarray(POINTS)


def fit(functional, key):
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 400))
    scheme = swjko.direct_minimization(
        swjko.gaussian(2), functional, optimizer, num_inner_steps=400, num_samples=4
    )
    state, info = jax.jit(scheme.step)(key, scheme.init(key))
    return swjko.gaussian_moments(state.params), info


@pytest.mark.parametrize("weighted", [False, True])
def test_minimum_over_gaussians_has_the_moments_of_the_points(weighted, key):
    weights = random_weights(np.random.default_rng(1), 40) if weighted else np.full(40, 1 / 40)
    functional = swjko.forward_kl(DATA, jnp.asarray(weights) if weighted else None)
    (mean, cov), info = fit(functional, key)
    target_mean = weights @ POINTS
    target_cov = (POINTS - target_mean).T * weights @ (POINTS - target_mean)
    np.testing.assert_allclose(mean, target_mean, atol=2e-3)
    np.testing.assert_allclose(cov, target_cov, atol=5e-3)
    law = scipy.stats.multivariate_normal(target_mean, target_cov)
    assert float(info.energy) == pytest.approx(-weights @ law.logpdf(POINTS), abs=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_batches_have_the_value_of_all_points_on_average(weighted, key):
    weights = jnp.asarray(random_weights(np.random.default_rng(2), 40)) if weighted else None
    family = swjko.gaussian(2)
    params = family.init(key)
    whole, parts = (
        swjko.evaluate(
            key, family, swjko.forward_kl(DATA, weights, **size), params,
            num_samples=2, num_repeats=400,
        )
        for size in ({}, {"batch_size": 10})
    )  # fmt: skip
    assert abs(float(parts.value - whole.value)) < 4 * float(parts.standard_error)
    assert float(parts.standard_error) > 0


@pytest.mark.parametrize("batch_size", [8, 40])
def test_batches_draw_one_point_of_each_of_equal_parts(batch_size, key):
    functional = swjko.forward_kl(jnp.arange(40.0)[:, None], batch_size=batch_size)
    seen = []
    functional(key, swjko.Cloud(jnp.zeros((1, 1))), lambda x: seen.append(x) or x[:, 0])
    parts = np.asarray(seen[0][:, 0]) // (40 // batch_size)
    np.testing.assert_array_equal(parts, np.arange(batch_size))


def test_it_adds_to_other_functionals(key):
    family = swjko.gaussian(2)
    both = swjko.weighted_sum(
        (2.0, swjko.forward_kl(DATA)),
        (1.0, swjko.potential(lambda x: 3.0 + 0.0 * x[0])),
    )
    params = family.init(key)
    alone = swjko.evaluate(key, family, swjko.forward_kl(DATA), params, num_samples=4)
    found = swjko.evaluate(key, family, both, params, num_samples=4)
    assert float(found.value) == pytest.approx(2 * float(alone.value) + 3.0, rel=1e-5)


@pytest.mark.slow
def test_sw_jko_descends_it(key):
    scheme = swjko.sw_jko(
        flows.coupling(2, num_layers=2, width=8),
        swjko.forward_kl(DATA, batch_size=20),
        optax.adam(1e-2),
        step_size=0.5,
        num_inner_steps=20,
        num_samples=32,
        num_projections=8,
    )
    _, infos = jax.jit(swjko.run, static_argnames=("num_steps", "record"))(
        key, scheme, scheme.init(key), 6, "infos"
    )
    assert float(infos.energy[-1]) < float(infos.energy[0]) - 0.2
    assert float(infos.proximity[0]) > 0


def test_what_cannot_be_used_is_refused(key):
    options = {"num_inner_steps": 1, "num_samples": 4}
    with pytest.raises(ValueError, match="needs the density of the measure at points of its own"):
        swjko.direct_minimization(
            flows.mlp(2, 2, width=4),
            swjko.forward_kl(DATA),
            optax.adam(1e-3),
            **options,
        )
    with pytest.raises(ValueError, match="would invert all maps"):
        swjko.icnn_jko(
            2,
            swjko.forward_kl(DATA),
            optax.adam(1e-3),
            step_size=1.0,
            num_points=8,
            **options,
        )
    with pytest.raises(ValueError, match="batch_size"):
        swjko.forward_kl(DATA, batch_size=41)
    with pytest.raises(ValueError, match="weights"):
        swjko.forward_kl(DATA, jnp.ones(40))
    with pytest.raises(ValueError, match="points"):
        swjko.forward_kl(jnp.zeros((0, 2)))
