"""1-D and sliced distances: POT, SciPy, finite differences, metric axioms, transformations."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
import scipy.optimize
import scipy.stats
from helpers import central_difference, constant_bytes, random_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import swjko
from swjko import sliced_wasserstein, sliced_wasserstein_pow, wasserstein_1d_pow

sw_pow = jax.jit(sliced_wasserstein_pow, static_argnames=("p", "block_size"))
sw = jax.jit(sliced_wasserstein, static_argnames=("p", "block_size"))

AXIOMS = settings(max_examples=200)
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def clouds(seed, n=7, m=5, d=3, num=6, dtype="float64"):
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(num, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    arrays = (
        rng.normal(size=(n, d)),
        rng.normal(size=(m, d)) + 0.5,
        directions,
        random_weights(rng, n),
        random_weights(rng, m),
    )
    return tuple(jnp.asarray(array, dtype) for array in arrays)


def by_pot(x, y, directions, x_weights, y_weights, p):
    """Mean over directions of POT's 1-D transport cost."""
    costs = [
        ot.wasserstein_1d(x @ theta, y @ theta, x_weights, y_weights, p=p) for theta in directions
    ]
    return float(np.mean(costs))


# --- exactness on the line


def line_case(seed, n, m, weighted, tied):
    rng = np.random.default_rng(seed)
    u, v = rng.normal(size=n), rng.normal(size=m) * rng.uniform(0.3, 3.0) + rng.normal()
    if tied:
        u, v = np.round(u), np.round(v)
    u_weights, v_weights = (
        (random_weights(rng, n), random_weights(rng, m))
        if weighted
        else (np.full(n, 1 / n), np.full(m, 1 / m))
    )
    if weighted and tied:
        # Equal levels of both sides: ties of the cumulative weights, and points without weight.
        u_weights, v_weights = (
            rng.multinomial(8, np.full(size, 1 / size)) / 8.0 for size in (n, m)
        )
    return u, v, u_weights, v_weights


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("sizes", "p"),
    [
        ((1, 1), 2.0),
        ((1, 9), 1.0),
        ((8, 8), 2.0),
        ((8, 8), 1.0),
        ((8, 12), 2.0),
        ((13, 5), 1.5),
        ((12, 8), 3.0),
    ],
)
def test_the_line_agrees_with_pot_and_scipy(dtype, weighted, sizes, p):
    with jax.enable_x64(True):
        cases = [line_case(case, *sizes, weighted, tied=case % 2 == 1) for case in range(20)]
        u, v, u_weights, v_weights = (
            np.asarray(arrays, dtype) for arrays in zip(*cases, strict=True)
        )

        @jax.jit
        @jax.vmap
        def cost(u, v, u_weights, v_weights):
            weights = {"u_weights": u_weights, "v_weights": v_weights} if weighted else {}
            return wasserstein_1d_pow(u, v, p=p, **weights)

        values = cost(u, v, u_weights, v_weights)
        assert values.dtype == jnp.dtype(dtype)
    for value, *case in zip(values, u, v, u_weights, v_weights, strict=True):
        u_one, v_one, u_weight, v_weight = (np.asarray(array, np.float64) for array in case)
        oracle = u_one, v_one, u_weight / u_weight.sum(), v_weight / v_weight.sum()
        # Positions are rounded relative to their range, which matters for costs near zero.
        scale = 1e-2 * np.ptp(np.concatenate([u_one, v_one])) ** p
        expected = float(ot.wasserstein_1d(*oracle, p=p))
        assert abs(float(value) - expected) <= TOLERANCE[dtype] * max(expected, scale)
        if p == 1.0:
            expected = scipy.stats.wasserstein_distance(*oracle)
            assert abs(float(value) - expected) <= TOLERANCE[dtype] * max(expected, scale)


@pytest.mark.parametrize("p", [1.0, 2.0, 2.5])
@pytest.mark.parametrize(("n", "m"), [(6, 6), (6, 4), (4, 6), (7, 5)])
def test_unequal_sizes_are_repetitions(n, m, p):
    # Repeating points of x m times and points of y n times makes the sizes equal.
    with jax.enable_x64(True):
        x, y, directions, *_ = clouds(0, n, m)
        repeated = np.sort(np.repeat(x, m, 0) @ directions.T, 0) - np.sort(
            np.repeat(y, n, 0) @ directions.T, 0
        )
        np.testing.assert_allclose(
            sw_pow(x, y, directions, p=p), np.mean(np.abs(repeated) ** p), rtol=1e-13
        )


@pytest.mark.slow_except_first
@pytest.mark.parametrize(
    ("p", "weighted"), [(2.0, "neither"), (2.0, "x"), (1.0, "y"), (3.0, "both")]
)
def test_sliced_is_the_mean_of_pot_over_directions(p, weighted):
    with jax.enable_x64(True):
        x, y, directions, x_weights, y_weights = clouds(1)
        x_weights = x_weights if weighted in ("x", "both") else None
        y_weights = y_weights if weighted in ("y", "both") else None
        arrays = [
            None if array is None else np.asarray(array)
            for array in (x, y, directions, x_weights, y_weights)
        ]
        expected = by_pot(*arrays, p)
        np.testing.assert_allclose(
            sw_pow(x, y, directions, p=p, x_weights=x_weights, y_weights=y_weights),
            expected,
            rtol=1e-12,
        )
        root = sw(x, y, directions, p=p, x_weights=x_weights, y_weights=y_weights)
        np.testing.assert_allclose(root, expected ** (1 / p), rtol=1e-12)


def test_translation_costs_its_square_over_the_dimension():
    # Exact with orthonormal directions: their second moment is I / d.
    with jax.enable_x64(True):
        x, *_ = clouds(2, d=3)
        shift = jnp.asarray([1.0, -2.0, 0.5])
        directions = swjko.orthogonal_directions(jax.random.key(0), 12, 3)
        np.testing.assert_allclose(
            sw_pow(x, x + shift[None, :], directions), float(shift @ shift) / 3, rtol=1e-12
        )


# --- metric axioms


def point_arrays(dtype, *shapes):
    elements = st.floats(-8, 8, width=32).map(lambda value: round(value, 2))
    return st.tuples(*(hnp.arrays(dtype, shape, elements=elements) for shape in shapes))


def drawn(data, dtype, *shapes):
    return [jnp.asarray(array) for array in data.draw(point_arrays(dtype, *shapes))]


@functools.cache
def fixed_directions(dtype, d=2, num=5):
    return clouds(3, d=d, num=num, dtype=dtype)[2]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
class TestAxioms:
    """Absolute tolerance: eps times the range of the points, or its root for a root."""

    @pytest.mark.slow_except_first
    @AXIOMS
    @given(data=st.data())
    def test_zero_on_itself_and_under_permutation(self, dtype, data):
        with jax.enable_x64(True):
            (x,) = drawn(data, dtype, (6, 2))
            order = np.asarray(data.draw(st.permutations(range(6))))
            directions = fixed_directions(dtype)
            assert float(sw_pow(x, x, directions)) == 0.0
            # Rows in another order give the same projections up to rounding of the product.
            assert float(sw(x, x[order], directions)) <= 16 * float(jnp.finfo(dtype).eps) * 16

    @pytest.mark.slow
    @AXIOMS
    @given(data=st.data())
    def test_symmetric(self, dtype, data):
        with jax.enable_x64(True):
            x, y = drawn(data, dtype, (6, 2), (4, 2))
            directions = fixed_directions(dtype)
            there, back = float(sw(x, y, directions)), float(sw(y, x, directions))
            assert there >= 0.0
            assert abs(there - back) <= TOLERANCE[dtype] * max(there, 1.0)

    @pytest.mark.slow_except_first
    @AXIOMS
    @given(data=st.data(), p=st.sampled_from([1.0, 2.0, 3.0]))
    def test_triangle(self, dtype, data, p):
        with jax.enable_x64(True):
            x, y, z = drawn(data, dtype, (6, 2), (4, 2), (6, 2))
            distance = functools.partial(sw, directions=fixed_directions(dtype), p=p)
            direct, around = float(distance(x, z)), float(distance(x, y)) + float(distance(y, z))
            assert direct <= around + TOLERANCE[dtype] * max(around, 1.0)

    @AXIOMS
    @given(data=st.data())
    def test_translation_of_both_changes_nothing(self, dtype, data):
        with jax.enable_x64(True):
            x, y, shift = drawn(data, dtype, (6, 2), (4, 2), (1, 2))
            directions = fixed_directions(dtype)
            before, after = float(sw(x, y, directions)), float(sw(x + shift, y + shift, directions))
            assert abs(before - after) <= TOLERANCE[dtype] * max(before, 1.0)

    @pytest.mark.slow_except_first
    @AXIOMS
    @given(
        data=st.data(), factor=st.floats(0.125, 8.0, width=32), p=st.sampled_from([1.0, 2.0, 3.0])
    )
    def test_homogeneous(self, dtype, data, factor, p):
        with jax.enable_x64(True):
            x, y = drawn(data, dtype, (6, 2), (4, 2))
            directions = fixed_directions(dtype)
            factor = jnp.asarray(factor, dtype)
            before, after = (
                float(factor) * float(sw(x, y, directions, p=p)),
                float(sw(factor * x, factor * y, directions, p=p)),
            )
            assert abs(before - after) <= TOLERANCE[dtype] * max(before, 1.0)


# --- gradients


def objective(x, y, directions, x_weights, y_weights, p):
    return sliced_wasserstein_pow(x, y, directions, p=p, x_weights=x_weights, y_weights=y_weights)


# One compilation for each shape in the module, since compilation takes most of the time.
value_and_gradients = jax.jit(
    jax.value_and_grad(objective, argnums=(0, 1, 2, 3, 4)), static_argnums=5
)
value_and_point_gradients = jax.jit(jax.value_and_grad(objective, argnums=(0, 1)), static_argnums=5)
all_gradients = jax.jit(jax.grad(objective, argnums=(0, 1, 2, 3, 4)), static_argnums=5)


@pytest.mark.parametrize(
    ("n", "m", "p"), [(5, 5, 2.0), (5, 5, 1.0), (5, 3, 1.5), (3, 5, 2.0), (5, 3, 3.0)]
)
def test_gradients_in_points_and_directions(n, m, p):
    with jax.enable_x64(True):
        x, y, directions, *_ = clouds(4, n, m)
        gradients = jax.jit(jax.grad(objective, argnums=(0, 1, 2)), static_argnums=5)(
            x, y, directions, None, None, p
        )
        # Directions off the sphere are refused when concrete; traced ones are just numbers.
        value = jax.jit(lambda *inputs: objective(*inputs, None, None, p))
        for index, gradient in enumerate(gradients):

            def of_one(entry, index=index):
                inputs = [x, y, directions]
                inputs[index] = jnp.asarray(entry)
                return value(*inputs)

            np.testing.assert_allclose(
                gradient,
                central_difference(of_one, (x, y, directions)[index]),
                atol=1e-6,
                rtol=1e-6,
            )


@pytest.mark.slow_except_first
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_gradients_with_weights(p):
    with jax.enable_x64(True):
        inputs = clouds(5)
        value = jax.jit(lambda *inputs: objective(*inputs, p))
        gradients = all_gradients(*inputs, p)
        for index, gradient in enumerate(gradients):

            def of_one(entry, index=index):
                changed = list(inputs)
                changed[index] = jnp.asarray(entry)
                return value(*changed)

            np.testing.assert_allclose(
                gradient, central_difference(of_one, inputs[index]), atol=1e-6, rtol=1e-6
            )


@pytest.mark.parametrize("wanted", [(0,), (3,), (1, 2, 4)])
def test_gradient_in_some_inputs_is_that_in_all(wanted):
    with jax.enable_x64(True):
        inputs = clouds(6)
        everything = all_gradients(*inputs, 2.0)
        some = jax.jit(jax.grad(objective, argnums=wanted), static_argnums=5)(*inputs, 2.0)
        chex.assert_trees_all_close(
            some, tuple(everything[index] for index in wanted), rtol=1e-12, atol=1e-14
        )


def one_sided(function, at, direction, step=1e-7):
    here = float(function(at))
    return (float(function(at + step * direction)) - here) / step, (
        here - float(function(at - step * direction))
    ) / step


# Ties of every kind: duplicates in a cloud, shared points, equal cumulative weights.
TIED = {
    "x": np.asarray([[0.0, 1.0], [0.0, 1.0], [2.0, -1.0], [1.0, 1.0]]),
    "y": np.asarray([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0], [3.0, 0.0]]),
    "x_weights": np.full((4,), 0.25),
    "y_weights": np.full((4,), 0.25),
}


@pytest.mark.slow_except_first
@pytest.mark.parametrize("p", [1.5, 2.0])
@pytest.mark.parametrize("which", ["x", "y", "x_weights", "y_weights"])
def test_at_ties_the_gradient_lies_between_the_one_sided_derivatives(p, which):
    # The cost is a minimum over couplings, smooth in the points and convex in the weights.
    with jax.enable_x64(True):
        directions = jnp.asarray([[1.0, 0.0], [0.6, 0.8]])

        @jax.jit
        def value(at):
            x, y, x_weights, y_weights = (
                jnp.asarray(array) for array in (TIED | {which: at}).values()
            )
            return objective(x, y, directions, x_weights, y_weights, p)

        at = jnp.asarray(TIED[which])
        gradient = np.asarray(jax.grad(value)(at))
        assert np.all(np.isfinite(gradient))
        rng = np.random.default_rng(0)
        kinks = 0
        for direction in [*np.eye(gradient.size), *rng.normal(size=(30, gradient.size))]:
            direction = direction.reshape(gradient.shape)
            right, left = one_sided(value, at, jnp.asarray(direction))
            lower, upper = (left, right) if which.endswith("weights") else (right, left)
            # For p < 2 the second derivative is unbounded: the slope changes by step^(p - 1).
            tolerance = 1e-5 if p >= 2 else 1e-2
            assert lower - tolerance <= np.sum(gradient * direction) <= upper + tolerance
            kinks += upper - lower > 10 * tolerance
        assert kinks > 0


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
def test_at_ties_of_order_one_the_gradient_is_a_mean_of_gradients_nearby(weighted):
    # |x| has kinks, so the minimum is not smooth: Clarke's subdifferential is the hull of nearby
    # gradients.
    with jax.enable_x64(True):
        u, v = np.asarray([0.0, 0.0, 2.0, 1.0]), np.asarray([0.0, 1.0, 1.0, 3.0])
        weights = (
            {"u_weights": jnp.full((4,), 0.25), "v_weights": jnp.full((4,), 0.25)}
            if weighted
            else {}
        )
        gradient = np.asarray(
            jax.grad(lambda u: wasserstein_1d_pow(u, jnp.asarray(v), p=1.0, **weights))(
                jnp.asarray(u)
            )
        )
        rng = np.random.default_rng(0)
        nearby = [
            central_difference(
                lambda u: ot.wasserstein_1d(u, v, p=1), u + 1e-3 * rng.normal(size=4), step=1e-9
            )
            for _ in range(200)
        ]
        hull = np.vstack([np.asarray(nearby).T, np.ones(200)])
        _, distance = scipy.optimize.nnls(hull, np.append(gradient, 1.0))
        assert distance < 1e-5


@pytest.mark.slow
def test_weight_gradient_at_equal_levels_is_not_zero():
    # W_2^2 of delta_0/2 + delta_1/2 and delta_0/2 + delta_3/2, as mass moves from 0 to 1.
    with jax.enable_x64(True):
        u, v, half = jnp.asarray([0.0, 1.0]), jnp.asarray([0.0, 3.0]), jnp.asarray([0.5, 0.5])

        def value(move):
            return wasserstein_1d_pow(
                u, v, u_weights=half + move * jnp.asarray([-1.0, 1.0]), v_weights=half
            )

        # Right of 0 the mass at 1 goes to 0 at cost 1; left of 0 it goes to 3 and not to 1:
        # 9 - 4.
        slope = float(jax.grad(value)(0.0))
        assert -5.0 <= slope <= 1.0
        right, left = one_sided(jax.jit(value), jnp.zeros(()), 1.0)
        np.testing.assert_allclose([left, right], [-5.0, 1.0], atol=1e-5)


@pytest.mark.slow_except_first
@pytest.mark.parametrize(
    ("n", "m", "weighted", "p"),
    [(5, 5, False, 2.0), (5, 3, False, 3.0), (5, 3, True, 2.0), (5, 5, True, 3.0)],
)
def test_second_derivatives(n, m, weighted, p):
    with jax.enable_x64(True):
        x, y, directions, x_weights, y_weights = clouds(7, n, m)
        weights = (x_weights, y_weights) if weighted else (None, None)
        gradient = jax.jit(jax.grad(lambda x: objective(x, y, directions, *weights, p)))
        probe = jnp.asarray(np.random.default_rng(0).normal(size=x.shape))
        second = jax.jit(jax.grad(lambda x: jnp.sum(gradient(x) * probe)))(x)
        expected = central_difference(lambda x: jnp.sum(gradient(jnp.asarray(x)) * probe), x)
        np.testing.assert_allclose(second, expected, atol=1e-6, rtol=1e-6)
        assert float(jnp.max(jnp.abs(second))) > 1e-2


def test_mixed_second_derivative():
    with jax.enable_x64(True):
        x, y, directions, *_ = clouds(8, 4, 4)
        gradient = jax.jit(jax.grad(lambda x, y: objective(x, y, directions, None, None, 2.0)))
        probe = jnp.asarray(np.random.default_rng(0).normal(size=x.shape))
        mixed = jax.jit(jax.grad(lambda y: jnp.sum(gradient(x, y) * probe)))(y)
        np.testing.assert_allclose(
            mixed,
            central_difference(lambda y: jnp.sum(gradient(x, jnp.asarray(y)) * probe), y),
            atol=1e-6,
        )


@pytest.mark.parametrize("which", [3, 4])
def test_mixed_second_derivative_in_points_and_weights(which):
    with jax.enable_x64(True):
        inputs = list(clouds(17, 4, 3, num=2))
        probe = jnp.asarray(np.random.default_rng(0).normal(size=inputs[0].shape))

        @jax.jit
        def slope(weights):
            changed = [*inputs[:which], weights, *inputs[which + 1 :]]
            return jnp.sum(jax.grad(objective)(*changed, 2.0) * probe)

        mixed = jax.jit(jax.grad(slope))(inputs[which])
        expected = central_difference(slope, inputs[which])
        np.testing.assert_allclose(mixed, expected, atol=1e-7)
        assert np.max(np.abs(expected)) > 1e-2


# --- precision, sizes, padding, blocks


def test_a_small_move_far_from_the_origin():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 2)) + 10.0
    x = np.asarray(x, np.float32)
    y = x + np.float32(1e-4)
    directions = swjko.orthogonal_directions(jax.random.key(0), 8, 2).astype(jnp.float32)
    with jax.enable_x64(True):
        # The float32 sum is itself rounded: the oracle takes the points as they are.
        exact = by_pot(
            *(np.asarray(array, np.float64) for array in (x, y, directions)), None, None, 2
        )
    for weights in (
        {},
        {"x_weights": jnp.full((256,), 1 / 256), "y_weights": jnp.full((256,), 1 / 256)},
    ):
        value = float(sw_pow(jnp.asarray(x), jnp.asarray(y), directions, **weights))
        assert abs(value / exact - 1.0) < 1e-2


def test_an_outlier_leaves_the_others_their_digits():
    u, v = jnp.asarray([0.0, 1.0, 1e8]), jnp.asarray([0.5, 1.5, 1e8])
    np.testing.assert_allclose(wasserstein_1d_pow(u, v), 1 / 6, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(wasserstein_1d_pow)(u, v), 1 / 6, rtol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e6])
@pytest.mark.parametrize("outlier", [None, 1e8, -1e8])
@pytest.mark.parametrize("weighted", [False, True])
def test_neither_offset_nor_outliers_take_digits(offset, outlier, weighted):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(101, 2)) + offset).astype(np.float32)
    y = (x + np.float32(0.5)).astype(np.float32)
    if outlier is not None:
        x[-1] = y[-1] = outlier
    weights = (jnp.full((101,), 1 / 101), jnp.full((101,), 1 / 101)) if weighted else (None, None)
    if weighted:
        # Padding near the origin; the clouds are not.
        x, y = (np.concatenate([points, np.zeros((20, 2), np.float32)]) for points in (x, y))
        weights = tuple(jnp.pad(weight, (0, 20)) for weight in weights)
    directions = np.asarray(clouds(3, d=2, num=5, dtype="float32")[2])
    value, (gradient, _) = value_and_point_gradients(
        *map(jnp.asarray, (x, y, directions)), *weights, 2.0
    )
    x, y, directions = (array.astype(np.float64) for array in (x[:101], y[:101], directions))
    np.testing.assert_allclose(value, by_pot(x, y, directions, None, None, 2), rtol=1e-6)
    # Every point moves by the same vector, whose projections are the same for all.
    expected = -2 / 101 * np.mean(directions * (directions @ [0.5, 0.5])[:, None], axis=0)
    bulk = np.asarray(gradient[:100])
    np.testing.assert_allclose(bulk.mean(axis=0), expected, rtol=2e-2)


def test_one_point_against_others_far_from_the_origin_inside_jit():
    u, v = jnp.asarray([1e6]), jnp.asarray([1e6, 1e6 + 1, 1e6 + 3])
    value, gradient = jax.jit(jax.value_and_grad(wasserstein_1d_pow))(u, v)
    np.testing.assert_allclose(value, 10 / 3, rtol=1e-6)
    np.testing.assert_allclose(gradient, [-8 / 3], rtol=1e-6)
    plane = [jnp.stack([points, points], axis=1) for points in (u, v)]
    directions = jnp.asarray([[0.6, 0.8], [-0.8, 0.6]])
    value, gradient = jax.jit(jax.value_and_grad(sliced_wasserstein_pow))(*plane, directions)
    np.testing.assert_allclose(value, 10 / 3 * (1.4**2 + 0.2**2) / 2, rtol=1e-6)
    np.testing.assert_allclose(gradient, np.full((1, 2), -4 / 3), rtol=1e-5)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("n", [1000, 100_000])
def test_many_weights_keep_their_digits(n):
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(2, n)).astype(np.float32)
    weights = [random_weights(rng, n).astype(np.float32) for _ in range(2)]
    exact = [
        np.asarray(weight, np.float64) / np.sum(weight, dtype=np.float64) for weight in weights
    ]
    expected = ot.wasserstein_1d(u.astype(np.float64), v.astype(np.float64), *exact, p=2)
    value = weighted_line(*map(jnp.asarray, (u, v, *weights)))[0]
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_equal_weights_are_no_weights():
    u, v = jnp.asarray(np.random.default_rng(1).normal(size=(2, 30_000)), jnp.float32)
    weights = jnp.full(u.shape, 1 / u.size)
    value, gradient = weighted_line(u, v, weights, weights)
    expected, expected_gradient = jax.jit(jax.value_and_grad(wasserstein_1d_pow))(u, v)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    largest = float(jnp.max(jnp.abs(expected_gradient)))
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6, atol=1e-6 * largest)


weighted_line = jax.jit(
    jax.value_and_grad(
        lambda u, v, u_weights, v_weights: wasserstein_1d_pow(
            u, v, u_weights=u_weights, v_weights=v_weights
        )
    )
)


def test_weights_of_nan_give_nan():
    u = jnp.asarray([0.0, 1.0])
    value, gradient = weighted_line(u, u, jnp.asarray([jnp.nan, 1.0]), jnp.asarray([0.5, 0.5]))
    assert np.isnan(value)
    assert np.all(np.isnan(gradient))


@pytest.mark.slow
def test_directions_on_the_line_are_exact_in_products():
    u, v = jnp.asarray([[1e6], [-3.0]]), jnp.asarray([[1e6 + 0.125], [-3.0]])
    off = jnp.asarray([[np.nextafter(np.float32(1), 2)], [np.nextafter(np.float32(-1), 0)]])
    np.testing.assert_allclose(sw_pow(u, v, off), 0.125**2 / 2, rtol=1e-6)
    slope = jax.grad(sliced_wasserstein_pow, argnums=2)(u + 1, u, jnp.asarray([[1.0], [-1.0]]))
    np.testing.assert_allclose(slope, [[1.0], [-1.0]], rtol=1e-6)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("kind", ["equal", "unequal", "weighted"])
def test_blocks_change_neither_value_nor_gradients(kind):
    with jax.enable_x64(True):
        x, y, directions, x_weights, y_weights = clouds(9, 5, 5 if kind == "equal" else 4, num=7)
        arrays = (
            (x, y, directions, x_weights, y_weights) if kind == "weighted" else (x, y, directions)
        )

        def value(size, x, y, directions, x_weights=None, y_weights=None):
            return sliced_wasserstein_pow(
                x, y, directions, x_weights=x_weights, y_weights=y_weights, block_size=size
            )

        blocked = jax.jit(
            jax.value_and_grad(value, tuple(range(1, len(arrays) + 1))), static_argnums=0
        )
        whole = blocked(7, *arrays)
        # Blocks of one, with a remainder, and larger than there are directions.
        for size in (1, 3, 100):
            chex.assert_trees_all_close(blocked(size, *arrays), whole, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(
            jax.jit(value, static_argnums=0)(3, *arrays), whole[0], rtol=1e-12
        )


@pytest.mark.slow
@pytest.mark.parametrize("padding", [0.0, 50.0, -1e12, np.nan, np.inf, -np.inf])
def test_zero_weights_are_padding(padding):
    with jax.enable_x64(True):
        x, y, directions, x_weights, y_weights = clouds(10)

        def padded(points, at):
            return jnp.insert(points, at, padding if points.ndim == 2 else 0.0, axis=0)

        where_x, where_y = jnp.asarray([0, 3, 7]), jnp.asarray([2, 5])
        value, gradients = value_and_gradients(x, y, directions, x_weights, y_weights, 2.0)
        padded_value, padded_gradients = value_and_gradients(
            padded(x, where_x),
            padded(y, where_y),
            directions,
            padded(x_weights, where_x),
            padded(y_weights, where_y),
            2.0,
        )
        np.testing.assert_allclose(padded_value, value, rtol=1e-12)
        added_x, added_y = where_x + jnp.arange(3), where_y + jnp.arange(2)
        kept_x, kept_y = (
            np.delete(np.arange(size), added) for size, added in ((10, added_x), (7, added_y))
        )
        rows = (kept_x, kept_y, slice(None), kept_x, kept_y)
        for gradient, padded_gradient, kept in zip(gradients, padded_gradients, rows, strict=True):
            # The potential of a far point is its squared distance; others lose digits beside it.
            if gradient.ndim == 2 or not 1e3 < abs(padding) < np.inf:
                np.testing.assert_allclose(padded_gradient[kept], gradient, rtol=1e-9, atol=1e-9)
        assert float(jnp.max(jnp.abs(padded_gradients[0][added_x]))) == 0.0
        assert float(jnp.max(jnp.abs(padded_gradients[1][added_y]))) == 0.0


@pytest.mark.parametrize("padding", [1e6, 1e12, 1e30, 3e38, np.nan, -np.inf])
@pytest.mark.parametrize("p", [1.0, 2.0])
def test_padding_leaves_float32_gradients_as_they_are(padding, p):
    x, y, directions, *_ = clouds(18, dtype="float32")
    x_weights = jnp.asarray([0.2, 0.3, 0.0, 0.1, 0.0, 0.3, 0.1])
    y_weights = jnp.asarray([0.25, 0.25, 0.0, 0.25, 0.25])
    weights = (x_weights, y_weights)
    expected, expected_gradients = value_and_gradients(x, y, directions, *weights, p)
    padded_x = x.at[2].set(padding).at[4, 0].set(-padding)
    padded_y = y.at[2].set(padding)
    value, gradients = value_and_gradients(padded_x, padded_y, directions, *weights, p)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    kept = (x_weights > 0, y_weights > 0, slice(None), x_weights > 0, y_weights > 0)
    for gradient, other, rows in zip(gradients, expected_gradients, kept, strict=True):
        assert np.all(np.isfinite(gradient))
        np.testing.assert_allclose(gradient[rows], other[rows], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_float32(dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(512, 3)), dtype)
    y = jnp.asarray(rng.normal(size=(512, 3)) + 0.1, dtype)
    directions = fixed_directions("float32", d=3)
    value, (gradient, _) = value_and_point_gradients(x, y, directions, None, None, 2.0)
    assert value.dtype == jnp.float32
    assert gradient.dtype == x.dtype
    expected = by_pot(
        *(np.asarray(array, np.float64) for array in (x, y, directions)), None, None, 2
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    _, (exact_gradient, _) = value_and_point_gradients(
        x.astype(jnp.float32), y.astype(jnp.float32), directions, None, None, 2.0
    )
    np.testing.assert_allclose(
        np.asarray(gradient, np.float32), exact_gradient, rtol=1e-2, atol=1e-6
    )


# --- edge cases


@pytest.mark.parametrize(("dtype", "weighted"), [("float32", False), ("float64", True)])
def test_single_points_and_single_dimension(dtype, weighted):
    with jax.enable_x64(True):
        one = (jnp.ones((1,), dtype),) * 2 if weighted else (None, None)
        x, y, directions = (
            jnp.asarray(array, dtype) for array in ([[3.0]], [[1.0]], [[1.0], [-1.0]])
        )
        value, (gradient, _) = value_and_point_gradients(x, y, directions, *one, 2.0)
        assert float(value) == 4.0
        np.testing.assert_array_equal(gradient, [[4.0]])


@pytest.mark.parametrize(("dtype", "m"), [("float32", 4), ("float64", 6)])
def test_all_points_equal(dtype, m):
    with jax.enable_x64(True):
        x, y = jnp.full((4, 2), 7.0, dtype), jnp.full((m, 2), 7.0, dtype)
        directions = fixed_directions(dtype)
        for p in (1.0, 1.5, 2.0):
            value, gradients = value_and_point_gradients(x, y, directions, None, None, p)
            assert float(value) == 0.0
            assert all(float(jnp.max(jnp.abs(gradient))) == 0.0 for gradient in gradients)
        assert float(sw(x, y, directions)) == 0.0


def test_extreme_magnitudes():
    with jax.enable_x64(True):
        direction = jnp.ones((1, 1))
        big = jnp.asarray([[1e30], [-1e30]])
        np.testing.assert_allclose(sw_pow(big, 3.0 * big, direction), 4e60, rtol=1e-12)
        # In float32 the square overflows to infinity, not to a wrong number. p = 1 does not.
        narrow = big.astype(jnp.float32)
        assert float(sw_pow(narrow, 3.0 * narrow, direction.astype(jnp.float32))) == np.inf
        np.testing.assert_allclose(
            sw_pow(narrow, 3.0 * narrow, direction.astype(jnp.float32), p=1.0), 2e30, rtol=1e-6
        )
        tiny = jnp.asarray([[1e-40], [-1e-40], [-0.0]], jnp.float32)
        zeros, narrow_direction = jnp.zeros((3, 1), jnp.float32), direction.astype(jnp.float32)
        value, (gradient, _) = value_and_point_gradients(
            tiny, zeros, narrow_direction, None, None, 2.0
        )
        assert float(value) == 0.0
        assert np.all(np.abs(np.asarray(gradient)) < 1e-39)


@pytest.mark.parametrize("p", [25.0, 100.0, 300.0, np.inf])
def test_the_root_of_any_order_is_representable(p):
    x, y = jnp.asarray([[1.0], [2.0], [3.0], [54.0]]), jnp.asarray([[1.0], [2.0], [3.0], [4.0]])
    value, gradient = jax.value_and_grad(sliced_wasserstein)(x, y, jnp.ones((1, 1)), p=p)
    expected = 50.0 * 0.25 ** (1 / p)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, 0], [0, 0, 0, expected / 50], rtol=1e-6, atol=1e-30)


ROOTS = ["equal", "unequal", "weighted"]
root_and_gradients = jax.jit(
    lambda p, size, x, y, directions, x_weights, y_weights: jax.value_and_grad(
        functools.partial(sliced_wasserstein, p=p, block_size=size), argnums=(0, 1, 2)
    )(x, y, directions, x_weights=x_weights, y_weights=y_weights),
    static_argnums=(0, 1),
)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize(("p", "size"), [(2.0, None), (3.0, 4)])
@pytest.mark.parametrize("kind", ROOTS)
def test_the_root_is_homogeneous_over_the_whole_range(scale, p, size, kind):
    x, y, directions, *weights = clouds(14, 6, 6 if kind == "equal" else 4, dtype="float32")
    weights = weights if kind == "weighted" else (None, None)
    # A power of two, so that the scaled clouds are the same up to it.
    scale = float(2.0 ** np.round(np.log2(scale)))
    value, gradients = root_and_gradients(p, size, x, y, directions, *weights)
    scaled, scaled_gradients = root_and_gradients(
        p, size, scale * x, scale * y, directions, *weights
    )
    np.testing.assert_allclose(scaled / scale, value, rtol=1e-6)
    for one, other, factor in zip(scaled_gradients, gradients, (1, 1, scale), strict=True):
        np.testing.assert_allclose(one / factor, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("kind", ROOTS)
@pytest.mark.parametrize("p", [1.0, 2.5, np.inf])
def test_gradients_of_the_root(kind, p):
    with jax.enable_x64(True):
        x, y, directions, *weights = clouds(15, 5, 5 if kind == "equal" else 3, num=5)
        weights = weights if kind == "weighted" else (None, None)
        _, gradients = root_and_gradients(p, 2, x, y, directions, *weights)

        for index, gradient in enumerate(gradients):

            def of_one(entry, index=index):
                inputs = [x, y, directions]
                inputs[index] = jnp.asarray(entry)
                return root_and_gradients(p, 2, *inputs, *weights)[0]

            expected = central_difference(of_one, (x, y, directions)[index])
            np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_root_of_a_translation_on_the_line(scale):
    x = jnp.asarray([[-1.0], [2.0], [5.0]]) * scale
    root = jax.value_and_grad(lambda y: sliced_wasserstein(x, y, jnp.ones((1, 1)), p=3.0))
    value, gradient = root(x + 0.5 * jnp.float32(scale))
    np.testing.assert_allclose(value / scale, 0.5, rtol=1e-5)
    np.testing.assert_allclose(gradient, np.full((3, 1), 1 / 3), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROOTS)
def test_infinite_order_is_the_limit_of_finite_ones(kind):
    with jax.enable_x64(True):
        x, y, directions, *weights = clouds(16, 6, 6 if kind == "equal" else 4)
        x_weights, y_weights = weights if kind == "weighted" else (None, None)
        infinite, large = (
            sliced_wasserstein(x, y, directions, p=p, x_weights=x_weights, y_weights=y_weights)
            for p in (np.inf, 4000.0)
        )
        np.testing.assert_allclose(large, infinite, rtol=2e-3)


def test_infinite_order_ignores_what_rounding_of_weights_couples():
    # 0.1 + 0.2 is not 0.3 in floating point; the difference must not couple 0 and 9.
    x, y = jnp.asarray([[0.0], [9.0]]), jnp.asarray([[0.5], [0.5], [9.5]])
    weights = {"x_weights": jnp.asarray([0.3, 0.7]), "y_weights": jnp.asarray([0.1, 0.2, 0.7])}
    assert float(sliced_wasserstein(x, y, jnp.ones((1, 1)), p=np.inf, **weights)) == 0.5


def test_infinite_order_is_refused_where_no_root_is_taken(as_users_see_it):
    x, one = jnp.ones((2, 1)), jnp.ones((1, 1))
    message = r"p must be at least 1 and finite; got inf\. Use swjko\.sliced_wasserstein"
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein_pow(x, x, one, p=np.inf)
    with pytest.raises(ValueError, match=message):
        wasserstein_1d_pow(x[:, 0], x[:, 0], p=np.inf)


@pytest.mark.parametrize("p", [2.0, np.inf])
def test_a_bad_point_inside_jit_gives_a_root_of_nan(p):
    x, y, directions, *_ = clouds(11, 6, 4, dtype="float32")
    value, gradients = root_and_gradients(
        p, None, x.at[2, 1].set(np.nan), y, directions, None, None
    )
    assert np.isnan(value)
    assert all(np.all(np.isnan(gradient)) for gradient in gradients[:2])


def test_negative_zero_is_zero():
    x, y = jnp.asarray([[-0.0], [0.0], [1.0]]), jnp.asarray([[0.0], [1.0], [-0.0]])
    value, (gradient, _) = value_and_point_gradients(x, y, jnp.ones((1, 1)), None, None, 2.0)
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((3, 1)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["equal", "unequal", "weighted"])
def test_a_bad_point_inside_jit_gives_nan_everywhere(bad, kind):
    x, y, directions, x_weights, y_weights = clouds(
        11, 6, 6 if kind == "equal" else 4, dtype="float32"
    )
    weights = (x_weights, y_weights) if kind == "weighted" else (None, None)
    for spoiled in ((x.at[2, 1].set(bad), y), (x, y.at[3, 0].set(bad))):
        value, gradients = value_and_point_gradients(*spoiled, directions, *weights, 2.0)
        assert not np.isfinite(value)
        assert np.isnan(value) or np.isinf(bad)
        assert all(np.all(np.isnan(gradient)) for gradient in gradients)


# --- JAX's transformations


def test_one_trace_for_a_hundred_calls():
    @jax.jit
    @chex.assert_max_traces(n=2)
    def step(x, y, directions):
        return jax.value_and_grad(sliced_wasserstein_pow)(x, y, directions)

    for seed in range(50):
        for n in (4, 6):
            step(*clouds(seed, n, dtype="float32")[:3])


@pytest.mark.parametrize("kind", ["equal", "unequal", "weighted"])
def test_no_constants_in_the_program(kind):
    x, y, directions, x_weights, y_weights = clouds(
        12, 512, 512 if kind == "equal" else 384, num=16, dtype="float32"
    )
    arrays = (x, y, directions, x_weights, y_weights) if kind == "weighted" else (x, y, directions)

    def value(x, y, directions, x_weights=None, y_weights=None):
        return sliced_wasserstein_pow(x, y, directions, x_weights=x_weights, y_weights=y_weights)

    for function in (value, jax.grad(value, argnums=tuple(range(len(arrays))))):
        assert max(constant_bytes(function, *arrays), default=0) <= 1024


def test_the_constant_finder_finds():
    held = jnp.asarray(np.arange(512.0))
    assert max(constant_bytes(jax.jit(lambda x: jnp.sum(x * held)), held)) >= 2048


@pytest.mark.slow_except_first
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("equal", "float32"),
        ("unequal", "float64"),
        ("weighted", "float32"),
        ("weighted", "float64"),
    ],
)
def test_vmap_is_a_loop(kind, dtype):
    with jax.enable_x64(True):
        batches = [clouds(seed, 6, 6 if kind == "equal" else 4, dtype=dtype) for seed in range(3)]
        count = 5 if kind == "weighted" else 3

        def value(x, y, directions, x_weights=None, y_weights=None):
            return sliced_wasserstein_pow(
                x, y, directions, x_weights=x_weights, y_weights=y_weights
            )

        function = jax.jit(jax.value_and_grad(value, argnums=tuple(range(count))))
        stacked = [jnp.stack(arrays) for arrays in zip(*batches, strict=True)][:count]
        batched = jax.jit(jax.vmap(function))(*stacked)
        looped = jax.tree.map(
            lambda *leaves: jnp.stack(leaves), *(function(*batch[:count]) for batch in batches)
        )
        chex.assert_trees_all_close(batched, looped, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.slow
def test_jit_is_eager():
    with jax.enable_x64(True):
        x, y, directions, x_weights, y_weights = clouds(13)
        weights = {"x_weights": x_weights, "y_weights": y_weights}
        np.testing.assert_allclose(
            sw_pow(x, y, directions, **weights),
            sliced_wasserstein_pow(x, y, directions, **weights),
            rtol=1e-13,
        )


# --- the Monte Carlo estimate


def test_the_estimate_is_unbiased_and_its_error_falls_as_the_root_of_the_number_of_directions():
    # A direction theta gives <a, theta>^2 for a translation by a: mean |a|^2 / d, variance
    # 2 (d-1) |a|^4 / (d^2 (d+2)).
    repeats, d = 400, 3
    a = np.asarray([1.0, 2.0, -1.0], np.float32)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, d)), jnp.float32)
    y = x + jnp.asarray(a)[None, :]
    square = float(a @ a)
    exact, spread = square / d, np.sqrt(2 * (d - 1) / (d * d * (d + 2))) * square
    counts, errors = (4, 16, 64), []
    for num in counts:

        @jax.jit
        @jax.vmap
        def estimate(key, num=num):
            return sliced_wasserstein_pow(
                x, y, swjko.uniform_directions(key, num, d).astype(jnp.float32)
            )

        estimates = np.asarray(estimate(jax.random.split(jax.random.key(num), repeats)), np.float64)
        assert abs(estimates.mean() - exact) < 4 * spread / np.sqrt(num * repeats)
        errors.append(np.sqrt(np.mean((estimates - exact) ** 2)))
        # A root mean square of 400 draws has a relative error of about 1/sqrt(800), or more for
        # heavy tails: 4 of these, doubled.
        assert abs(errors[-1] / (spread / np.sqrt(num)) - 1) < 0.2
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope + 0.5) < 0.05
