"""Forward mode and second derivatives of the distances, against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_weights

import swjko


def inputs_and_tangents(n, m, weighted):
    rng = np.random.default_rng(n + m)
    shapes = [(n, 3), (m, 3)]
    points = [rng.normal(size=shape) for shape in shapes]
    weights = [random_weights(rng, size) for size in (n, m)] if weighted else []
    tangents = [rng.normal(size=shape) for shape in shapes]
    # Weights stay normalised along these.
    for weight in weights:
        noise = rng.normal(size=weight.shape)
        tangents.append(weight * (noise - weight @ noise))
    return tuple(map(jnp.asarray, points + weights)), tuple(map(jnp.asarray, tangents))


def difference_along(function, primals, tangents, step=1e-6):
    ends = [
        function(*(at + sign * step * move for at, move in zip(primals, tangents, strict=True)))
        for sign in (1.0, -1.0)
    ]
    return (np.asarray(ends[0]) - np.asarray(ends[1])) / (2 * step)


@pytest.mark.slow_except_first
@pytest.mark.parametrize(
    ("n", "m", "weighted", "p", "block_size"),
    [(6, 6, False, 2.0, None), (6, 4, False, 3.0, 2), (5, 4, True, 2.0, 2)],
)
def test_jvp_linearize_and_hessian_products(n, m, weighted, p, block_size):
    with jax.enable_x64(True):
        primals, tangents = inputs_and_tangents(n, m, weighted)
        directions = swjko.uniform_directions(jax.random.key(0), 5, 3)

        def power(x, y, x_weights=None, y_weights=None):
            return swjko.sliced_wasserstein_pow(
                x,
                y,
                directions,
                p=p,
                x_weights=x_weights,
                y_weights=y_weights,
                block_size=block_size,
            )

        value = jax.jit(power)
        expected = difference_along(value, primals, tangents)
        found, forward = jax.jit(lambda *inputs: jax.jvp(power, *inputs))(primals, tangents)
        np.testing.assert_allclose(found, value(*primals), rtol=1e-13)
        np.testing.assert_allclose(forward, expected, rtol=1e-7)
        linear = jax.jit(lambda primals, tangents: jax.linearize(power, *primals)[1](*tangents))
        np.testing.assert_allclose(linear(primals, tangents), forward, rtol=1e-12)

        # In x alone: the Hessian in the weights is a measure at ties of the levels.
        x, move, rest = primals[0], tangents[0], primals[1:]
        gradient = jax.jit(jax.grad(power))
        second = difference_along(lambda x: gradient(x, *rest), (x,), (move,))
        forward_over_reverse = jax.jit(
            lambda x, move: jax.jvp(lambda x: jax.grad(power)(x, *rest), (x,), (move,))[1]
        )
        reverse_over_forward = jax.jit(
            lambda x, move: jax.grad(
                lambda x: jax.jvp(lambda x: power(x, *rest), (x,), (move,))[1]
            )(x)
        )
        assert np.max(np.abs(second)) > 1e-2
        for product in (forward_over_reverse, reverse_over_forward):
            np.testing.assert_allclose(product(x, move), second, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_hessian_of_the_power_and_of_the_root():
    """For two points against one on the line, SW_2^2 is the mean square: Hessian I."""
    with jax.enable_x64(True):
        x, y, directions = jnp.array([[1.0], [3.0]]), jnp.array([[0.5]]), jnp.ones((1, 1))
        power = jax.hessian(swjko.sliced_wasserstein_pow)(x, y, directions)
        np.testing.assert_allclose(power.reshape(2, 2), np.eye(2), atol=1e-14)
        root = jax.hessian(swjko.sliced_wasserstein)(x, y, directions).reshape(2, 2)
        # f = |z| / sqrt 2 with z = (0.5, 2.5): (I - z z' / |z|^2) / (sqrt 2 |z|).
        z = np.array([0.5, 2.5])
        length = np.linalg.norm(z)
        expected = (np.eye(2) - np.outer(z, z) / length**2) / (np.sqrt(2) * length)
        np.testing.assert_allclose(root, expected, atol=1e-14)


def test_reverse_mode_holds_no_more_than_the_gradient():
    """Partial evaluation of the rule leaves the loop over blocks as it is."""
    x, y = jnp.ones((64, 3)), jnp.ones((64, 3))
    directions = swjko.uniform_directions(jax.random.key(0), 8, 3)

    def power(x):
        return swjko.sliced_wasserstein_pow(x, y, directions, block_size=2)

    _, pull_back = jax.vjp(power, x)
    held = [leaf.shape for leaf in jax.tree.leaves(pull_back) if leaf.ndim == 2]
    assert set(held) <= {x.shape}
    forward = jax.make_jaxpr(lambda x: jax.vjp(power, x)[0])(x)
    loops = [equation for equation in forward.eqns if equation.primitive.name == "cond"]
    assert loops == []
