"""A scheme of second order in time: the backward differentiation formula (BDF2) between quantile functions.

SW_2 is the L2 distance, over directions and levels, between quantile functions q of projections, so a flow of measures is a curve in
that Hilbert space. BDF2 replaces its velocity (q_{k+1} - q_k) / tau by (3 q_{k+1} - 4 q_k + q_{k-1}) / (2 tau), which is a proximity to
the extrapolation (4 q_k - q_{k-1}) / 3:

    mu_{k+1} = argmin_mu 3 / (4 tau) mean_theta int_0^1 |q_theta(mu) - sorted (4 q_theta,k - q_theta,k-1) / 3|^2 + F(mu).

On a smooth flow the difference is the velocity up to O(tau^2), so the step is consistent to second order with the SW gradient flow: at its
minimum the difference, projected on the directions in which measures can move, is minus the gradient of F. Where the extrapolation falls
it is no quantile function, and sorting makes it one. The idea, with Wasserstein geodesics for lines: Gallouet, Natale, Todeschi, "From
geodesic extrapolation to a variational BDF2 scheme for Wasserstein gradient flows" (2022), arXiv 2209.14622.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from swjko.distances.directions import uniform_directions
from swjko.distances.sorting import sort_rows
from swjko.families.base import Family
from swjko.schemes.base import Info, State
from swjko.schemes.sw_jko import SWJKO, sw_jko
from swjko.types import Cloud, DirectionFn, Functional, Key, Leaf, Params, Scalar


def sw_bdf2(
    family: Family,
    functional: Functional,
    optimizer: optax.GradientTransformation,
    *,
    step_size: float | Scalar,
    num_inner_steps: int,
    num_samples: int,
    num_projections: int,
    direction_fn: DirectionFn = uniform_directions,
    path_gradient: bool = True,
    debias: bool = True,
) -> "SWBDF2":
    """A scheme of second order in step_size: see the module's text for the step. The first step is one of ``sw_jko``.

    Errors in time fall by four where step_size halves, those of the inner solve do not: worth it where the inner solve is the smaller
    error. F may rise, unlike in exact SW-JKO steps, where the flow bends faster than step_size resolves.

    Args as of ``sw_jko``. New, anchor and previous parameters always push the same latents, and are projected on the same directions.
    ``info.proximity`` is that to the extrapolation, 3 / (4 step_size) times the squared distance.

    Raises what ``sw_jko`` does, and ValueError for families with weights, such as ``swjko.grid``: their quantile functions jump at levels
    of their own.

    Example::

        scheme = sw_bdf2(gaussian(2), kl_divergence(lambda x: -jnp.sum(x**2) / 2), optax.adam(1e-2), step_size=0.1,
                         num_inner_steps=100, num_samples=256, num_projections=32)
    """
    jko = sw_jko(
        family,
        functional,
        optimizer,
        step_size=step_size,
        num_inner_steps=num_inner_steps,
        num_samples=num_samples,
        num_projections=num_projections,
        direction_fn=direction_fn,
        path_gradient=path_gradient,
        debias=debias,
    )
    _require_equal_weights(jko)
    return SWBDF2(jko)


class BDF2State(NamedTuple):
    """A ``State`` that remembers the parameters one step back.

    Attributes:
      params, time, step, result: as in ``swjko.State``.
      previous: params before the last step; those of mu_0 at the start.
    """

    params: Params
    time: Scalar
    step: Int[Array, ""]
    result: Int[Array, ""]
    previous: Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SWBDF2:
    """Made by ``sw_bdf2``. ``jko`` holds the leaves: family, functional and step_size."""

    jko: SWJKO

    @property
    def family(self) -> Family:
        return self.jko.family

    def init(self, key: Key) -> BDF2State:
        """The state at mu_0, time 0."""
        state = self.jko.init(key)
        return BDF2State(*state, previous=state.params)

    def step(self, key: Key, state: BDF2State) -> tuple[BDF2State, Info]:
        """One step from ``state``; where it fails, the state stays and its code says why."""
        tau = self.jko.step_size
        # At the start previous and current agree, the extrapolation is mu_0, and a whole step_size makes the step an ordinary one.
        step_size = jnp.where(state.step == 0, tau, 2 * tau / 3)
        shared: dict[str, Any] = {
            field.name: getattr(self.jko, field.name) for field in dataclasses.fields(SWJKO)
        }
        shared["step_size"] = step_size
        inner = _ToExtrapolation(**shared, previous=state.previous)
        new, info = inner.step(key, State(state.params, state.time, state.step, state.result))
        moved = new.step > state.step
        time = jnp.where(moved, state.time + tau, state.time)
        previous = jax.tree.map(
            lambda now, before: jnp.where(moved, now, before), state.params, state.previous
        )
        return BDF2State(new.params, time, new.step, new.result, previous), info._replace(time=time)


@dataclasses.dataclass(frozen=True)
class _ToExtrapolation(SWJKO):
    """The step of SW-JKO with its distance taken to the extrapolation from ``previous`` through the anchor."""

    previous: Leaf = None

    def _squared_distance(
        self, cloud: Cloud, anchor: Params, latent: Any, directions: Float[Array, "l d"]
    ) -> Scalar:
        def distance(points: Array, anchor_points: Array, previous_points: Array) -> Scalar:
            # As in the distance itself: differences of centred projections keep the digits that a large offset would take.
            center = lax.stop_gradient(jnp.mean(anchor_points, axis=0))
            new, now, before = (
                _sorted_projections(cloud - center[None, :], directions)
                for cloud in (points, anchor_points, previous_points)
            )
            return jnp.mean((new - sort_rows((4 * now - before) / 3)) ** 2)

        return self._debiased(
            distance,
            cloud.points,
            self.family.push(anchor, latent).points,
            self.family.push(self.previous, latent).points,
        )


def _sorted_projections(
    points: Float[Array, "n d"], directions: Float[Array, "l d"]
) -> Float[Array, "l n"]:
    """The quantile functions of the projections at the levels between i / n and (i + 1) / n."""
    return sort_rows(jnp.matmul(directions, points.T, precision=lax.Precision.HIGHEST))


def _require_equal_weights(scheme: SWJKO) -> None:
    def trace(key):
        return scheme.family.push(
            scheme.family.init(key), scheme.family.latent(key, scheme.num_samples)
        )

    if jax.eval_shape(trace, jax.eval_shape(lambda: jax.random.key(0))).weights is not None:
        raise ValueError(
            "family must give points of equal weight, to extrapolate their sorted projections; this one has weights. "
            "Take swjko.sw_jko for it, or a family such as swjko.particles or swjko.gaussian."
        )
