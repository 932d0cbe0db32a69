"""Rows sorted as a whole and half by half, and the jackknife that reads them."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import swjko
from swjko.distances import halves
from swjko.distances.halves import sort_values_with_halves, sort_with_halves, unsort_with_halves
from swjko.distances.sliced import debiased_sliced_wasserstein_pow

# (rows, length, dtype): the network, with padding, in blocks of rows; then the partition, for odd
# lengths, few rows and doubles.
CASES = [
    (33, 48, "float32"),
    (1100, 1000, "float32"),
    (33, 47, "float32"),
    (5, 2, "float32"),
    (7, 33, "float64"),
]


def rows_with_ties(rows, length, dtype):
    values = np.random.default_rng(length).normal(size=(rows, length)).astype(dtype)
    values[1, : length // 3], values[2, -1] = 0.5, np.inf
    return values


@pytest.mark.slow_except_first
@pytest.mark.parametrize(("rows", "length", "dtype"), CASES)
def test_wholes_and_halves_are_sorted_as_by_numpy(rows, length, dtype):
    with jax.enable_x64(True):
        values, h = rows_with_ties(rows, length, dtype), length // 2
        parts = np.hstack([np.sort(values[:, :h]), np.sort(values[:, h : 2 * h])])
        found = jax.jit(sort_with_halves)(values)
        for one in (found, jax.jit(sort_values_with_halves)(values)):
            np.testing.assert_array_equal(one.ordered, np.sort(values))
            np.testing.assert_array_equal(one.parts, parts)
        stable = np.argsort(values, axis=1, kind="stable")
        np.testing.assert_array_equal(found.permutation, stable)
        # Each column gets 1000 times its rank in the whole, plus its rank in its half.
        whole = np.broadcast_to(np.arange(length) * 1000.0, values.shape).astype(dtype)
        within = np.broadcast_to(np.arange(2 * h) % h * 1.0, parts.shape).astype(dtype)
        expected = np.argsort(stable, axis=1) * 1000.0
        for first in (0, h):
            half = np.argsort(values[:, first : first + h], axis=1, kind="stable")
            expected[:, first : first + h] += np.argsort(half, axis=1)
        unsorted = jax.jit(unsort_with_halves)(whole, within, found)
        np.testing.assert_array_equal(unsorted, expected)


@pytest.mark.slow
def test_both_forms_agree():
    values = jnp.asarray(rows_with_ties(33, 48, "float32"))
    form = halves._sort_and_partition(values)
    np.testing.assert_array_equal(form.parts, sort_with_halves(values).parts)
    program = jax.jit(sort_with_halves).trace(values).lower(lowering_platforms=("cuda",))
    assert program.as_text().count("stablehlo.sort") == 1


@pytest.mark.slow
@pytest.mark.parametrize("length", [48, 47])
def test_tangents_follow_their_points(length):
    values, h = jnp.asarray(rows_with_ties(33, length, "float32")), length // 2
    tangent = jnp.asarray(np.random.default_rng(1).normal(size=values.shape), jnp.float32)
    order = np.argsort(values, axis=1, kind="stable")
    half = np.hstack(
        [
            first + np.argsort(values[:, first : first + h], axis=1, kind="stable")
            for first in (0, h)
        ]
    )
    for sort in (sort_with_halves, sort_values_with_halves):
        found = jax.jvp(lambda values, sort=sort: sort(values)[::2], (values,), (tangent,))[1]
        for part, at in zip(found, (order, half), strict=True):
            np.testing.assert_array_equal(part, np.take_along_axis(np.asarray(tangent), at, 1))


def jackknife(x, y, directions):
    """The combination of whole and halves in NumPy, with its gradients in x and y."""
    h = len(x) // 2
    value, gradients = 0.0, [np.zeros_like(x), np.zeros_like(y)]
    parts = [(slice(None), len(x)), (slice(0, h), -h / 2), (slice(h, 2 * h), -h / 2)]
    for rows, factor in parts:
        factor /= len(x) - h
        for theta in directions:
            u, v = x[rows] @ theta, y[rows] @ theta
            at_u, at_v = np.argsort(u, kind="stable"), np.argsort(v, kind="stable")
            apart = u[at_u] - v[at_v]
            scale = factor / len(directions)
            value += scale * np.mean(apart**2)
            for gradient, at, sign in ((gradients[0], at_u, 2), (gradients[1], at_v, -2)):
                gradient[np.arange(len(x))[rows][at]] += (
                    sign * scale / len(u) * apart[:, None] * theta
                )
    return value, gradients


@pytest.mark.parametrize(
    ("n", "num", "dtype", "tolerance"),
    [(48, 40, "float32", 1e-6), (47, 40, "float32", 1e-6), (10, 3, "float64", 1e-12)],
)
def test_the_jackknife_against_numpy(n, num, dtype, tolerance):
    with jax.enable_x64(True):
        rng = np.random.default_rng(n)
        x, y = rng.normal(size=(n, 3)), 1.3 * rng.normal(size=(n, 3)) + 0.2
        x, y = x.astype(dtype), y.astype(dtype)
        directions = swjko.uniform_directions(jax.random.key(0), num, 3).astype(dtype)
        arrays = [np.asarray(array, np.float64) for array in (x, y, directions)]
        value, gradients = jackknife(*arrays)
        function = jax.value_and_grad(debiased_sliced_wasserstein_pow, (0, 1, 2))
        found, (*of_points, of_directions) = jax.jit(function)(x, y, directions)
        np.testing.assert_allclose(found, value, rtol=tolerance)
        for one, expected in zip(of_points, gradients, strict=True):
            np.testing.assert_allclose(one, expected, atol=tolerance * np.abs(expected).max())
        if dtype == "float64":
            expected = helpers.central_difference(
                lambda flat: jackknife(arrays[0], arrays[1], flat.reshape(num, 3))[0],
                arrays[2].ravel(),
            )
            np.testing.assert_allclose(of_directions.ravel(), expected, atol=1e-7)


@pytest.mark.slow
def test_blocks_of_directions_and_flows_under_vmap_change_nothing(monkeypatch):
    keys = jax.random.split(jax.random.key(0), 3)
    x, y = jax.random.normal(keys[0], (2, 48, 3)), jax.random.normal(keys[1], (2, 48, 3))
    directions = swjko.uniform_directions(keys[2], 40, 3)
    function = jax.value_and_grad(debiased_sliced_wasserstein_pow)
    whole = [jax.jit(function)(x[i], y[i], directions) for i in range(2)]
    batched = jax.jit(jax.vmap(function, in_axes=(0, 0, None)))(x, y, directions)
    monkeypatch.setattr("swjko.distances.blocks.BLOCK_BUDGET_BYTES", 33 * 32 * 4 * 48)
    blocked = jax.jit(lambda *inputs: function(*inputs))(x[0], y[0], directions)
    for i in range(2):
        for one, many in zip(whole[i], batched, strict=True):
            np.testing.assert_allclose(many[i], one, rtol=1e-5, atol=1e-7)
    for one, other in zip(whole[0], blocked, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-7)


def test_one_point_has_no_halves_and_sizes_must_agree(as_users_see_it):
    directions = swjko.uniform_directions(jax.random.key(0), 4, 3)
    x, y = jnp.ones((1, 3)), jnp.zeros((1, 3))
    np.testing.assert_allclose(
        debiased_sliced_wasserstein_pow(x, y, directions),
        swjko.sliced_wasserstein_pow(x, y, directions),
    )
    with pytest.raises(ValueError, match=r"`y` must have as many points as x, 1; got 2"):
        debiased_sliced_wasserstein_pow(x, jnp.zeros((2, 3)), directions)
