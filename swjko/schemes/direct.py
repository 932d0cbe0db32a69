"""Direct minimisation of a functional, the ablation of SW-JKO."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from swjko.families.base import Family
from swjko.schemes.base import Info, State
from swjko.schemes.sw_jko import SWJKO, sw_jko
from swjko.types import Cloud, Functional, Key, Scalar
from swjko.types.readable import Readable


def direct_minimization(
    family: Family,
    functional: Functional,
    optimizer: optax.GradientTransformation,
    *,
    num_inner_steps: int,
    num_samples: int,
    path_gradient: bool = True,
) -> "DirectMinimization":
    """Makes a scheme whose ``step`` minimises F alone, without a proximity.

    It is the ablation of ``sw_jko``: the same inner problem, draws and optimizer. With
    F = KL(mu | nu) it is variational inference by reparametrised gradients. ``state.time`` counts
    steps, and ``info.proximity`` is zero.

    Args:
      family: Measures to move in.
      functional: F.
      optimizer: Optax optimizer, which starts afresh at each step.
      num_inner_steps: Optimizer updates in one step.
      num_samples: Points drawn for each update.
      path_gradient: Whether to take path gradients where the functional is entropy-like.

    Example::

        energy = kl_divergence(lambda x: -jnp.sum(x**2) / 2)
        scheme = direct_minimization(gaussian(2), energy, optax.adam(1e-2),
                                     num_inner_steps=100, num_samples=256)
    """
    jko = sw_jko(
        family,
        functional,
        optimizer,
        step_size=1.0,
        num_inner_steps=num_inner_steps,
        num_samples=num_samples,
        num_projections=1,
        path_gradient=path_gradient,
    )
    return DirectMinimization(jko)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DirectMinimization(Readable):
    """Made by ``direct_minimization``. ``jko`` holds the leaves: family and functional."""

    jko: SWJKO

    @property
    def family(self) -> Family:
        return self.jko.family

    def init(self, key: Key) -> State:
        """Returns the state at mu_0, time 0."""
        return self.jko.init(key)

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        """Restarts the optimizer from ``state``. If that fails, the state stays."""
        jko, nothing = self.jko, _no_proximity
        return jko.step_with(nothing, key, state, jko.step_size, zero_at_anchor=True)


def _no_proximity(cloud: Cloud, *unused: PyTree) -> Scalar:
    del unused
    return jnp.zeros((), cloud.points.dtype)
