"""What several test modules share: tables of families and functionals, finite differences, constants of a program."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import swjko
from swjko import flows

# Constructors and not values: a family is made under the dtype that its test runs in.
FAMILIES: dict[str, Callable[[], swjko.Family]] = {
    "particles": lambda: swjko.particles(jnp.linspace(-1.0, 1.0, 24).reshape(12, 2)),
    "grid": lambda: swjko.grid(jnp.stack(jnp.meshgrid(jnp.arange(4.0), jnp.arange(3.0)), -1).reshape(12, 2), 1.0),
    "gaussian": lambda: swjko.gaussian(2, init_mean=0.5, init_scale=1.5),
    "gaussian_mixture": lambda: swjko.gaussian_mixture(2, 3, init_mean=0.5, init_scale=1.5),
    "coupling": lambda: flows.coupling(2, num_layers=2, width=8, init_mean=0.5, init_scale=1.5),
    "coupling with LU": lambda: flows.coupling(2, num_layers=3, width=8, mixing="lu", init_mean=0.5, init_scale=1.5),
    "spline": lambda: flows.spline(2, num_layers=2, width=8, init_mean=0.5, init_scale=1.5),
    # As many steps as the laws of densities need to hold to 1e-9.
    "cnf": lambda: flows.cnf(2, width=8, num_layers=1, num_integration_steps=128, init_mean=0.5, init_scale=1.5),
    "icnn": lambda: flows.icnn(2, width=8, rank=2, init_mean=0.5, init_scale=1.5),
    "mlp": lambda: flows.mlp(2, 2, width=8, init_mean=0.5, init_scale=1.5),
    "generator": lambda: flows.mlp(3, 2, width=8),
}

FUNCTIONALS: dict[str, Callable[[], swjko.Functional]] = {
    "potential": lambda: swjko.potential(lambda x: jnp.sum(x**2) / 2),
    "interaction": lambda: swjko.interaction(lambda x: jnp.sum(x**2) ** 2 / 4 - jnp.sum(x**2) / 2),
    "internal_energy": lambda: swjko.internal_energy(lambda r: r**2),
    "negative_entropy": swjko.negative_entropy,
    "kl_divergence": lambda: swjko.kl_divergence(lambda x: -jnp.sum(x**2) / 2),
    "sw_to_target": lambda: swjko.sw_to_target(jnp.linspace(-1.0, 1.0, 14).reshape(7, 2), 5),
    "mmd_to_target": lambda: swjko.mmd_to_target(jnp.linspace(-1.0, 1.0, 14).reshape(7, 2), lambda x: jnp.exp(-jnp.sum(x**2) / 2)),
    "weighted_sum": lambda: swjko.weighted_sum((0.5, swjko.potential(jnp.sum)), (2.0, swjko.potential(lambda x: jnp.sum(x**4)))),
}


def random_weights(rng: np.random.Generator, n: int) -> np.ndarray:
    weights = rng.uniform(0.1, 1.0, n)
    return weights / weights.sum()


def central_difference(function: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """The gradient of a scalar function by symmetric differences, entry by entry."""
    at = np.asarray(at, np.float64)
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        move = np.zeros_like(at)
        move[index] = step
        gradient[index] = (float(function(at + move)) - float(function(at - move))) / (2 * step)
    return gradient


def constant_bytes(function: Callable, *args) -> list[int]:
    """Sizes of all arrays that the traced program holds as constants, inner programs included."""
    sizes = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
                if hasattr(value, "consts"):
                    sizes.extend(jnp.asarray(constant).nbytes for constant in value.consts)
                    visit(value.jaxpr)
                elif hasattr(value, "eqns"):
                    visit(value)
                elif isinstance(value, (np.ndarray, jax.Array)):
                    sizes.append(value.nbytes)

    closed = jax.make_jaxpr(function)(*args)
    sizes.extend(jnp.asarray(constant).nbytes for constant in closed.consts)
    visit(closed.jaxpr)
    return sizes
