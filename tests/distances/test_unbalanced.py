"""Unbalanced sliced transport: convex programs, closed forms, limits, gradients, outliers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from helpers import central_difference, random_weights

import swjko
from swjko import sliced_unbalanced_ot, unbalanced_sliced_ot

BOTH = [sliced_unbalanced_ot, unbalanced_sliced_ot]


def case(n=4, m=3, num=2):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(m, 2)) + 0.7
    angles = rng.uniform(0.0, np.pi, num)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return x, y, directions, random_weights(rng, n), 1.3 * random_weights(rng, m)


@functools.partial(jax.jit, static_argnums=(0, 7))
def cost(function, x, y, directions, x_weights, y_weights, rho, num_iterations=20):
    return function(
        x,
        y,
        directions,
        rho=(rho[0], rho[1]),
        x_weights=x_weights,
        y_weights=y_weights,
        num_iterations=num_iterations,
        block_size=2,
    )


def by_convex_program(x, y, directions, a, b, rho, one_set_of_marginals):
    """The dual value: potentials below the costs on each line, by an interior point method."""
    n, m, count = len(a), len(b), len(directions)
    costs = [(np.subtract.outer(x @ theta, y @ theta)) ** 2 for theta in directions]
    if not one_set_of_marginals and count > 1:
        values = [
            by_convex_program(x, y, directions[i : i + 1], a, b, rho, True) for i in range(count)
        ]
        return np.mean(values)

    def negative(z):
        """Minus the dual value, and its gradient."""
        potentials = z.reshape(count, n + m).mean(axis=0)
        value, gradients = 0.0, []
        for weights, potential, r in sides(potentials):
            gained = potential if np.isinf(r) else -r * np.expm1(-potential / r)
            value -= np.sum(weights * gained)
            gradients.append(-weights * np.exp(-potential / r))
        return value, np.tile(np.concatenate(gradients) / count, count)

    def hessian(z):
        potentials = z.reshape(count, n + m).mean(axis=0)
        parts = [
            weights * np.exp(-potential / r) / r for weights, potential, r in sides(potentials)
        ]
        return np.tile(np.diag(np.concatenate(parts)) / count**2, (count, count))

    def sides(potentials):
        return (a, potentials[:n], rho[0]), (b, potentials[n:], rho[1])

    one = np.concatenate(
        [np.kron(np.eye(n), np.ones((m, 1))), np.kron(np.ones((n, 1)), np.eye(m))], axis=1
    )
    bound = np.concatenate([c.ravel() for c in costs])
    pairs = np.kron(np.eye(count), one)
    start = np.full(count * (n + m), -0.1)
    # The first comes near the end from anywhere, the second is exact near the end. Both values are
    # of potentials below the costs, so the larger one is nearer the supremum.
    inside = scipy.optimize.minimize(
        negative,
        start,
        jac=True,
        hess=hessian,
        constraints=scipy.optimize.LinearConstraint(pairs, -np.inf, bound),
        options={"gtol": 1e-12, "xtol": 1e-14, "barrier_tol": 1e-12, "maxiter": 3000},
        method="trust-constr",
    )
    at_end = scipy.optimize.minimize(
        negative,
        inside.x,
        jac=True,
        constraints={"type": "ineq", "fun": lambda z: bound - pairs @ z, "jac": lambda z: -pairs},
        options={"maxiter": 500, "ftol": 1e-14},
        method="SLSQP",
    )
    return -min(inside.fun, at_end.fun)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("function", BOTH)
def test_value_is_that_of_the_convex_program(function):
    with jax.enable_x64(True):
        arrays = case()
        for rho in ((1.0, 1.0), (0.5, 3.0), (np.inf, 1.0)):
            expected = by_convex_program(*arrays, rho, function is unbalanced_sliced_ot)
            values = [
                float(cost(function, *map(jnp.asarray, arrays), jnp.asarray(rho), number))
                for number in (1, 2, 3, 5, 8, 13, 20, 300)
            ]
            # A lower bound, which rises.
            assert np.all(np.diff(values) >= -1e-12)
            assert values[-1] <= expected * (1 + 1e-9)
            np.testing.assert_allclose(values[-2], expected, rtol=1e-3)
            np.testing.assert_allclose(values[-1], expected, rtol=1e-9)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("function", BOTH)
@pytest.mark.parametrize("rho", [(0.02, 0.02), (0.1, 0.1), (0.5, 3.0), (np.inf, 1.0)])
def test_values_rise_and_are_below_the_cost_of_any_plan(rho, function):
    """Small prices made steps too long, and values fell far below zero."""
    with jax.enable_x64(True):
        arrays = tuple(map(jnp.asarray, case(60, 50, 8)))
        values = [float(cost(function, *arrays, jnp.asarray(rho), n)) for n in (1, 3, 10, 40)]
        assert values[0] > 0
        assert np.all(np.diff(values) >= -1e-12)
        # Destroying and making all mass costs as much, if that is possible.
        none = sum(r * np.sum(weights) for r, weights in zip(rho, arrays[3:], strict=True))
        assert values[-1] < none


@pytest.mark.parametrize("function", BOTH)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_point_each_in_closed_form(function, dtype):
    """The plan has one mass M: the cost is rho (A + B) - 2 rho sqrt(A B) exp(-c / (2 rho))."""
    with jax.enable_x64(True):
        x, y, rho = np.array([[0.5, 0.0]]), np.array([[2.0, 0.0]]), 1.5
        inputs = x, y, np.array([[1.0, 0.0]]), np.array([0.7]), np.array([1.9])
        found = cost(function, *(jnp.asarray(array, dtype) for array in inputs), jnp.full(2, rho))
        expected = rho * 2.6 - 2 * rho * np.sqrt(0.7 * 1.9) * np.exp(-(1.5**2) / (2 * rho))
        np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == "float32" else 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("function", BOTH)
def test_large_prices_give_the_balanced_distance(function):
    x, y, directions, a, b = (jnp.asarray(array, jnp.float32) for array in case(6, 5, 3))
    b = b / jnp.sum(b)
    balanced = swjko.sliced_wasserstein_pow(x, y, directions, x_weights=a, y_weights=b)
    found = cost(function, x, y, directions, a, b, jnp.full(2, 1e6))
    np.testing.assert_allclose(found, balanced, rtol=1e-5)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("function", BOTH)
def test_gradients_are_differences_of_values(function):
    with jax.enable_x64(True):
        arrays = case()
        inputs = [*map(jnp.asarray, arrays), jnp.array([4.0, 6.0])]
        value = functools.partial(cost, function)
        gradients = jax.grad(value, argnums=(0, 1, 2, 3, 4, 5))(*inputs, 60)
        for index, gradient in enumerate(gradients):

            def of_one(entry, index=index):
                changed = [*inputs[:index], jnp.asarray(entry), *inputs[index + 1 :]]
                return value(*changed, 60)

            expected = central_difference(of_one, np.asarray(inputs[index]), 1e-5)
            np.testing.assert_allclose(gradient, expected, rtol=2e-3, atol=2e-4)
        tangents = [jnp.ones_like(array) for array in inputs]
        _, forward = jax.jvp(lambda *inputs: value(*inputs, 60), inputs, tangents)
        total = sum(float(jnp.sum(gradient)) for gradient in gradients)
        np.testing.assert_allclose(forward, total, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("function", BOTH)
def test_far_outliers_and_padding_leave_the_rest_alone(function):
    """In float32, and with points of zero weight anywhere."""
    x, y, directions, a, b = (jnp.asarray(array, jnp.float32) for array in case(6, 5, 3))
    b = b / jnp.sum(b)
    rho = jnp.ones(2, jnp.float32)
    far, none = jnp.full((1, 2), 3e3, jnp.float32), jnp.zeros(1, jnp.float32)
    alone = cost(function, x, y, directions, a, b, rho)
    padded = cost(
        function,
        jnp.concatenate([far, x]),
        jnp.concatenate([y, -far]),
        directions,
        jnp.concatenate([none, a]),
        jnp.concatenate([b, none]),
        rho,
    )
    np.testing.assert_allclose(padded, alone, rtol=1e-3)
    # A mass far away is left behind at the price rho for each unit.
    with_outlier = cost(
        function,
        x,
        jnp.concatenate([y, far]),
        directions,
        a,
        jnp.concatenate([b, none + 0.25]),
        rho,
    )
    np.testing.assert_allclose(with_outlier, alone + 0.25, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rho": 0.0}, "`rho` must be a positive"),
        ({"rho": -1.0}, r"got -1\.0"),
        ({"rho": (1.0, float("nan"))}, "positive"),
        ({"rho": float("inf")}, "sliced_wasserstein_pow"),
        ({"rho": (1.0, 2.0, 3.0)}, "shape"),
        ({"x_weights": np.zeros(4)}, "positive sum; got a total mass of 0"),
        ({"y_weights": np.array([1.0, np.nan, 1.0])}, "finite and nonnegative"),
        ({"y_weights": np.array([1.0, np.inf, 1.0])}, "finite and nonnegative"),
        ({"x_weights": np.ones(3)}, r"shape \(4,\)"),
        ({"y": np.zeros((3, 1))}, "same dimension"),
        ({"num_iterations": 0}, "at least 1"),
    ],
)
@pytest.mark.parametrize("function", BOTH)
def test_bad_inputs(function, changes, message, as_users_see_it):
    x, y, directions, _, _ = (jnp.asarray(array) for array in case())
    arguments = {"x": x, "y": y, "directions": directions, "rho": 1.0} | changes
    with pytest.raises(ValueError, match=message):
        function(**arguments)


def test_prices_that_are_no_numbers(as_users_see_it):
    with pytest.raises(TypeError, match="positive number or a pair"):
        sliced_unbalanced_ot(jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.ones((1, 1)), rho="one")


@pytest.mark.slow
def test_outliers_of_the_target_do_not_pull_an_unbalanced_flow():
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(36, 2))
    spoilt = np.concatenate([clean, 15.0 + rng.normal(size=(4, 2))])
    start = jnp.asarray(rng.normal(size=(24, 2)) - 2.0, float)

    @jax.jit
    def end(functional):
        def move(points, key):
            return points - 24.0 * jax.grad(lambda x: functional(key, swjko.Cloud(x)))(points), None

        keys = jax.random.split(jax.random.key(1), 40)
        return jnp.mean(jax.lax.scan(move, start, keys)[0], axis=0)

    def moved_by_outliers(**options):
        ends = [
            end(swjko.sw_to_target(jnp.asarray(target, float), 8, **options))
            for target in (clean, spoilt)
        ]
        return float(jnp.linalg.norm(ends[1] - ends[0])), ends[0]

    balanced, _ = moved_by_outliers()
    unbalanced, at = moved_by_outliers(unbalanced=9.0)
    assert balanced > 1.5
    assert unbalanced < balanced / 10
    np.testing.assert_allclose(at, clean.mean(axis=0), atol=0.5)


def test_price_of_an_unbalanced_target_is_checked(as_users_see_it):
    with pytest.raises(ValueError, match="`unbalanced` must be a positive"):
        swjko.sw_to_target(jnp.ones((3, 2)), 4, unbalanced=-1.0)
