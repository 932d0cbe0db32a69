"""Flows of codes with their classes, so that each class can be drawn by itself.

A point is a code followed by one coordinate for each class, which is ``scale`` for its own class
and 0 for the others. The generator gets noise and a class, and moves the code alone. Where the
joint law of codes and classes matches that of the data, so does the law of the codes of each class.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from swjko import flows
from swjko.cli.codes import Space
from swjko.data.errors import DataError
from swjko.data.images import Images
from swjko.families.base import Family
from swjko.families.pushforward import Mapped
from swjko.types import Cloud, Key, Leaf, Params, static_field

_MOST_CLASSES = 100
# Of the coordinate of a class, in deviations of the codes: most projections then separate classes.
_SCALE = 2.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Labelled(Family):
    """The joint law of codes and classes.

    Attributes:
      base: Family of [n k + c] whose first k coordinates are the codes; latents are noise [n k] and
        indicators [n c].
      shares: Share [c] of each class in the data.
      scale: Coordinate of a point's own class.
      dim: k + c.
    """

    base: Family
    shares: Leaf
    scale: Leaf
    dim: int = static_field()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.shares.shape[0]

    @property
    def code_dim(self) -> int:
        """Dimension of the codes."""
        return self.dim - self.num_classes

    def init(self, key: Key) -> Params:
        return self.base.init(key)

    def latent(self, key: Key, num: int) -> Float[Array, "n e"]:
        noise_key, offset_key = jax.random.split(key)
        # Each class has its share of the points up to one, or mass would move between classes.
        offset = jax.random.uniform(offset_key, dtype=self.shares.dtype)
        levels = (jnp.arange(num, dtype=self.shares.dtype) + offset) / num
        classes = jnp.searchsorted(jnp.cumsum(self.shares)[:-1], levels, side="right")
        return self.of_classes(noise_key, classes)

    def of_classes(self, key: Key, classes: Int[Array, " n"]) -> Float[Array, "n e"]:
        """Draws latents of given classes.

        Args:
          key: Random key.
          classes: Index of the class of each latent.
        """
        noise = jax.random.normal(key, (len(classes), self.code_dim), self.shares.dtype)
        one_hot = jax.nn.one_hot(classes, self.num_classes, dtype=noise.dtype)
        return jnp.concatenate([noise, one_hot], axis=1)

    def push(self, params: Params, z: Float[Array, "n e"]) -> Cloud:
        codes = self.base.push(params, z).points[:, : self.code_dim]
        return Cloud(jnp.concatenate([codes, self.scale * z[:, self.code_dim :]], axis=1))


def classes_of(images: Images, source: str) -> np.ndarray:
    """Return the index of each image's class, in the order of the labels.

    Args:
      images: The images.
      source: What messages call them.

    Raises:
      DataError: If there are no labels, or too few or too many classes.
    """
    if images.labels is None:
        raise DataError(
            f"{source}: has no labels for --by-class. Use a folder with one subfolder for each "
            "class, an array 'labels' in the .npz file, or an IDX file of labels."
        )
    values, classes = np.unique(images.labels, return_inverse=True)
    if not 2 <= len(values) <= _MOST_CLASSES:
        raise DataError(
            f"{source}: --by-class needs 2 to {_MOST_CLASSES} classes; got {len(values)}."
        )
    return classes


def labelled_space(space: Space, classes: np.ndarray, width: int) -> Space:
    """Return the space of codes with their classes.

    Args:
      space: Space of the codes, along their principal axes.
      classes: Class of each code.
      width: Hidden units of the generator.
    """
    codes, num = space.target, int(classes.max()) + 1
    size, deviations = codes.shape[1], jnp.std(codes, axis=0)
    indicators = jax.nn.one_hot(jnp.asarray(classes), num, dtype=codes.dtype)
    scale = _SCALE * jnp.sqrt(jnp.sum(deviations**2))
    start = jnp.concatenate([deviations, jnp.ones(num, codes.dtype)])
    base = flows.mlp(size + num, size + num, width=width, init_scale=start)
    family = Labelled(base, jnp.mean(indicators, axis=0), scale, size + num)

    def show(family: Family) -> Family:
        return space.show(Mapped(family, Partial(_codes, jnp.zeros(size)), None, size))

    target = jnp.concatenate([codes, scale * indicators], axis=1)
    return Space(target, family, show, num)


def latents_of_rows(space: Space, key: Key, num_rows: int, num: int) -> Array:
    """Draw latents [num_rows * num e] of one class in each row, with the classes in turn.

    Args:
      space: From ``labelled_space``.
      key: Random key.
      num_rows: Number of rows.
      num: Latents in a row.
    """
    classes = jnp.repeat(jnp.arange(num_rows) % space.num_classes, num)
    family: Any = space.family
    return family.of_classes(key, classes)


def _codes(like: Float[Array, " k"], points: Float[Array, "n d"]) -> Float[Array, "n k"]:
    return points[:, : like.shape[0]]
