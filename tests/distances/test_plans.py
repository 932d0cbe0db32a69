"""Displacements, plans and potentials against POT, brute force and linear programming."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
import scipy.optimize
import scipy.special

import swjko
from swjko.distances import sliced_plans


def line_problem(seed, n, m, ties=False):
    rng = np.random.default_rng(seed)
    u, v = rng.normal(size=n), rng.normal(size=m) + 0.5
    if ties:
        u, v = np.round(u), np.round(v)
    a, b = rng.uniform(0.1, 1.0, n), rng.uniform(0.1, 1.0, m)
    return u, v, a / a.sum(), b / b.sum()


@pytest.mark.slow
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n", "m"), [(5, 5), (6, 9), (1, 4)])
def test_plan_has_the_marginals_and_the_cost(n, m, ties):
    with jax.enable_x64(True):
        u, v, a, b = line_problem(n + m, n, m, ties)
        plan = swjko.wasserstein_1d_plan(
            jnp.asarray(u), jnp.asarray(v), u_weights=jnp.asarray(a), v_weights=jnp.asarray(b)
        )
        dense = np.zeros((n, m))
        np.add.at(
            dense, (np.asarray(plan.u_index), np.asarray(plan.v_index)), np.asarray(plan.mass)
        )
        np.testing.assert_allclose(dense.sum(axis=1), a, atol=1e-14)
        np.testing.assert_allclose(dense.sum(axis=0), b, atol=1e-14)
        assert np.all(dense >= 0)
        for p in (1.0, 2.0, 3.5):
            cost = np.sum(dense * np.abs(u[:, None] - v[None, :]) ** p)
            np.testing.assert_allclose(cost, ot.wasserstein_1d(u, v, a, b, p=p), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_potentials_are_dual_optimal(p, ties):
    with jax.enable_x64(True):
        u, v, a, b = line_problem(3, 7, 5, ties)
        potentials = swjko.wasserstein_1d_potentials(
            jnp.asarray(u), jnp.asarray(v), p=p, u_weights=jnp.asarray(a), v_weights=jnp.asarray(b)
        )
        cost = np.abs(u[:, None] - v[None, :]) ** p
        assert np.max(potentials.u[:, None] + potentials.v[None, :] - cost) < 1e-12
        program = scipy.optimize.linprog(
            -np.concatenate([a, b]),
            A_ub=np.concatenate(
                [np.kron(np.eye(7), np.ones((5, 1))), np.kron(np.ones((7, 1)), np.eye(5))], axis=1
            ),
            b_ub=cost.ravel(),
            bounds=(None, None),
        )
        np.testing.assert_allclose(a @ potentials.u + b @ potentials.v, -program.fun, rtol=1e-9)
        np.testing.assert_allclose(a @ potentials.u, 0.0, atol=1e-12)


def test_potentials_of_points_without_weight_are_feasible():
    with jax.enable_x64(True):
        potentials = jax.jit(swjko.wasserstein_1d_potentials)
        for seed in range(60):
            rng = np.random.default_rng(seed)
            u, v = np.round(rng.normal(size=7), seed % 2), np.round(rng.normal(size=6), seed % 2)
            a, b = (rng.multinomial(6, np.full(size, 1 / size)) / 6 for size in (7, 6))
            inputs = map(jnp.asarray, (u, v))
            found = potentials(*inputs, u_weights=jnp.asarray(a), v_weights=jnp.asarray(b))
            cost = np.abs(u[:, None] - v[None, :]) ** 2
            assert np.max(found.u[:, None] + found.v[None, :] - cost) < 1e-12
            value = ot.wasserstein_1d(u, v, a, b, p=2)
            np.testing.assert_allclose(a @ found.u + b @ found.v, value, atol=1e-12)


@pytest.mark.slow
def test_displacement_in_one_dimension_is_the_monotone_map():
    x, y = np.array([[0.0], [3.0], [1.0]]), np.array([[5.0], [4.0], [7.0]])
    moved = swjko.sliced_displacement(
        jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), jnp.ones((1, 1))
    )
    np.testing.assert_allclose(moved[:, 0], [4.0, 4.0, 4.0], rtol=1e-6)


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**66, 2.0**100])
def test_displacement_scales_with_the_clouds(scale, key):
    x, y = jax.random.normal(key, (5, 2)), jax.random.normal(key, (4, 2)) + 1.0
    displacement = jax.jit(swjko.sliced_displacement)
    directions = swjko.uniform_directions(key, 3, 2)
    np.testing.assert_allclose(
        displacement(scale * x, scale * y, directions) / scale,
        displacement(x, y, directions),
        rtol=1e-6,
        atol=1e-7,
    )


def test_displacement_against_brute_force(key):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 3)) + 1.0
    directions = np.asarray(swjko.uniform_directions(key, 6, 3), np.float64)
    reference = np.zeros_like(x)
    for theta in directions:
        source, target = x @ theta, np.sort(y @ theta)
        reference += (
            (target[np.argsort(np.argsort(source))] - source)[:, None]
            * theta[None, :]
            / len(directions)
        )
    as_float32 = [jnp.asarray(array, jnp.float32) for array in (x, y, directions)]
    np.testing.assert_allclose(swjko.sliced_displacement(*as_float32), reference, atol=2e-6)


@pytest.mark.slow
def test_displacement_with_weights_is_barycentric_and_leaves_padding_alone(key):
    x, y = (
        jax.random.normal(key, (5, 2)),
        jax.random.normal(jax.random.fold_in(key, 1), (10, 2)) + 2.0,
    )
    directions = swjko.uniform_directions(key, 7, 2)
    displacement = jax.jit(swjko.sliced_displacement)
    plain = displacement(x, y, directions)
    padded = displacement(
        jnp.concatenate([x, jnp.full((2, 2), 50.0)]),
        y,
        directions,
        x_weights=jnp.array([0.2] * 5 + [0.0] * 2, x.dtype),
    )
    np.testing.assert_allclose(padded[:5], plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(padded[5:], 0.0)
    # The mean displacement over directions is the shift of the means projected on them.
    mean = np.mean(
        np.asarray(directions)
        * (np.asarray(directions) @ np.asarray(y.mean(0) - x.mean(0)))[:, None],
        axis=0,
    )
    np.testing.assert_allclose(plain.mean(axis=0), mean, rtol=1e-4, atol=1e-5)


@pytest.mark.slow_except_first
@pytest.mark.parametrize(("n", "m", "weighted"), [(6, 6, False), (6, 4, False), (5, 6, True)])
def test_sliced_plans_against_pot(n, m, weighted):
    with jax.enable_x64(True):
        rng = np.random.default_rng(n + m)
        x, y = rng.normal(size=(n, 3)), rng.normal(size=(m, 3)) + 0.5
        weights = [rng.uniform(0.1, 1.0, size) for size in (n, m)] if weighted else []
        weights = [weight / weight.sum() for weight in weights]
        directions = np.array(swjko.uniform_directions(jax.random.key(1), 7, 3))
        named = dict(zip(("x_weights", "y_weights"), map(jnp.asarray, weights), strict=False))

        def dense(plan):
            return np.asarray(jnp.zeros((n, m)).at[plan.x_index, plan.y_index].add(plan.mass))

        arrays = [jnp.asarray(array) for array in (x, y, directions)]
        best = jax.jit(swjko.best_sliced_plan)(*arrays, **named)
        of_lines = [ot.emd_1d(x @ theta, y @ theta, *weights) for theta in directions]
        squares = ot.dist(x, y)
        costs = np.array([np.sum(plan * squares) for plan in of_lines])
        np.testing.assert_allclose(dense(best), of_lines[np.argmin(costs)], atol=1e-12)
        np.testing.assert_allclose(best.cost, costs.min(), rtol=1e-10)
        for beta in (0.0, 2.0):
            mean = jax.jit(swjko.expected_sliced_plan)(*arrays, inverse_temperature=beta, **named)
            shares = scipy.special.softmax(-beta * costs)
            expected = np.tensordot(shares, of_lines, axes=1)
            np.testing.assert_allclose(dense(mean), expected, atol=1e-12)
            np.testing.assert_allclose(mean.cost, shares @ costs, rtol=1e-10)


@pytest.mark.slow
def test_sliced_plans_of_batches_and_their_size(key):
    x, y = jax.random.normal(key, (3, 8, 4)), jax.random.normal(jax.random.key(1), (3, 8, 4))
    directions = swjko.uniform_directions(key, 5, 4)
    batched = jax.vmap(swjko.best_sliced_plan, in_axes=(0, 0, None))(x, y, directions)
    assert batched.y_index.shape == (3, 8)
    for index in range(3):
        one = swjko.best_sliced_plan(x[index], y[index], directions)
        np.testing.assert_array_equal(batched.y_index[index], one.y_index)
        pairs = jnp.sum((x[index] - y[index][one.y_index]) ** 2) / 8
        np.testing.assert_allclose(one.cost, pairs, rtol=1e-5)


def test_cost_of_the_best_plan_in_blocks_and_its_gradient(monkeypatch):
    """Blocks that do not divide the pieces, coinciding points, and no derivative of the choice."""
    monkeypatch.setattr(sliced_plans, "_COST_ELEMENTS", 5 * 3 * 4)
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, y = jnp.asarray(rng.normal(size=(7, 3))), jnp.asarray(rng.normal(size=(7, 3)))
        y = y.at[2].set(x[2])
        directions = swjko.uniform_directions(jax.random.key(1), 5, 3)
        for p in (2.0, 3.0):

            @jax.jit
            @functools.partial(jax.value_and_grad, has_aux=True)
            def cost(x, p=p):
                plan = swjko.best_sliced_plan(x, y, directions, p=p)
                return plan.cost, plan.y_index

            (value, partners), gradient = cost(x)
            difference = x - y[partners]
            lengths = np.linalg.norm(difference, axis=1)
            np.testing.assert_allclose(value, np.mean(lengths**p), rtol=1e-12)
            expected = p / 7 * difference * lengths[:, None] ** (p - 2)
            np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(cost(y)[1], 0.0)


def test_equal_shares_of_directions_need_no_costs(key):
    x, directions = jnp.ones((4, 2)), swjko.uniform_directions(key, 3, 2)

    def pairs(x, **options):
        return swjko.expected_sliced_plan(x, x, directions, **options)[:3]

    def weighs_costs(**options):
        text = jax.jit(functools.partial(pairs, **options)).lower(x).compile().as_text()
        return " exponential(" in text

    assert not weighs_costs()
    assert weighs_costs(inverse_temperature=1.0)


@pytest.mark.slow
def test_sliced_plans_of_bad_inputs(key, as_users_see_it):
    x, y, directions = jnp.ones((3, 2)), jnp.ones((4, 2)), jnp.eye(2)
    with pytest.raises(ValueError, match="same dimension"):
        swjko.best_sliced_plan(x, y[:, :1], directions)
    with pytest.raises(ValueError, match="sum to one"):
        swjko.best_sliced_plan(x, y, directions, x_weights=jnp.zeros(3))
    with pytest.raises(ValueError, match="inverse_temperature must be at least 0"):
        swjko.expected_sliced_plan(x, y, directions, inverse_temperature=-1.0)
    one = swjko.best_sliced_plan(x[:1], y, directions)
    np.testing.assert_allclose(one.cost, 0.0, atol=1e-6)
