"""Projections and weights of slices: POT on projected points, convolutions by SciPy, bad input."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
import scipy.signal
from helpers import (
    assert_gradients_are_differences,
    central_difference,
    constant_bytes,
    random_weights,
)
from jax.tree_util import Partial

import swjko
from swjko import sliced_wasserstein, sliced_wasserstein_pow


def clouds(seed, n=7, m=5, d=3, num=6, dtype="float64"):
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(num, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    arrays = rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 0.5, directions
    weights = random_weights(rng, n), random_weights(rng, m), random_weights(rng, num)
    return tuple(jnp.asarray(array, dtype) for array in (*arrays, *weights))


def linear(points, directions):
    return jnp.matmul(directions, points.T, precision="highest")


def layer(matrix, points, directions):
    """A network of one hidden layer, with a last layer for each slice."""
    return linear(jnp.tanh(points @ matrix), directions)


def costs_by_pot(u, v, p, u_weights=None, v_weights=None):
    return np.asarray(
        [ot.wasserstein_1d(*rows, u_weights, v_weights, p=p) for rows in zip(u, v, strict=True)]
    )


@pytest.mark.parametrize(
    ("p", "weighted", "sizes", "block_size"),
    [(2.0, False, (7, 7), None), (1.0, False, (7, 5), 4), (2.5, True, (7, 5), 3)],
)
def test_a_projection_is_pot_of_projected_points(p, weighted, sizes, block_size):
    with jax.enable_x64(True):
        x, y, directions, x_weights, y_weights, slice_weights = clouds(0, *sizes)
        matrix = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)))
        u, v = (np.asarray(layer(matrix, points, directions)) for points in (x, y))
        of_points = (np.asarray(x_weights), np.asarray(y_weights)) if weighted else (None, None)
        costs = costs_by_pot(u, v, p, *of_points)
        options = {"p": p, "block_size": block_size, "projection": Partial(layer, matrix)}
        if weighted:
            options |= {"x_weights": x_weights, "y_weights": y_weights}
        value = jax.jit(lambda *given: sliced_wasserstein_pow(*given, **options))
        np.testing.assert_allclose(value(x, y, directions), costs.mean(), rtol=1e-12)
        options["projection_weights"] = slice_weights
        root = jax.jit(lambda *given: sliced_wasserstein(*given, **options))(x, y, directions)
        expected = (np.asarray(slice_weights) @ costs) ** (1 / p)
        np.testing.assert_allclose(root, expected, rtol=1e-12)


@pytest.mark.slow_except_first
@pytest.mark.parametrize(("sizes", "block_size"), [((6, 6), None), ((6, 4), 4)])
def test_gradients_in_everything(sizes, block_size):
    with jax.enable_x64(True):
        inputs = [*clouds(2, *sizes), jnp.asarray(np.random.default_rng(3).normal(size=(3, 3)))]

        def value(x, y, directions, x_weights, y_weights, slice_weights, matrix):
            return sliced_wasserstein_pow(
                *(x, y, directions),
                p=1.5,
                x_weights=x_weights,
                y_weights=y_weights,
                block_size=block_size,
                projection=Partial(layer, matrix),
                projection_weights=slice_weights,
            )

        gradients = jax.jit(jax.grad(value, argnums=tuple(range(7))))(*inputs)
        compiled = jax.jit(value)
        assert_gradients_are_differences(compiled, inputs, gradients, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "block_size"), [("float32", None), ("float64", 4)])
def test_scalar_products_and_equal_weights_are_the_plain_distance(dtype, block_size):
    with jax.enable_x64(dtype == "float64"):
        x, y, directions, x_weights, *_ = clouds(4, dtype=dtype)
        equal = jnp.full((6,), 1 / 6, dtype)

        def value(x, y, directions, x_weights, **options):
            return sliced_wasserstein(
                x, y, directions, x_weights=x_weights, block_size=block_size, **options
            )

        plain, hooked, weighted = (
            jax.jit(
                jax.value_and_grad(lambda *arrays, o=o: value(*arrays, **o), argnums=(0, 1, 2))
            )(x, y, directions, x_weights)
            for o in ({}, {"projection": linear}, {"projection_weights": equal})
        )
        assert hooked[0].dtype == jnp.dtype(dtype)
        tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
        chex.assert_trees_all_close(hooked, plain, rtol=tolerance, atol=tolerance)
        chex.assert_trees_all_close(weighted, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_one_weight_chooses_its_slice_and_duplicates_count_twice():
    with jax.enable_x64(True):
        x, y, directions, *_ = clouds(5)
        single = sliced_wasserstein_pow(x, y, directions[2:3])
        chosen = jnp.zeros(6).at[2].set(1.0)
        cost = jax.jit(lambda w: sliced_wasserstein_pow(x, y, directions, projection_weights=w))
        np.testing.assert_allclose(cost(chosen), single, rtol=1e-12)
        # At a vertex of the simplex: each cost less the chosen one, zeros included.
        costs = costs_by_pot(*(np.asarray(linear(one, directions)) for one in (x, y)), 2.0)
        np.testing.assert_allclose(jax.grad(cost)(chosen), costs - single, rtol=1e-10, atol=1e-12)
        doubled = sliced_wasserstein_pow(x, y, directions[jnp.array([0, 0, 1])])
        thirds = jnp.asarray([2 / 3, 1 / 3])
        np.testing.assert_allclose(
            sliced_wasserstein_pow(x, y, directions[:2], projection_weights=thirds),
            doubled,
            rtol=1e-12,
        )


@pytest.mark.slow
def test_transformations_of_a_projection():
    x, y, directions, *_ = clouds(6, dtype="float32")
    matrices = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 3)), jnp.float32)

    def value(matrix, x):
        return sliced_wasserstein_pow(x, y, directions, projection=Partial(layer, matrix))

    one = jax.value_and_grad(value)
    together = jax.jit(jax.vmap(one, in_axes=(0, None)))(matrices, x)
    alone = [jax.jit(one)(matrix, x) for matrix in matrices]
    chex.assert_trees_all_close(together, jax.tree.map(lambda *a: jnp.stack(a), *alone), rtol=1e-4)
    far = 1e25 * x, 1e25 * y
    root = jax.jit(lambda *far: sliced_wasserstein(*far, directions, projection=linear))(*far)
    plain = jax.jit(sliced_wasserstein)(*far, directions)
    np.testing.assert_allclose(root, plain, rtol=1e-5)


@pytest.mark.slow
def test_padding_is_ignored_and_programs_hold_no_data():
    x, y, directions, *_ = clouds(7, dtype="float32")
    padded = jnp.concatenate([x, jnp.full((2, 3), jnp.nan)])
    weights = jnp.append(jnp.full((7,), 1 / 7), jnp.zeros(2))

    def value(x, weights):
        return sliced_wasserstein_pow(x, y, directions, x_weights=weights, projection=linear)

    got, gradient = jax.jit(jax.value_and_grad(value))(padded, weights)
    expected, slope = jax.jit(jax.value_and_grad(lambda x: value(x, None)))(x)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient[:7], slope, rtol=1e-4, atol=1e-6)
    assert not np.any(gradient[7:])
    big, projection = jnp.ones((500, 3)), swjko.polynomial_projection(3, 8)
    slices = swjko.uniform_directions(jax.random.key(0), 4, 45)

    def held(x, projection, slices):
        return sliced_wasserstein_pow(x, 2 * x, slices, projection=projection)

    assert max(constant_bytes(jax.grad(held), big, projection, slices), default=0) <= 1000


@pytest.mark.slow
def test_polynomials_are_those_of_their_monomials():
    with jax.enable_x64(True):
        x, y, *_ = clouds(8, d=2)
        directions = jnp.asarray([[0.5, -0.5, 0.1, 0.7]])
        projection = swjko.polynomial_projection(2, 3)
        a, b = np.asarray(x).T
        expected = 0.5 * a**3 - 0.5 * a**2 * b + 0.1 * a * b**2 + 0.7 * b**3
        np.testing.assert_allclose(projection(x, directions)[0], expected, rtol=1e-12)
        value = sliced_wasserstein_pow(x, y, directions, projection=projection)
        u, v = (np.asarray(projection(points, directions)) for points in (x, y))
        np.testing.assert_allclose(value, costs_by_pot(u, v, 2)[0], rtol=1e-12)


@pytest.mark.slow
def test_stereographic_positions_keep_the_angle_to_the_south_pole():
    with jax.enable_x64(True):
        rng = np.random.default_rng(9)
        points = rng.normal(size=(6, 4))
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        image = swjko.stereographic_projection(jnp.asarray(points), jnp.eye(3)).T
        angles = np.arccos(-points[:, 3])
        np.testing.assert_allclose(np.linalg.norm(image, axis=1), angles, rtol=1e-12)
        # Along a meridian; the stereographic radius is 2 tan(angle / 2).
        flat = 2 * points[:, :3] / (1 - points[:, 3:])
        np.testing.assert_allclose(np.linalg.norm(flat, axis=1), 2 * np.tan(angles / 2), rtol=1e-12)
        np.testing.assert_allclose(
            image / angles[:, None], flat / (2 * np.tan(angles / 2))[:, None]
        )
        poles = jnp.asarray([[0.0, 0, 0, -1], [0.0, 0, 0, 1]])
        gradient = jax.grad(lambda p: jnp.sum(swjko.stereographic_projection(p, jnp.eye(3))))
        assert not np.any(swjko.stereographic_projection(poles, jnp.eye(3)))
        np.testing.assert_allclose(gradient(poles)[:, :3], 1.0)


def test_convolutional_directions_are_strided_convolutions(key):
    # 12 x 20 x 2: kernels 2 x 2 x 2, 2 x 2, and 3 x 5, recovered from the direction.
    with jax.enable_x64(True):
        direction = swjko.convolutional_directions(12, 20, 2)(key, 3, 480)[1]
        np.testing.assert_allclose(jnp.linalg.norm(direction), 1.0, rtol=1e-12)
        blocks = np.asarray(direction).reshape(3, 2, 2, 5, 2, 2, 2)
        kernels = []
        for axes, shape in (((1, 4), (2, 2)), ((2, 5, 6), (2, 2, 2))):
            moved = np.moveaxis(blocks, axes, range(len(axes))).reshape(np.prod(shape), -1)
            left, singular, _ = np.linalg.svd(moved, full_matrices=False)
            assert singular[1] < 1e-12
            kernels.append(left[:, 0].reshape(shape))
        image = np.random.default_rng(0).normal(size=(12, 20, 2))
        first = sum(
            scipy.signal.correlate2d(image[..., c], kernels[1][..., c], "valid") for c in range(2)
        )[::2, ::2]
        second = scipy.signal.correlate2d(first, kernels[0], "valid")[::2, ::2]
        last = np.einsum("iakjblc,ab,klc->ij", blocks, *kernels)
        third = np.sum(second * last)
        np.testing.assert_allclose(third, image.ravel() @ np.asarray(direction), rtol=1e-10)


@pytest.mark.slow
def test_convolutional_directions_have_the_second_moment_of_uniform_ones(key):
    direction_fn = swjko.convolutional_directions(4, 6)
    draws = jax.jit(direction_fn, static_argnums=(1, 2))(key, 20_000, 24)
    moment = np.asarray(draws.T @ draws) / len(draws)
    assert np.abs(moment - np.eye(24) / 24).max() < 6 * np.sqrt(4 / 24**2 / 20_000)
    functional = swjko.sw_to_target(jnp.zeros((5, 24)), 4, direction_fn=direction_fn)
    assert float(functional(key, swjko.Cloud(jnp.ones((3, 24))))) > 0


def test_a_functional_takes_a_projection(key):
    x, y, *_ = clouds(10, dtype="float32")
    projection = swjko.polynomial_projection(3, 3)
    functional = swjko.sw_to_target(
        y, 8, direction_fn=lambda key, num, dim: swjko.uniform_directions(key, num, 10),
        projection=projection,
    )  # fmt: skip
    directions = swjko.uniform_directions(jax.random.split(key)[0], 8, 10)
    u, v = (np.asarray(projection(points, directions)) for points in (x, y))
    value = jax.jit(lambda key: functional(key, swjko.Cloud(x)))(key)
    np.testing.assert_allclose(value, costs_by_pot(u, v, 2.0).mean() / 2, rtol=1e-5)


@pytest.mark.slow
def test_energy_based_weights_are_exponentials_of_costs():
    with jax.enable_x64(True):
        x, y, directions, *_ = clouds(11)
        costs = costs_by_pot(*(np.asarray(linear(one, directions)) for one in (x, y)), 2.0)
        expected = np.exp(costs / 0.3) / np.exp(costs / 0.3).sum()
        weights = swjko.energy_based_weights(x, y, directions, temperature=0.3)
        np.testing.assert_allclose(weights, expected, rtol=1e-10)

        @jax.jit
        def distance(x):
            weights = swjko.energy_based_weights(x, y, directions, temperature=0.3)
            return sliced_wasserstein_pow(x, y, directions, projection_weights=weights)

        np.testing.assert_allclose(distance(x), expected @ costs, rtol=1e-10)
        np.testing.assert_allclose(
            jax.jit(jax.grad(distance))(x), central_difference(distance, x), rtol=1e-6, atol=1e-8
        )


X = np.linspace(-1.0, 1.0, 12).reshape(6, 2)
THETA = np.eye(2)
BAD = {
    "columns for rows": (
        lambda: sliced_wasserstein_pow(X, X, THETA, projection=lambda x, t: x @ t.T),
        r"projection must return floats of shape \[directions, points\], here \(2, 6\); got",
    ),
    "integers": (
        lambda: sliced_wasserstein_pow(
            X, X, THETA, projection=lambda x, t: jnp.zeros((2, len(x)), int)
        ),
        "projection must return floats",
    ),
    "a pair": (
        lambda: sliced_wasserstein_pow(
            X, X, THETA, projection=lambda x, t: (linear(x, t), linear(x, t))
        ),
        "projection must return floats",
    ),
    "one row of directions": (
        lambda: sliced_wasserstein_pow(X, X, np.ones(2), projection=linear),
        r"directions must have one row for each slice, at least one; got shape \(2,\)",
    ),
    "negative weights": (
        lambda: sliced_wasserstein_pow(X, X, THETA, projection_weights=np.array([1.5, -0.5])),
        "projection_weights must be finite and nonnegative; got a smallest weight of -0.5",
    ),
    "number of weights": (
        lambda: sliced_wasserstein(X, X, THETA, projection_weights=np.full(3, 1 / 3)),
        r"projection_weights must have one weight for each slice, shape \(2,\); got shape \(3,\)",
    ),
    "sum of weights": (
        lambda: sliced_wasserstein(X, X, THETA, projection_weights=np.ones(2)),
        "projection_weights must sum to one; got a sum of 2",
    ),
    "infinite order": (
        lambda: sliced_wasserstein(X, X, THETA, p=np.inf, projection=linear),
        "p must be finite with projection",
    ),
    "monomials": (
        lambda: sliced_wasserstein_pow(
            X, X, THETA, projection=swjko.polynomial_projection(2, 2)
        ),
        "directions must have one column for each of 3 monomials; got shape",
    ),
    "image": (
        lambda: swjko.convolutional_directions(4, 4, 3)(jax.random.key(0), 2, 16),
        "points must be images of 4 x 4 x 3 = 48 numbers",
    ),
    "stereographic directions": (
        lambda: swjko.stereographic_projection(THETA, THETA),
        r"directions must have shape \[l, 1\] for points in 2D",
    ),
    "off the sphere": (
        lambda: sliced_wasserstein_pow(
            X, X, np.ones((1, 1)), projection=swjko.stereographic_projection
        ),
        "points must be unit vectors",
    ),
    "control variate": (
        lambda: swjko.sliced_wasserstein_estimate(
            jax.random.key(0), X, X, 16, control_variate=True, projection=linear
        ),
        "control_variate needs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, as_users_see_it):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_projection_must_be_a_function(as_users_see_it):
    with pytest.raises(TypeError, match="projection must be a function"):
        sliced_wasserstein_pow(X, X, THETA, projection=3)


@pytest.mark.slow
def test_an_estimate_takes_a_projection(key):
    x, y, *_ = clouds(12, dtype="float32")
    estimate, plain = (
        jax.jit(lambda key, given=given: swjko.sliced_wasserstein_estimate(key, x, y, 16, **given))(
            key
        )
        for given in ({"projection": linear}, {})
    )
    chex.assert_trees_all_close(estimate, plain, rtol=1e-5)
    single = sliced_wasserstein_pow(x[:1], y, jnp.eye(3), projection=linear)
    costs = costs_by_pot(np.asarray(x[:1].T), np.asarray(y.T), 2.0)
    np.testing.assert_allclose(single, costs.mean(), rtol=1e-5)
