"""Moves two clouds near the origin, so that projections keep the digits of small differences."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Points from which the origin is taken. More would not make it more robust in practice.
_NUM_SAMPLES = 15
# The weights are cumulated in integers, whose sums are exact: no level ends at a point of weight 0.
_TOTAL = 2**30
# Unit vectors are accepted with this error.
_UNIT_TOLERANCE = 1e-5


def centred(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    x_weights: Float[Array, " n"] | None,
    y_weights: Float[Array, " m"] | None,
) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
    """Returns both clouds relative to one origin, with NaN and infinity of zero weight replaced.

    A projection rounds relative to its own size, which takes the digits of small differences from
    clouds far from the origin. Points on a line are not moved: there a projection is exact.
    """
    if x.shape[1] > 1:
        origin = lax.stop_gradient(_robust_origin(y, y_weights))[None, :]
        x, y = x - origin, y - origin
    return without_wild_padding(x, x_weights), without_wild_padding(y, y_weights)


def exact_on_the_line(directions: Float[Array, "l d"]) -> Float[Array, "l d"]:
    """Returns directions whose rows in one dimension are 1 or -1 if they are so up to rounding.

    Products with these are exact. Derivatives in the directions do not change.
    """
    if directions.shape[1] > 1:
        return directions
    signs = jnp.sign(directions)
    rounded = jnp.abs(directions - signs) < _UNIT_TOLERANCE
    return directions + lax.stop_gradient(jnp.where(rounded, signs - directions, 0.0))


def _robust_origin(points: Float[Array, "n d"], weights: Float[Array, " n"] | None) -> Array:
    """Returns in each coordinate the number nearest to 0 between two quartiles of a subsample.

    It is 0 or a coordinate of a point. Thus outliers do not move it, coordinates on both sides of 0
    keep their digits, and no compiler can merge it with the differences that follow.
    """
    sample = _subsample(points, weights)
    last = sample.shape[0] - 1
    outliers = min(last // 2, max(1, sample.shape[0] // 4))
    # Ranks by comparison: for so few values a sort costs several times as much.
    index = jnp.arange(last + 1)
    earlier = (index[:, None] > index[None, :])[:, :, None]
    below = sample[None] < sample[:, None]
    rank = jnp.sum(below | ((sample[None] == sample[:, None]) & earlier), axis=1)
    low, high = (
        jnp.sum(jnp.where(rank == wanted, sample, 0.0), axis=0)
        for wanted in (outliers, last - outliers)
    )
    return jnp.clip(jnp.zeros_like(low), low, high)


def _subsample(points: Float[Array, "n d"], weights: Float[Array, " n"] | None) -> Array:
    count = points.shape[0]
    if weights is None:
        stride = max(1, count // _NUM_SAMPLES)
        return points[stride // 2 :: stride][:_NUM_SAMPLES]
    levels = jnp.cumsum((weights * _TOTAL).astype(jnp.int32))
    middles = levels[-1] // (2 * _NUM_SAMPLES) * (2 * jnp.arange(_NUM_SAMPLES, dtype=jnp.int32) + 1)
    chosen = jnp.searchsorted(levels, middles, side="right")
    return points[jnp.minimum(chosen, count - 1)]


def without_wild_padding(points: Array, weights: Array | None) -> Array:
    """Returns points [n d] with NaN and infinity of zero weight replaced."""
    # NaN or infinity in a point of zero weight would enter sums as 0 * nan.
    if weights is None:
        return points
    return jnp.where((weights > 0)[:, None] | jnp.isfinite(points), points, 0.0)
