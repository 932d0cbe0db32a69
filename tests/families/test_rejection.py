"""Rejection: its density by quadrature, its draws by that density, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import swjko


def unnormalised(mean, x):
    return -0.5 * jnp.sum((x - mean) ** 2) + 3.0


TARGET = Partial(unnormalised, jnp.asarray([0.8]))
FAMILY = swjko.gaussian(1)
START = swjko.FlowDistribution(FAMILY, FAMILY.init(jax.random.key(0)))
GRID = np.linspace(-8, 8, 4001)[:, None]


def densities(law):
    return np.exp(np.asarray(jax.jit(type(law).log_prob)(law, jnp.asarray(GRID, float)), float))


def divergence(density):
    """KL(law | N(0.8, 1)) by quadrature."""
    target = np.exp(-0.5 * (GRID[:, 0] - 0.8) ** 2) / np.sqrt(2 * np.pi)
    return np.trapezoid(density * np.log(density / target), GRID[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 2])
def test_density_draws_and_rate(repeats, key):
    law = START
    for at in range(repeats):
        before = divergence(densities(law))
        law = swjko.rejection(jax.random.fold_in(key, at), law, TARGET, num_draws=20_000)
        # The mean acceptance is 0.8 on the draws that set it, by the definition of the rate.
        assert float(law.acceptance) == pytest.approx(0.8, abs=1e-4)
        after = divergence(densities(law))
        assert after < 0.75 * before
    density = densities(law)
    assert np.trapezoid(density, GRID[:, 0]) == pytest.approx(1.0, abs=0.01)
    cloud = jax.jit(type(law).sample, static_argnums=2)(law, key, 20_000)
    np.testing.assert_allclose(cloud.log_density, law.log_prob(cloud.points), rtol=1e-4, atol=1e-5)
    mean = np.trapezoid(density * GRID[:, 0], GRID[:, 0])
    second = np.trapezoid(density * GRID[:, 0] ** 2, GRID[:, 0])
    points = np.asarray(cloud.points, float)[:, 0]
    assert points.mean() == pytest.approx(mean, abs=0.03)
    assert (points**2).mean() == pytest.approx(second, abs=0.05)


@pytest.mark.slow
def test_it_is_a_base_and_a_law_for_importance(key):
    plane = swjko.gaussian(2)
    start = swjko.FlowDistribution(plane, plane.init(key))
    target = Partial(unnormalised, jnp.asarray([0.8, 0.0]))
    law = swjko.rejection(key, start, target, num_draws=1000)
    family = swjko.flows.coupling(2, num_layers=1, width=4, base=law)
    cloud = swjko.sample(family, family.init(key), key, 64)
    np.testing.assert_allclose(cloud.log_density, law.log_prob(cloud.points), rtol=1e-3, atol=1e-3)
    plain, better = (swjko.importance(key, one, target, 2000) for one in (start, law))
    assert better.effective_fraction > plain.effective_fraction
    assert float(better.log_evidence) == pytest.approx(3.0 + np.log(2 * np.pi), abs=0.05)


def test_a_target_of_bounded_support_keeps_draws_inside_it(key):
    target = Partial(lambda x: jnp.where(x[0] > 0, -0.5 * x[0] ** 2, -jnp.inf))
    law = swjko.rejection(key, START, target, rate=0.6)
    share = np.mean(np.asarray(law.sample(key, 4000).points) > 0)
    # Half of the draws are refused for their sign and a tenth for their level.
    assert share == pytest.approx(0.4 + 0.6 * 0.5, abs=0.03)


def test_bad_input_is_refused(key):
    with pytest.raises(TypeError, match=r"\bdistribution\b"):
        swjko.rejection(key, FAMILY, TARGET)
    with pytest.raises(ValueError, match="rate must be"):
        swjko.rejection(key, START, TARGET, rate=1.0)
    with pytest.raises(ValueError, match="num_draws must be at least 25; got 2"):
        swjko.rejection(key, START, TARGET, num_draws=2)
    mlp = swjko.flows.mlp(1, 1)
    with pytest.raises(ValueError, match="distribution must have a density"):
        swjko.rejection(key, swjko.FlowDistribution(mlp, mlp.init(key)), TARGET)
