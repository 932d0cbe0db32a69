"""A scheme of second order in time: the backward differentiation formula BDF2.

SW_2 is the L2 distance, over directions and levels, between quantile functions q of projections.
A flow of measures is therefore a curve in that Hilbert space. BDF2 replaces the velocity
(q_{k+1} - q_k) / tau by (3 q_{k+1} - 4 q_k + q_{k-1}) / (2 tau), which makes the proximity the
distance to an extrapolation:

    mu_{k+1} = argmin_mu F(mu)
        + 3 / (4 tau) mean_theta int_0^1 |q_theta(mu) - sorted (4 q_theta,k - q_theta,k-1) / 3|^2.

On a smooth flow the difference is the velocity up to O(tau^2), so the step is consistent to
second order with the SW gradient flow. Where the extrapolation decreases it is not a quantile
function, and sorting makes it one.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, PyTree

from swjko.distances.directions import uniform_directions
from swjko.distances.sorting import sort_rows
from swjko.families.base import Family
from swjko.schemes.base import Info, State, select
from swjko.schemes.estimators import jackknife
from swjko.schemes.sw_jko import SWJKO, sw_jko
from swjko.types import Cloud, DirectionFn, Functional, Key, Params, Scalar
from swjko.types.readable import Readable


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
    """Makes a scheme of second order in ``step_size``; its first step is one of ``sw_jko``.

    Errors in time fall by four when step_size halves. Errors of the inner solve do not, so the
    scheme pays off where the inner solve is the smaller error. Unlike in exact SW-JKO steps, F may
    rise where the flow bends faster than step_size resolves. New, anchor and previous parameters
    always push the same latents. ``info.proximity`` is 3 / (4 step_size) times the squared
    distance to the extrapolation, and ``state.extra`` holds the parameters one step back.

    Args:
      family: Measures to move in, of equally weighted points: not ``swjko.grid``, whose quantile
        functions jump at levels of their own.
      functional: F.
      optimizer: Optax optimizer, as for ``sw_jko``.
      step_size: tau, in units of SW time.
      num_inner_steps: Optimizer updates in one step.
      num_samples: Points drawn for each update.
      num_projections: Directions drawn for each update.
      direction_fn: ``(key, num, dim) -> [num dim]`` unit rows.
      path_gradient: Whether to take path gradients, as for ``sw_jko``.
      debias: Whether to take the jackknife, as for ``sw_jko``.

    Example::

        energy = kl_divergence(lambda x: -jnp.sum(x**2) / 2)
        scheme = sw_bdf2(gaussian(2), energy, optax.adam(1e-2), step_size=0.1,
                         num_inner_steps=100, num_samples=256, num_projections=32)

    References:
      The idea, with Wasserstein geodesics for lines: Gallouet, Natale, Todeschi, "From geodesic
      extrapolation to a variational BDF2 scheme for Wasserstein gradient flows" (2022),
      arXiv 2209.14622.
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SWBDF2(Readable):
    """Made by ``sw_bdf2``. ``jko`` holds the leaves: family, functional and step_size."""

    jko: SWJKO

    @property
    def family(self) -> Family:
        return self.jko.family

    def init(self, key: Key) -> State:
        """Returns the state at mu_0, time 0."""
        state = self.jko.init(key)
        return state._replace(extra=state.params)

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        """Takes one step from ``state``. If it fails, the state stays and its code says why."""
        tau = self.jko.step_size
        # At the start previous and current measure agree, so the extrapolation is mu_0, and a
        # whole step_size makes the step one of SW-JKO.
        scale = jnp.where(state.step == 0, tau, 2 * tau / 3)

        def proximity(cloud: Cloud, anchor: Params, latent: PyTree, directions: Array) -> Scalar:
            def distance_to(new: Array, now: Array, before: Array) -> Scalar:
                return _squared_distance_to_extrapolation(new, now, before, directions)

            clouds = (self.family.push(params, latent).points for params in (anchor, state.extra))
            points = (cloud.points, *clouds)
            is_debiased = self.jko.is_debiased
            distance = jackknife(distance_to, *points) if is_debiased else distance_to(*points)
            return distance / (2.0 * scale.astype(distance.dtype))

        new, info = self.jko.step_with(proximity, key, state, tau)
        previous = select(new.step > state.step, state.params, state.extra)
        return new._replace(extra=previous), info


def _squared_distance_to_extrapolation(
    new: Float[Array, "n d"],
    now: Float[Array, "n d"],
    before: Float[Array, "n d"],
    directions: Float[Array, "l d"],
) -> Scalar:
    # Centred projections keep the digits that a large offset would take, as in the distance.
    center = lax.stop_gradient(jnp.mean(now, axis=0))
    # Quantile functions at the levels between i / n and (i + 1) / n.
    new, now, before = (
        sort_rows(
            jnp.matmul(directions, (points - center[None, :]).T, precision=lax.Precision.HIGHEST)
        )
        for points in (new, now, before)
    )
    return jnp.mean((new - sort_rows((4 * now - before) / 3)) ** 2)


def _require_equal_weights(scheme: SWJKO) -> None:
    def push(key: Key) -> Cloud:
        family = scheme.family
        return family.push(family.init(key), family.latent(key, scheme.num_samples))

    if jax.eval_shape(push, jax.eval_shape(lambda: jax.random.key(0))).weights is not None:
        raise ValueError(
            "family must give points of equal weight, whose sorted projections can be "
            "extrapolated; got one with weights. Use swjko.sw_jko for it, or a family such as "
            "swjko.particles or swjko.gaussian."
        )
