"""Flows in the codes of an autoencoder that is fitted to the images first.

Codes vary along fewer axes than they have, and by unequal amounts. Flows see them along their
principal axes, where a generator starts at N(0, C) with C the covariance of the codes. A rotation
changes no sliced distance, but from N(0, I) a network would first have to learn C.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko import flows
from swjko.autoencoder import autoencoder, decoded, fit_autoencoder
from swjko.cli.settings import Settings
from swjko.distances.directions import orthogonal_directions
from swjko.families.base import Family
from swjko.families.pushforward import Mapped
from swjko.functionals.targets import sw_to_target
from swjko.schemes.base import Scheme
from swjko.schemes.drifting import drifting
from swjko.types import Cloud, Key, Params

# The settings of the autoencoder in benchmarks/images.
CODE_DIM, NUM_LINEAR, FIT_STEPS, FIT_BATCH = 48, 4, 1600, 128
# Axes with less than this fraction of the largest variance are left at their mean.
_LEAST_VARIANCE = 1e-4
WIDTH = 256
_MOVES, _PAIRS, _LEARNING_RATE = 60, 256, 2e-3


class Space(NamedTuple):
    """The space of a flow.

    Attributes:
      target: Points of the data [m d].
      family: Family of the flow.
      show: The family as a family of pictures.
      num_classes: Number of trailing coordinates, which tell the class and do not move.
    """

    target: Array
    family: Family
    show: Callable[[Family], Family]
    num_classes: int = 0


def latent_space(
    key: Key,
    name: str,
    target: np.ndarray,
    shape: tuple[int, int, int],
    checkpoint_dir: Path | None,
    progress: bool,
) -> Space:
    """Fit an autoencoder to rows in [0, 1], and return the space of its codes.

    Args:
      key: Random key of the fit.
      name: "mlp" or "coupling".
      target: Rows [m h*w*c].
      shape: Shape of an image.
      checkpoint_dir: Where the fit is kept.
      progress: Whether to show a progress bar.
    """
    rows, dim = jnp.asarray(target), min(CODE_DIM, math.prod(shape) // 2)
    model = autoencoder(shape, latent_dim=dim, num_linear=NUM_LINEAR)
    fit = fit_autoencoder(
        key,
        model,
        rows,
        optax.adam(optax.cosine_decay_schedule(3e-3, FIT_STEPS)),
        num_steps=FIT_STEPS,
        batch_size=min(FIT_BATCH, len(rows)),
        progress=progress,
        checkpoint_dir=checkpoint_dir,
    )
    codes = jax.jit(lambda params, rows: model.encode(params, rows))(fit.params, rows)
    mean, axes, deviations = principal_axes(codes)

    def show(family: Family) -> Family:
        rotated = Mapped(family, Partial(_rotate, mean, axes), None, dim)
        return decoded(rotated, model, fit.params)

    size = len(deviations)
    if name == "coupling":
        family = flows.coupling(size, init_scale=deviations)
    else:
        family = flows.mlp(size, size, width=WIDTH, init_scale=deviations)
    return Space((codes - mean[None, :]) @ axes, family, show)


def principal_axes(codes: Float[Array, "m k"]) -> tuple[Array, Array, Array]:
    """Return the mean [k], the principal axes [k r] and the deviations [r] of codes.

    Args:
      codes: Codes [m k].
    """
    points = np.asarray(codes, np.float64)
    values, vectors = np.linalg.eigh(np.cov(points.T, bias=True))
    # At least two, which a coupling needs; equal codes have the variance zero along all.
    kept = values >= min(_LEAST_VARIANCE * values[-1], values[-2])
    deviations = np.sqrt(np.maximum(values[kept], 1e-12))
    mean, axes, deviations = (
        jnp.asarray(part, codes.dtype)
        for part in (points.mean(axis=0), vectors[:, kept], deviations)
    )
    return mean, axes, deviations


def drift_scheme(space: Space, settings: Settings, batch_size: int) -> Scheme:
    """Return ``drifting`` of a generator of codes, with steps in the units of SW-JKO's.

    Args:
      space: Space of the flow.
      settings: Numbers of the run.
      batch_size: Rows of the data for each move.
    """
    functional = sw_to_target(
        space.target,
        min(settings.projections, space.family.dim),
        direction_fn=orthogonal_directions,
        batch_size=batch_size,
    )
    velocity = None
    if space.num_classes:
        moves = jnp.arange(space.family.dim) < space.family.dim - space.num_classes
        velocity = Partial(_velocity, functional, moves)
    updates = settings.steps * settings.inner_steps
    return drifting(
        space.family,
        functional,
        optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, updates)),
        step_size=settings.step_size * space.family.dim,
        num_drift_steps=_MOVES,
        num_inner_steps=settings.inner_steps,
        num_samples=settings.samples,
        batch_size=min(_PAIRS, settings.samples),
        velocity=velocity,
    )


def _velocity(functional, moves, key, points):
    """Returns minus the Wasserstein gradient, without its part in coordinates that do not move."""
    gradient = jax.grad(lambda points: functional(key, Cloud(points)))(points)
    return jnp.where(moves[None, :], -points.shape[0] * gradient, 0.0)


def interpolated(
    family: Family, params: Params, latents: Float[Array, "n e"], num_kept: int = 0
) -> np.ndarray:
    """Return pictures [grid^2 d] whose latents run along a great circle in each row.

    Args:
      family: Family of pictures with normal latents.
      params: Its parameters.
      latents: The first latents of ``grid`` rows and then the last ones, [2 grid e].
      num_kept: Trailing coordinates of latents that stay those of the first.
    """
    grid, moved = len(latents) // 2, latents.shape[1] - num_kept
    first, last = latents[:grid, None, :], latents[grid:, None, :]
    angles = jnp.linspace(0.0, jnp.pi / 2, grid, dtype=latents.dtype)[None, :, None]
    between = jnp.cos(angles) * first + jnp.sin(angles) * last
    fixed = jnp.broadcast_to(first[:, :, moved:], (grid, grid, num_kept))
    between = jnp.concatenate([between[:, :, :moved], fixed], axis=2)
    cloud = jax.jit(family.push)(params, between.reshape(grid * grid, -1))
    return np.asarray(cloud.points)


def _rotate(mean, axes, points):
    return mean[None, :] + points @ axes.T
