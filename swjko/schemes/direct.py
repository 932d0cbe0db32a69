"""Direct minimisation of F over a family, the ablation of a JKO scheme: the same inner problem, draws and optimiser, without a proximity.

argmin_mu F(mu) is the step of infinite size. With F = KL(mu | nu) it is variational inference by reparametrised gradients.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from swjko.families.base import Family
from swjko.schemes.base import Info, State
from swjko.schemes.sw_jko import SWJKO, sw_jko
from swjko.types import Functional, Key, Scalar


def direct_minimization(
    family: Family,
    functional: Functional,
    optimizer: optax.GradientTransformation,
    *,
    num_inner_steps: int,
    num_samples: int,
    path_gradient: bool = True,
) -> "DirectMinimization":
    """A scheme whose every ``step`` is ``num_inner_steps`` updates of the parameters on F alone, the optimiser starting afresh.

    Args as of ``sw_jko``. Nothing ties a step to where it starts: there are no distances to compute, what lies between the start and the
    minimum is no gradient flow, and ``state.time`` counts steps. ``info.proximity`` is zero.

    Raises what ``sw_jko`` does.

    Example::

        scheme = direct_minimization(gaussian(2), kl_divergence(lambda x: -jnp.sum(x**2) / 2), optax.adam(1e-2),
                                     num_inner_steps=100, num_samples=256)
    """
    return DirectMinimization(
        sw_jko(
            family,
            functional,
            optimizer,
            step_size=1.0,
            num_inner_steps=num_inner_steps,
            num_samples=num_samples,
            num_projections=1,
            path_gradient=path_gradient,
        )
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DirectMinimization:
    """Made by ``direct_minimization``. ``jko`` holds the leaves: family and functional."""

    jko: SWJKO

    @property
    def family(self) -> Family:
        return self.jko.family

    def init(self, key: Key) -> State:
        """The state at mu_0, time 0."""
        return self.jko.init(key)

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        """One restart of the optimiser from ``state``; where it fails, the state stays and its code says why."""
        shared: dict[str, Any] = {
            field.name: getattr(self.jko, field.name) for field in dataclasses.fields(SWJKO)
        }
        return _WithoutProximity(**shared).step(key, state)


@dataclasses.dataclass(frozen=True)
class _WithoutProximity(SWJKO):
    """The step of SW-JKO with a distance of zero; what would be drawn for it drops out of the compiled program."""

    def _squared_distance(self, cloud: Any, anchor: Any, latent: Any, directions: Any) -> Scalar:
        del anchor, latent, directions
        return jnp.zeros((), cloud.points.dtype)
