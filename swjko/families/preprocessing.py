"""Invertible maps of data with their log-determinants, and noise that makes bytes continuous.

If rho is a density of the preprocessed rows y = forward(x), then log p(x) = log rho(y) +
log |det dy/dx| is that of the rows x. ``interval`` does this for targets of bounded support,
such as positive scales, under any family. Images as ``swjko.images.Images.rows`` gives them, in
[0, 1], take ``dequantize`` first and then ``logit``: a density over bytes alone is unbounded.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from swjko.families.base import Family, require_family
from swjko.families.bijections import is_bijection, of_rows
from swjko.families.pushforward import Mapped
from swjko.types import Key, validation
from swjko.types.readable import Readable


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Preprocessing(Readable):
    """An invertible map of rows.

    Make one from two functions of yours in ``jax.tree_util.Partial``, with the data they need.

    Attributes:
      forward: ``rows [n d] -> (image [n d], log |det d image / d row| [n])``.
      inverse: ``image [n d] -> (rows [n d], log |det d row / d image| [n])``.
    """

    forward: Partial
    inverse: Partial


def scale(low: ArrayLike, high: ArrayLike) -> Preprocessing:
    """Makes the map from [0, 1] to [low, high], x -> low + (high - low) x.

    Args:
      low: Lower end, a number or one for each coordinate [d].
      high: Upper end, above ``low`` in each coordinate.

    Example:
      ``scale(-1.0, 1.0)``
    """
    low, high = _as_row(low, "low"), _as_row(high, "high")
    _require_above(low, high)
    return Preprocessing(Partial(_scale, low, high - low), Partial(_unscale, low, high - low))


def interval(low: ArrayLike, high: ArrayLike) -> Preprocessing:
    """Makes the map from the open interval (low, high) to the line; either end may be infinite.

    Its inverse is x = low + (high - low) sigmoid(y), or x = low + softplus(y) if ``high`` is
    infinite, or x = high - softplus(-y) if ``low`` is; y itself if both are. Points that are mapped
    back lie inside the interval, to the last digit, so a density with this support is finite there.
    Outside it and at its ends the log-density of a ``preprocessed`` family is -inf.

    Args:
      low: Lower end, a number or one for each coordinate [d]; -inf for none.
      high: Upper end, above ``low`` in each coordinate; inf for none.

    Example::

        positive = preprocessed(gaussian(1), interval(0.0, jnp.inf))
        box = preprocessed(flows.coupling(2), interval(jnp.array([0.0, -1.0]), 1.0))
    """
    low, high = _as_row(low, "low", infinite=True), _as_row(high, "high", infinite=True)
    _require_above(low, high)
    return Preprocessing(Partial(_to_line, low, high), Partial(_from_line, low, high))


def logit(alpha: float = 0.05) -> Preprocessing:
    """Makes the map from [0, 1] to the line, x -> log(u / (1 - u)) at u = alpha + (1 - 2 alpha) x.

    Points that are mapped back may exceed [0, 1] by alpha / (1 - 2 alpha).

    Args:
      alpha: Above 0 and below 1/2. The ends of [0, 1] go to +-log(alpha / (1 - alpha)).

    References:
      Dinh, Sohl-Dickstein, Bengio (2017), arXiv 1605.08803.
    """
    alpha = validation.as_fraction(alpha, "alpha", "what logit keeps away from 0 and 1")
    if alpha >= 0.5:
        raise ValueError(f"`alpha` must be below 1/2, or rows would be reversed; got {alpha}.")
    return Preprocessing(Partial(_logit, jnp.asarray(alpha)), Partial(_unlogit, jnp.asarray(alpha)))


def chain(*maps: Preprocessing) -> Preprocessing:
    """Makes the map that applies several maps one after another.

    Args:
      *maps: Maps in the order in which they apply; at least one.

    Example:
      ``chain(logit(), scale(-0.5, 0.5))``
    """
    if not maps:
        raise ValueError("`chain` needs at least one Preprocessing; got none.")
    for at, one in enumerate(maps):
        if not isinstance(one, Preprocessing):
            raise TypeError(
                f"`chain` takes maps such as scale(-1.0, 1.0); got {type(one).__name__} "
                f"as argument {at}."
            )
    forward = tuple(one.forward for one in maps)
    inverse = tuple(one.inverse for one in reversed(maps))
    return Preprocessing(Partial(_in_turn, forward), Partial(_in_turn, inverse))


def dequantize(key: Key, rows: Float[Array, "n d"], levels: int = 256) -> Float[Array, "n d"]:
    """Adds uniform noise to rows of equally spaced levels, which makes them continuous.

    Rows become (level + u) / levels with u uniform in [0, 1). ``quantize`` removes the noise. The
    mean log-density of such rows, less d log(levels), is at most the mean log-probability of the
    levels.

    Args:
      key: Random key of the noise.
      rows: Rows [n d] in [0, 1], at the levels 0, 1 / (levels - 1), ..., 1.
      levels: Number of levels, at least 2.

    Returns:
      Rows [n d] in [0, 1).

    References:
      Theis, van den Oord, Bethge (2016), arXiv 1511.01844.
    """
    rows = validation.as_points(rows, "rows")
    levels = validation.as_count(levels, "levels", minimum=2)
    level = jnp.round(jnp.clip(rows, 0.0, 1.0) * (levels - 1))
    noisy = level + jax.random.uniform(key, rows.shape, rows.dtype)
    # The sum rounds up to the next level if u is within half a unit of the last place of 1.
    return jnp.minimum(noisy, jnp.nextafter(level + 1, jnp.zeros_like(level))) / levels


def quantize(rows: Float[Array, "n d"], levels: int = 256) -> Float[Array, "n d"]:
    """Rounds rows down to equally spaced levels, floor(levels x) / (levels - 1).

    Args:
      rows: Rows [n d]; values outside [0, 1] go to the nearest end.
      levels: Number of levels, at least 2.

    Returns:
      Rows [n d] in [0, 1].
    """
    rows = validation.as_points(rows, "rows")
    levels = validation.as_count(levels, "levels", minimum=2)
    return jnp.clip(jnp.floor(levels * rows), 0, levels - 1) / (levels - 1)


def preprocessed(family: Family, preprocessing: Any) -> Family:
    """Makes the family of the rows whose preprocessed images have the measures of ``family``.

    Params and latents are those of ``family``. Points are mapped back, and densities with them.

    Args:
      family: Family of the images.
      preprocessing: Map from rows to images: a ``Preprocessing``, or a bijection of one row [d] of
        distrax, flowjax or NumPyro.

    Example:
      ``preprocessed(flows.coupling(64), logit())``, images of 64 pixels with a density.
    """
    require_family(family)
    if is_bijection(preprocessing):
        preprocessing = Preprocessing(*of_rows(preprocessing))
    if not isinstance(preprocessing, Preprocessing):
        raise TypeError(
            "`preprocessing` must be a Preprocessing, such as logit(), or a bijection of distrax, "
            f"flowjax or NumPyro; got {type(preprocessing).__name__}."
        )
    shape = (3, family.dim)
    rows = jax.ShapeDtypeStruct(shape, float)
    try:
        found = jax.eval_shape(preprocessing.inverse, rows)[0].shape[-1]
    except (TypeError, ValueError) as error:  # arrays that do not broadcast
        found = f"{type(error).__name__}: {error}"
    if found != family.dim:
        raise ValueError(
            f"`preprocessing` must keep the {family.dim} coordinates of the family; "
            f"got {found}. Give its ends one value for each coordinate."
        )
    return Mapped(family, preprocessing.inverse, preprocessing.forward, family.dim)


def _as_row(value: ArrayLike, name: str, *, infinite: bool = False) -> Float[Array, "1 d"]:
    """Returns one row of d values, or of 1, which goes with rows [n d] without a change of rank."""
    try:
        array = jnp.asarray(value, float)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be a number or one for each coordinate; got {value!r}."
        ) from error
    if array.ndim > 1 or array.size == 0:
        raise ValueError(
            f"`{name}` must be a number or one for each coordinate; got shape {array.shape}."
        )
    if not infinite:
        validation.require_finite(array, name)
    return array.reshape(1, -1)


def _require_above(low, high):
    is_concrete = validation.is_concrete(low) and validation.is_concrete(high)
    if is_concrete and not bool(jnp.all(high > low)):
        raise ValueError(f"`high` must be above low in each coordinate; got {high} above {low}.")


def _scale(low, width, rows):
    return low + width * rows, _log_width(width, rows)


def _unscale(low, width, rows):
    return (rows - low) / width, -_log_width(width, rows)


def _log_width(width, rows):
    return jnp.sum(jnp.broadcast_to(jnp.log(width), rows.shape), axis=1)


def _to_line(low, high, rows):
    low, high = low.astype(rows.dtype), high.astype(rows.dtype)
    is_inside = jnp.all((rows > low) & (rows < high), axis=1)
    inside = _inside(low, high, rows)
    # Distances to infinite ends are replaced, since `where` around an infinite value has NaN
    # gradients.
    above = jnp.where(jnp.isfinite(low), inside - low, 1.0)
    below = jnp.where(jnp.isfinite(high), high - inside, 1.0)
    image = jnp.where(
        jnp.isfinite(low),
        jnp.where(jnp.isfinite(high), jnp.log(above) - jnp.log(below), _unsoftplus(above)),
        jnp.where(jnp.isfinite(high), -_unsoftplus(below), inside),
    )
    return image, jnp.where(is_inside, -_log_slope(low, high, image), -jnp.inf)


def _from_line(low, high, rows):
    low, high = low.astype(rows.dtype), high.astype(rows.dtype)
    start, end = jnp.where(jnp.isfinite(low), low, 0.0), jnp.where(jnp.isfinite(high), high, 0.0)
    image = jnp.where(
        jnp.isfinite(low),
        start
        + jnp.where(
            jnp.isfinite(high), (end - start) * jax.nn.sigmoid(rows), jax.nn.softplus(rows)
        ),
        jnp.where(jnp.isfinite(high), end - jax.nn.softplus(-rows), rows),
    )
    return _inside(low, high, image), _log_slope(low, high, rows)


def _log_slope(low, high, image):
    """Returns the sum over coordinates of log d row / d image."""
    width = jnp.where(jnp.isfinite(low) & jnp.isfinite(high), high - low, 1.0)
    slope = jnp.log(width) + jnp.where(jnp.isfinite(low), jax.nn.log_sigmoid(image), 0.0)
    return jnp.sum(slope + jnp.where(jnp.isfinite(high), jax.nn.log_sigmoid(-image), 0.0), axis=1)


def _inside(low, high, rows):
    """Returns the nearest rows in the open interval."""
    low, high = lax.stop_gradient((low, high))  # nextafter has no derivative
    tiny = jnp.finfo(rows.dtype).tiny  # smaller numbers are flushed to zero
    lowest = jnp.maximum(jnp.nextafter(low, high), low + tiny)
    highest = jnp.minimum(jnp.nextafter(high, low), high - tiny)
    return jnp.clip(
        rows,
        jnp.where(jnp.isfinite(low), lowest, low),
        jnp.where(jnp.isfinite(high), highest, high),
    )


def _unsoftplus(values):
    return values + jnp.log(-jnp.expm1(-values))


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
