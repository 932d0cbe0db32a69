"""What a target is, and its law in units of the start."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial


class Target(NamedTuple):
    """A law on R^dim, up to its normalisation.

    Attributes:
      log_prob: Log-density of one point [d].
      dim: Dimension.
      log_evidence: log Z; None if it is not known in closed form.
      draw: ``(rng, n) -> points [n d]``, exact; None if there are none.
      centers: Centres [k d] of the modes; None if they are not counted.
      start_scale: Deviation s of the start N(0, s^2 I) of all methods.
      published: ELBO, log Z or energy distance from papers, with its source.
    """

    log_prob: Partial
    dim: int
    log_evidence: float | None = None
    draw: Callable[[np.random.Generator, int], np.ndarray] | None = None
    centers: np.ndarray | None = None
    start_scale: float = 1.0
    published: str = ""


def in_units_of_the_start(target: Target) -> Target:
    """Returns the law of x / s, where N(0, s^2 I) is the start; log Z is the same."""
    scale, draw, centers = target.start_scale, target.draw, target.centers
    return target._replace(
        log_prob=Partial(_scaled_log_prob, target.log_prob, scale),
        draw=None if draw is None else lambda rng, n: draw(rng, n) / scale,
        centers=None if centers is None else centers / scale,
    )


def _scaled_log_prob(log_prob, scale, z):
    return log_prob(scale * z) + len(z) * jnp.log(scale)
