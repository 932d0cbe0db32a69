"""Directions: on the sphere, uniform, and orthogonal where promised."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swjko import (
    orthogonal_directions,
    quasi_directions,
    recommended_directions,
    uniform_directions,
)

BOTH = pytest.mark.parametrize("draw", [uniform_directions, orthogonal_directions])
SIZES = [(1, 1), (5, 1), (1, 3), (7, 3), (12, 3), (64, 10)]


@pytest.mark.slow_except_first
@BOTH
@pytest.mark.parametrize(("num", "dim"), SIZES)
@pytest.mark.parametrize("x64", [False, True])
def test_unit_rows_of_the_default_dtype(draw, num, dim, x64):
    with jax.enable_x64(x64):
        directions = draw(jax.random.key(1), num, dim)
        assert directions.shape == (num, dim)
        assert directions.dtype == (jnp.float64 if x64 else jnp.float32)
        tolerance = 1e-14 if x64 else 1e-6
        np.testing.assert_allclose(
            np.linalg.norm(np.asarray(directions, np.float64), axis=1), 1.0, atol=tolerance
        )


@pytest.mark.parametrize(("num", "dim"), SIZES)
def test_blocks_are_orthonormal(num, dim):
    with jax.enable_x64(True):
        directions = np.asarray(orthogonal_directions(jax.random.key(2), num, dim))
    for start in range(0, num, dim):
        block = directions[start : start + dim]
        np.testing.assert_allclose(block @ block.T, np.eye(len(block)), atol=1e-13)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_second_moment_of_whole_blocks_is_exact(dim):
    with jax.enable_x64(True):
        directions = np.asarray(orthogonal_directions(jax.random.key(3), 4 * dim, dim))
    np.testing.assert_allclose(directions.T @ directions / (4 * dim), np.eye(dim) / dim, atol=1e-13)


def test_blocks_are_independent():
    # <theta, theta'>^2 of two independent uniform directions has the mean 1 / d.
    first, second = np.split(
        np.asarray(jax.vmap(lambda key: orthogonal_directions(key, 4, 2))(keys(4000)), np.float64),
        2,
        axis=1,
    )
    squares = np.einsum("kid,kjd->kij", first, second)[:, 0, 0] ** 2
    assert abs(squares.mean() - 0.5) < 4 * squares.std() / np.sqrt(4000)


@pytest.mark.parametrize("word", [0, 0xFFFFFFFF])
def test_the_outermost_points_have_finite_quantiles(monkeypatch, word):
    monkeypatch.setattr(jax.random, "bits", lambda key, shape, dtype: jnp.full(shape, word, dtype))
    assert np.all(np.isfinite(quasi_directions(jax.random.key(0), 1, 5)))


@pytest.mark.parametrize(
    ("dim", "draw"), [(1, quasi_directions), (3, quasi_directions), (4, orthogonal_directions)]
)
def test_recommended_by_dimension(dim, draw):
    np.testing.assert_array_equal(
        recommended_directions(jax.random.key(5), 8, dim), draw(jax.random.key(5), 8, dim)
    )


def keys(num, seed=4):
    return jax.random.split(jax.random.key(seed), num)


@BOTH
@pytest.mark.parametrize("place", [0, 2])
def test_each_direction_is_uniform_on_the_sphere(draw, place):
    """On S^2: E t = 0, E t_i t_j = I/3, E t_i^4 = 1/5, E t_i^2 t_j^2 = 1/15, E t_1 t_2 t_3 = 0."""
    repeats = 20_000
    t = np.asarray(jax.vmap(lambda key: draw(key, 3, 3)[place])(keys(repeats)), np.float64)
    samples = {
        "mean": (t, np.zeros(3)),
        "square": (t**2, np.full(3, 1 / 3)),
        "product": (t * np.roll(t, 1, axis=1), np.zeros(3)),
        "fourth": (t**4, np.full(3, 1 / 5)),
        "squares": (t**2 * np.roll(t, 1, axis=1) ** 2, np.full(3, 1 / 15)),
        "triple": (t.prod(axis=1, keepdims=True), np.zeros(1)),
    }
    for name, (values, expected) in samples.items():
        errors = np.abs(values.mean(axis=0) - expected) / (values.std(axis=0) / np.sqrt(repeats))
        assert np.all(errors < 4.5), name


@BOTH
def test_directions_on_the_line_are_signs(draw):
    directions = jax.jit(draw, static_argnums=(1, 2))(jax.random.key(0), 200, 1)
    np.testing.assert_array_equal(np.unique(directions), [-1.0, 1.0])


def test_one_dimension_has_both_signs_equally():
    signs = np.asarray(jax.vmap(lambda key: orthogonal_directions(key, 1, 1)[0, 0])(keys(4000)))
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4.5 / np.sqrt(4000)


@BOTH
def test_the_key_decides(draw):
    first, again, other = (np.asarray(draw(jax.random.key(seed), 6, 3)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.all(np.abs(first - other).max(axis=1) > 1e-3)


@BOTH
def test_jit_is_eager(draw):
    jitted = jax.jit(draw, static_argnums=(1, 2))(jax.random.key(7), 7, 3)
    np.testing.assert_allclose(jitted, draw(jax.random.key(7), 7, 3), atol=1e-6)


def test_factorisations_on_a_cpu_come_one_by_one():
    """A batch waits for its parts in worker threads; two batches on two cores never end."""

    def draw(key):
        return orthogonal_directions(key, 15, 5)

    for function, argument in ((draw, jax.random.key(0)), (jax.vmap(draw), keys(3))):
        lines = jax.jit(function).lower(argument).as_text().splitlines()
        calls = [line.split("} : ")[-1] for line in lines if "lapack_" in line]
        assert calls
        assert all(re.findall(r"tensor<([\dx]+)xf\d\d>", call)[0] == "5x5" for call in calls)
    np.testing.assert_array_equal(jax.vmap(draw)(keys(3)), [draw(key) for key in keys(3)])
