"""Cells of equal mass on the line: density, exact porous medium and crowds, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import jitted_run

import swjko


def test_cloud_and_edges_of_cells_by_hand(key):
    family = swjko.cells(jnp.asarray([-1.0, 0.0, 0.5, 3.0]))
    params = family.init(key)
    cloud = swjko.sample(family, params, key, 3)
    np.testing.assert_allclose(cloud.points[:, 0], [-0.5, 0.25, 1.75], rtol=1e-6)
    assert cloud.log_density is not None
    np.testing.assert_allclose(jnp.exp(cloud.log_density), [1 / 3, 2 / 3, 1 / 7.5], rtol=1e-6)
    np.testing.assert_allclose(family.edges_at(params), [-1.0, 0.0, 0.5, 3.0], atol=1e-6)
    entropy = np.mean(np.log([1 / 3, 2 / 3, 1 / 7.5]))
    np.testing.assert_allclose(swjko.negative_entropy()(key, cloud), entropy, rtol=1e-5)


def run(family, functional, step_size, num_steps, key):
    num = family.edges.shape[0] - 1
    scheme = swjko.sw_jko(
        family,
        functional,
        optax.lbfgs(),
        step_size=step_size,
        num_inner_steps=20,
        num_samples=num,
        num_projections=1,
    )
    return jitted_run(key, scheme, scheme.init(key), num_steps=num_steps, record=swjko.infos)[0]


def test_porous_medium_is_barenblatt(key):
    """The parabola of radius R has R^3 = R_0^3 + 9 t; its quantiles scale with R."""
    levels = np.arange(61) / 60
    x = np.linspace(-1.0, 1.0, 20001)
    start = np.interp(levels, 0.5 + 0.75 * (x - x**3 / 3), x)
    family = swjko.cells(jnp.asarray(start, float))
    state = run(family, swjko.internal_energy(lambda r: r**2), 0.02, 15, key)
    exact = (1 + 9 * 0.3) ** (1 / 3) * start
    # At the front the density vanishes, and the last cells are wide.
    np.testing.assert_allclose(family.edges_at(state.params)[5:-5], exact[5:-5], atol=0.015)


@pytest.mark.slow
def test_a_crowd_stops_where_it_is_full(key):
    """From uniform on [-1, 1] with V = x^2/2 the density is e^t / 2, and 1 from t = log 2 on."""
    start = np.linspace(-1.0, 1.0, 31)
    family = swjko.cells(jnp.asarray(start, float), max_density=1.0)
    functional = swjko.potential(lambda x: jnp.sum(x**2) / 2)
    early = run(family, functional, 0.05, 8, key)
    middles = (start[1:] + start[:-1]) / 2
    free = middles / (1 + 0.05) ** 8  # implicit Euler

    def points(state):
        return swjko.sample(family, state.params, key, 30).points[:, 0]

    np.testing.assert_allclose(points(early), free, atol=0.012)
    late = run(family, functional, 0.05, 32, key)
    np.testing.assert_allclose(points(late), middles / 2, atol=0.02)
    assert float(jnp.min(jnp.diff(family.edges_at(late.params)))) >= 1 / 30 - 1e-6


def test_bad_edges_and_numbers_are_named(key):
    cases = [
        (([0.0],), {}, "edges must hold at least two values; got 1"),
        (([0.0, 1.0, 1.0],), {}, r"edges must increase .* smallest width of 0\. Sort them"),
        (([0.0, 1.0, 1.2],), {"max_density": 1.0}, r"more than 0\.5 .* or start below max_density"),
        (([0.0, 1.0],), {"max_density": -1.0}, "max_density must be positive"),
    ]
    for (edges,), options, message in cases:
        with pytest.raises(ValueError, match=message):
            swjko.cells(jnp.asarray(edges), **options)
    with pytest.raises(ValueError, match="must be their number, 2; got 3"):
        swjko.sample(swjko.cells(jnp.asarray([0.0, 1.0, 2.0])), {}, key, 3)


def test_new_edges_do_not_compile_in(key):
    pushed = jax.jit(lambda family, key: family.push(family.init(key), family.latent(key, 2)))
    for edges in ([0.0, 1.0, 2.0], [0.0, 3.0, 4.0]):
        pushed(swjko.cells(jnp.asarray(edges)), key)
    assert pushed._cache_size() == 1
