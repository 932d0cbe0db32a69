"""Maps of data and back, with their log-determinants: scaling, logits, and the noise that makes bytes continuous.

A density rho of preprocessed rows y = forward(x) is a density of the rows themselves: log p(x) = log rho(y) + log |det dy/dx|. Images as
``swjko.images.Images.rows`` gives them, in [0, 1], take ``dequantize`` first, then ``logit``: a density over bytes alone is unbounded.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from swjko import validation
from swjko.families.base import Family, require_family
from swjko.types import Cloud, Key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """An invertible map of rows. Any two such functions make one: wrap them in ``jax.tree_util.Partial``, with the data they need.

    Attributes:
      forward: rows [n d] -> (image [n d], log |det d image / d row| [n]).
      inverse: image [n d] -> (rows [n d], log |det d row / d image| [n]).
    """

    forward: Partial
    inverse: Partial


def scale(low: ArrayLike, high: ArrayLike) -> Preprocessing:
    """[0, 1] to [low, high]: x -> low + (high - low) x, log_det = sum log(high - low).

    Args: low, high: numbers, or one per coordinate. Raises ValueError where high is not above low. Example: ``scale(-1.0, 1.0)``.
    """
    low, high = (_as_number_or_row(value, name) for value, name in ((low, "low"), (high, "high")))
    if (
        validation.is_concrete(low)
        and validation.is_concrete(high)
        and not bool(jnp.all(high > low))
    ):
        raise ValueError(
            f"high must be above low in each coordinate; received low {low} and high {high}."
        )
    return Preprocessing(Partial(_scale, low, high - low), Partial(_unscale, low, high - low))


def logit(alpha: float = 0.05) -> Preprocessing:
    """[0, 1] to the line: x -> log(u / (1 - u)) at u = alpha + (1 - 2 alpha) x, log_det = sum log(1 - 2 alpha) - log(u (1 - u)).

    Args: alpha: above 0 and below 1/2; it keeps the borders at finite places, +-log(alpha / (1 - alpha)). Points mapped back may lie beyond
    [0, 1] by alpha / (1 - 2 alpha). Source: Dinh, Sohl-Dickstein, Bengio (2017), arXiv 1605.08803.
    """
    alpha = validation.as_fraction(alpha, "alpha", "what logit keeps away from 0 and 1")
    if alpha >= 0.5:
        raise ValueError(
            f"alpha must be below 1/2, or rows would be turned around; received {alpha}."
        )
    return Preprocessing(Partial(_logit, jnp.asarray(alpha)), Partial(_unlogit, jnp.asarray(alpha)))


def chain(*maps: Preprocessing) -> Preprocessing:
    """The maps one after another, the first one first; log-determinants add up. Example: ``chain(logit(), scale(-0.5, 0.5))``."""
    if not maps:
        raise ValueError("chain needs at least one Preprocessing; received none.")
    for at, one in enumerate(maps):
        if not isinstance(one, Preprocessing):
            raise TypeError(
                f"chain takes maps such as scale(-1.0, 1.0); argument {at} is {type(one).__name__}."
            )
    return Preprocessing(
        Partial(_in_turn, tuple(one.forward for one in maps)),
        Partial(_in_turn, tuple(one.inverse for one in maps[::-1])),
    )


def dequantize(key: Key, rows: Float[Array, "n d"], levels: int = 256) -> Float[Array, "n d"]:
    """Rows of ``levels`` equal levels in [0, 1] made continuous: (level + u) / levels with u uniform in [0, 1), within [0, 1).

    No invertible map, and without a log-determinant: it draws noise, and ``quantize`` rounds it away again. The mean log-density of such
    rows, less d log(levels), is no more than the mean log-probability of the levels (Theis, van den Oord, Bethge 2016, arXiv 1511.01844).
    """
    rows, levels = (
        validation.as_points(rows, "rows"),
        validation.as_count(levels, "levels", minimum=2),
    )
    level = jnp.round(jnp.clip(rows, 0.0, 1.0) * (levels - 1))
    # The sum rounds up to the next level where u is within half a unit of the last place of 1.
    noisy = jnp.minimum(
        level + jax.random.uniform(key, rows.shape, rows.dtype),
        jnp.nextafter(level + 1, jnp.zeros_like(level)),
    )
    return noisy / levels


def quantize(rows: Float[Array, "n d"], levels: int = 256) -> Float[Array, "n d"]:
    """The inverse of ``dequantize`` up to its noise: floor(levels x) / (levels - 1), what lies beyond [0, 1] at its ends."""
    rows, levels = (
        validation.as_points(rows, "rows"),
        validation.as_count(levels, "levels", minimum=2),
    )
    return jnp.clip(jnp.floor(levels * rows), 0, levels - 1) / (levels - 1)


def preprocessed(family: Family, preprocessing: Preprocessing) -> Family:
    """The family of laws whose points, preprocessed, have the laws of ``family``: its points are mapped back, its densities with them.

    Params and latents are those of ``family``. Example: ``preprocessed(flows.coupling(64), logit())``, images of 64 pixels with a density.
    """
    require_family(family)
    if not isinstance(preprocessing, Preprocessing):
        raise TypeError(
            f"preprocessing must be a Preprocessing, such as logit(); received {type(preprocessing).__name__}."
        )
    push = Partial(_push_back, family.push, preprocessing.inverse)
    log_prob = (
        Partial(_log_prob_of_rows, family.log_prob, preprocessing.forward)
        if family.has_density
        else family.log_prob
    )
    return dataclasses.replace(family, push=push, log_prob=log_prob)


def _as_number_or_row(value, name):
    array = jnp.asarray(value, float)
    if array.ndim > 1 or array.size == 0:
        raise ValueError(
            f"{name} must be a number or one for each coordinate; received shape {array.shape}."
        )
    validation.require_finite(array, name)
    # One row of d or of 1: it goes with rows [n d] without a change of rank.
    return array.reshape(1, -1)


def _scale(low, width, rows):
    return low + width * rows, _log_width(width, rows)


def _unscale(low, width, rows):
    return (rows - low) / width, -_log_width(width, rows)


def _log_width(width, rows):
    return jnp.sum(jnp.broadcast_to(jnp.log(width), rows.shape), axis=1)


def _logit(alpha, rows):
    u = alpha + (1 - 2 * alpha) * rows
    log_u, log_rest = jnp.log(u), jnp.log1p(-u)
    return log_u - log_rest, jnp.sum(jnp.log(1 - 2 * alpha) - log_u - log_rest, axis=1)


def _unlogit(alpha, rows):
    log_slope = jax.nn.log_sigmoid(rows) + jax.nn.log_sigmoid(-rows) - jnp.log(1 - 2 * alpha)
    return (jax.nn.sigmoid(rows) - alpha) / (1 - 2 * alpha), jnp.sum(log_slope, axis=1)


def _in_turn(maps, rows):
    log_det = jnp.zeros_like(rows[:, 0])
    for one in maps:
        rows, more = one(rows)
        log_det += more
    return rows, log_det


def _push_back(push, inverse, params, z):
    cloud = push(params, z)
    rows, log_det = inverse(cloud.points)
    return Cloud(
        rows, cloud.weights, None if cloud.log_density is None else cloud.log_density - log_det
    )


def _log_prob_of_rows(log_prob, forward, params, points):
    image, log_det = forward(points)
    return log_prob(params, image) + log_det
