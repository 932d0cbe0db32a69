"""Circle and sphere: linear programs, finite differences, closed forms, flows, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from helpers import (
    assert_gradients_are_differences,
    central_difference,
    constant_bytes,
    random_weights,
)

import swjko
from swjko import spherical_sliced_wasserstein_pow, wasserstein_circle_pow


def by_linear_program(u, v, p, u_weights=None, v_weights=None):
    """W_p^p of the distance along the circle, by network simplex."""
    difference = np.abs(u[:, None] - v[None, :]) % 1.0
    cost = np.minimum(difference, 1.0 - difference) ** p
    masses = [
        np.full(len(points), 1 / len(points)) if weights is None else weights
        for points, weights in ((u, u_weights), (v, v_weights))
    ]
    return ot.emd2(*masses, cost)


@pytest.mark.parametrize("p", [1.0, 2.0, 2.5])
@pytest.mark.parametrize(
    ("n", "m", "weighted"), [(7, 7, False), (6, 4, False), (4, 9, True), (1, 5, False)]
)
def test_the_circle_agrees_with_a_linear_program(n, m, weighted, p):
    rng = np.random.default_rng(0)
    u, v = rng.uniform(-2, 2, (20, n)), rng.uniform(size=(20, m))
    # Ties within a cloud, between clouds, and of levels.
    u[10:], v[10:] = np.round(8 * u[10:]) / 8, np.round(8 * v[10:]) / 8
    weights = [np.stack([random_weights(rng, size) for _ in range(20)]) for size in (n, m)]
    weights[0][::2, 1:2], weights[1][::4, 1:] = 0.0, 0.0
    weights = [one / one.sum(1, keepdims=True) for one in weights]

    @jax.jit
    @jax.vmap
    def cost(u, v, u_weights, v_weights):
        given = {"u_weights": u_weights, "v_weights": v_weights} if weighted else {}
        return wasserstein_circle_pow(u, v, p=p, **given)

    with jax.enable_x64(True):
        values = cost(u, v, *weights)
    for value, *case in zip(values, u, v, *weights, strict=True):
        expected = by_linear_program(*case[:2], p, *(case[2:] if weighted else ()))
        np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_on_the_circle(weighted):
    rng = np.random.default_rng(1)
    inputs = [rng.uniform(size=6), rng.uniform(size=4)]
    inputs += [random_weights(rng, 6), random_weights(rng, 4)] if weighted else []

    def value(u, v, u_weights=None, v_weights=None):
        return wasserstein_circle_pow(u, v, p=1.5, u_weights=u_weights, v_weights=v_weights)

    with jax.enable_x64(True):
        inputs = [jnp.asarray(one) for one in inputs]
        gradients = jax.jit(jax.grad(value, argnums=tuple(range(len(inputs)))))(*inputs)
        compiled = jax.jit(value)
        assert_gradients_are_differences(compiled, inputs, gradients, rtol=1e-6, atol=1e-8)
        tangents = [jnp.asarray(rng.normal(size=one.shape)) for one in inputs]
        _, forward = jax.jvp(compiled, inputs, tangents)
        backward = sum(jnp.sum(g * t) for g, t in zip(gradients, tangents, strict=True))
        np.testing.assert_allclose(forward, backward, rtol=1e-10)


@pytest.mark.slow
def test_second_derivatives_on_the_circle():
    """They hold the cut and the coupling fixed; to the uniform law they are 2/n (I - 1/n)."""
    rng = np.random.default_rng(6)
    with jax.enable_x64(True):
        u, v = jnp.asarray(rng.uniform(size=5)), jnp.asarray(rng.uniform(size=4))

        def cost(u):
            return wasserstein_circle_pow(u, v, p=3.0)

        gradient = jax.jit(jax.grad(cost))
        columns = [(gradient(u + step) - gradient(u - step)) / 2e-6 for step in 1e-6 * np.eye(5)]
        hessian = jax.jit(jax.hessian(cost))(u)
        assert np.max(np.abs(columns)) > 0.1
        np.testing.assert_allclose(hessian, np.stack(columns), rtol=1e-6, atol=1e-8)
        to_uniform = jax.jit(jax.hessian(wasserstein_circle_pow))(u)
        np.testing.assert_allclose(to_uniform, 0.4 * (np.eye(5) - 0.2), atol=1e-14)


def test_a_rotation_of_a_small_arc_costs_its_square():
    u = jnp.asarray(np.random.default_rng(2).uniform(0.9, 1.1, size=64), jnp.float32)
    cost = jax.jit(wasserstein_circle_pow)
    for turn in (2.0**-10, 0.25, -0.25):
        np.testing.assert_allclose(cost(u, u + turn), turn**2, rtol=1e-3)
    # Positions in float32 resolve 2^-24 of a turn.
    assert float(cost(u, u + 1.0)) < 1e-12


def test_the_uniform_law_is_the_limit_of_its_grid():
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        u, weights = jnp.asarray(rng.uniform(size=5)), jnp.asarray(random_weights(rng, 5))
        grid = (np.arange(2000) + 0.5) / 2000
        exact = jax.jit(lambda u, given: wasserstein_circle_pow(u, u_weights=given))
        for given in (None, weights):
            near = by_linear_program(
                np.asarray(u), grid, 2.0, None if given is None else np.asarray(given)
            )
            np.testing.assert_allclose(exact(u, given), near, rtol=1e-4)
        # Each of n equally spaced points serves an arc of length 1/n.
        np.testing.assert_allclose(exact(jnp.asarray(grid), None), 1 / (12 * 2000**2), rtol=1e-8)


def sphere(seed, n, d):
    points = np.random.default_rng(seed).normal(size=(n, d))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.slow
def test_the_sphere_is_the_mean_over_its_great_circles():
    with jax.enable_x64(True):
        x, y = jnp.asarray(sphere(0, 9, 4)), jnp.asarray(sphere(1, 6, 4))
        planes = swjko.uniform_planes(jax.random.key(0), 5, 4)
        weights = jnp.asarray(random_weights(np.random.default_rng(2), 9))
        np.testing.assert_allclose(
            planes @ planes.swapaxes(1, 2), np.tile(np.eye(2), (5, 1, 1)), atol=1e-14
        )
        expected = []
        for first, second in np.asarray(planes):
            u, v = (np.arctan2(one @ second, one @ first) / (2 * np.pi) for one in (x, y))
            expected.append(by_linear_program(u, v, 2.0, np.asarray(weights), None))
        function = jax.jit(
            lambda x: spherical_sliced_wasserstein_pow(
                x, y, planes, x_weights=weights, block_size=2
            )
        )
        np.testing.assert_allclose(function(x), np.mean(expected), rtol=1e-12)
        gradient = jax.jit(jax.grad(function))(x)
        np.testing.assert_allclose(gradient, central_difference(function, x), rtol=1e-6, atol=1e-9)
        # Tangent: the projection does not depend on the norm.
        np.testing.assert_allclose(jnp.sum(gradient * x, axis=1), 0.0, atol=1e-15)


def test_an_axis_of_a_plane_has_a_finite_gradient():
    # The pole is as far from all points of the equator.
    x, planes = jnp.asarray([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), jnp.eye(3)[None, :2]
    y = jnp.asarray(sphere(1, 3, 3), x.dtype)
    gradient = jax.jit(jax.grad(spherical_sliced_wasserstein_pow))(x, y, planes)
    assert jnp.all(jnp.isfinite(gradient))


def test_particles_flow_to_the_uniform_law_by_retraction(key):
    start = jnp.asarray(sphere(0, 40, 3), float) + jnp.asarray([[0.0, 0.0, 2.0]])
    start = start / jnp.linalg.norm(start, axis=1, keepdims=True)

    def move(points, key):
        planes = swjko.uniform_planes(key, 20, 3)
        cost, gradient = jax.value_and_grad(spherical_sliced_wasserstein_pow)(points, None, planes)
        points = points - 4.0 * points.shape[0] * gradient
        return points / jnp.linalg.norm(points, axis=1, keepdims=True), cost

    points, costs = jax.jit(lambda: jax.lax.scan(move, start, jax.random.split(key, 80)))()
    assert float(costs[-1]) < 0.1 * float(costs[0])
    assert float(jnp.linalg.norm(jnp.mean(points, axis=0))) < 0.1


def test_programs_hold_no_data():
    x = jnp.asarray(sphere(0, 300, 3), jnp.float32)
    planes = swjko.uniform_planes(jax.random.key(0), 4, 3)
    weights = jnp.full((300,), 1 / 300)
    function = jax.grad(spherical_sliced_wasserstein_pow)

    def weighted(x, planes, weights):
        return function(x, x, planes, x_weights=weights)

    sizes = constant_bytes(function, x, x, planes) + constant_bytes(weighted, x, planes, weights)
    assert max(sizes, default=0) <= 1000


PLANES = np.eye(3)[None, :2]
BAD = {
    "off the sphere": (
        lambda: spherical_sliced_wasserstein_pow(2 * sphere(0, 4, 3), sphere(0, 4, 3), PLANES),
        "x must be unit vectors; got norms between 2 and 2. Divide each row",
    ),
    "off the sphere, y": (
        lambda: spherical_sliced_wasserstein_pow(sphere(0, 4, 3), np.zeros((2, 3)), PLANES),
        "y must be unit vectors",
    ),
    "a line": (
        lambda: spherical_sliced_wasserstein_pow(np.ones((4, 1)), np.ones((4, 1)), PLANES),
        "x must have at least two dimensions",
    ),
    "dimensions": (
        lambda: spherical_sliced_wasserstein_pow(sphere(0, 4, 3), sphere(0, 4, 2), PLANES),
        "same dimension",
    ),
    "duplicated directions": (
        lambda: spherical_sliced_wasserstein_pow(
            sphere(0, 4, 3), sphere(1, 4, 3), np.eye(3)[None, [0, 0]]
        ),
        "planes must be orthonormal pairs; got products that miss those by 1. Draw them",
    ),
    "directions for planes": (
        lambda: spherical_sliced_wasserstein_pow(sphere(0, 4, 3), sphere(1, 4, 3), np.eye(3)),
        r"planes must have shape \[l, 2, 3\]; got shape \(3, 3\)",
    ),
    "uniform law of order one": (
        lambda: spherical_sliced_wasserstein_pow(sphere(0, 4, 3), None, PLANES, p=1.0),
        "y must be given unless p = 2",
    ),
    "planes in one dimension": (
        lambda: swjko.uniform_planes(jax.random.key(0), 2, 1),
        "dim must be at least 2; got 1",
    ),
    "negative weights": (
        lambda: wasserstein_circle_pow(np.zeros(2), np.zeros(2), v_weights=np.array([-0.5, 1.5])),
        "v_weights must be finite and nonnegative",
    ),
    "order": (
        lambda: wasserstein_circle_pow(np.zeros(2), np.zeros(2), p=0.5),
        "p must be at least",
    ),
    "not finite": (
        lambda: wasserstein_circle_pow(np.array([np.nan]), np.zeros(2)),
        "u must be finite",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, as_users_see_it):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_one_point_is_a_cloud():
    x = jnp.asarray([[0.0, 1.0]])
    y = jnp.asarray([[1.0, 0.0]])
    np.testing.assert_allclose(
        jax.jit(spherical_sliced_wasserstein_pow)(x, y, jnp.eye(2)[None]), 1 / 16, rtol=1e-6
    )
