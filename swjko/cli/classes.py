"""Flows of codes or pixels with their classes, so that each class can be drawn by itself.

A point is a code followed by one coordinate for each class, which is ``scale`` for its own class
and 0 for the others. The generator gets noise and a class, and moves the code alone. Where the
joint law of codes and classes matches that of the data, so does the law of the codes of each class.

Without classes, clusters of the codes take their place: from noise alone a network, which is
continuous, would also fill the gaps between clusters.
"""

import dataclasses
import functools
from collections.abc import Callable
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
from swjko.data.tables import require_extra
from swjko.distances.directions import uniform_directions
from swjko.families.base import Family
from swjko.families.pushforward import Mapped
from swjko.types import Cloud, DirectionFn, Key, Leaf, Params, static_field

_MOST_CLASSES = 100
# Of the coordinate of a class, in deviations of the codes: most projections then separate classes.
_SCALE = 2.0
# Of the latent of a class, beside noise of deviation 1 in tens of coordinates.
_INDICATOR = 3.0
_POINTS_IN_A_CLUSTER, _COMPONENTS = 50, 50


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Labelled(Family):
    """The joint law of codes and classes.

    Attributes:
      base: Family whose first k coordinates are the codes; latents are noise [n e] and indicators
        [n c].
      shares: Share [c] of each class in the data.
      scale: Coordinate of a point's own class.
      dim: k + c.
      noise_dim: e.
    """

    base: Family
    shares: Leaf
    scale: Leaf
    dim: int = static_field()
    noise_dim: int = static_field()

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
        noise_key, offset_key, order_key = jax.random.split(key, 3)
        # Each class has its share of the points up to one, or mass would move between classes.
        offset = jax.random.uniform(offset_key, dtype=self.shares.dtype)
        levels = (jnp.arange(num, dtype=self.shares.dtype) + offset) / num
        classes = jnp.searchsorted(jnp.cumsum(self.shares)[:-1], levels, side="right")
        # In a random order, since a jackknife compares the halves of a batch.
        return self.of_classes(noise_key, jax.random.permutation(order_key, classes))

    def of_classes(self, key: Key, classes: Int[Array, " n"]) -> Float[Array, "n e"]:
        """Draws latents of given classes.

        Args:
          key: Random key.
          classes: Index of the class of each latent.
        """
        noise = jax.random.normal(key, (len(classes), self.noise_dim), self.shares.dtype)
        one_hot = jax.nn.one_hot(classes, self.num_classes, dtype=noise.dtype)
        return jnp.concatenate([noise, _INDICATOR * one_hot], axis=1)

    def push(self, params: Params, z: Float[Array, "n e"]) -> Cloud:
        codes = self.base.push(params, z).points[:, : self.code_dim]
        classes = self.scale / _INDICATOR * z[:, self.noise_dim :]
        return Cloud(jnp.concatenate([codes, classes], axis=1))


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


def clusters_of(points: Float[Array, "m k"], num: int) -> np.ndarray | None:
    """Return the cluster of each point by k-means, or None for a single cluster.

    Args:
      points: Codes along their principal axes, or pixels, whose first fifty principal components
        tell the cluster.
      num: Number of clusters; fewer if they would have less than fifty points on average.
    """
    num = min(num, len(points) // _POINTS_IN_A_CLUSTER)
    if num < 2:
        return None
    model = require_extra("sklearn.cluster").KMeans(num, n_init=1, random_state=0)
    values = np.asarray(points)
    if values.shape[1] > _COMPONENTS:
        components = require_extra("sklearn.decomposition").PCA(_COMPONENTS, random_state=0)
        values = components.fit_transform(values)
    return model.fit_predict(values)


def labelled_space(
    space: Space, classes: np.ndarray, noise_dim: int, make: Callable[[int], Family]
) -> Space:
    """Return the space of codes, or of pixels, with their classes.

    Args:
      space: Space of the codes, along their principal axes, or of pixels.
      classes: Class of each point of its target.
      noise_dim: Dimension e of the noise.
      make: From the number c of classes to the generator, with latents of dimension e + c.
    """
    codes, num = space.target, int(classes.max()) + 1
    size = codes.shape[1]
    indicators = jax.nn.one_hot(jnp.asarray(classes), num, dtype=codes.dtype)
    scale = _SCALE * jnp.sqrt(jnp.sum(jnp.var(codes, axis=0)))
    family = Labelled(make(num), jnp.mean(indicators, axis=0), scale, size + num, noise_dim)

    def show(family: Family) -> Family:
        return space.show(Mapped(family, Partial(_codes, jnp.zeros(size)), None, size))

    target = jnp.concatenate([codes, scale * indicators], axis=1)
    return Space(target, family, show, num)


def generator_of_codes(codes: Float[Array, "m k"], width: int, num_classes: int) -> Family:
    """Return a perceptron of noise [n k] and indicators [n c], which starts as N(0, C) in codes.

    Args:
      codes: Codes along their principal axes.
      width: Hidden units.
      num_classes: c.
    """
    dim = codes.shape[1] + num_classes
    start = jnp.concatenate([jnp.std(codes, axis=0), jnp.ones(num_classes, codes.dtype)])
    return flows.mlp(dim, dim, width=width, init_scale=start)


def labelled_directions(direction_fn: DirectionFn, num_classes: int) -> DirectionFn:
    """Return directions of points and classes that are those of ``direction_fn`` in the points.

    Args:
      direction_fn: Directions of the points alone.
      num_classes: Number of trailing coordinates, which tell the class.
    """
    return functools.partial(_labelled_directions, direction_fn, num_classes)


def _labelled_directions(
    direction_fn: DirectionFn, num_classes: int, key: Key, num: int, dim: int
) -> Float[Array, "l d"]:
    point_key, class_key = jax.random.split(key)
    share = num_classes / dim
    points = direction_fn(point_key, num, dim - num_classes)
    classes = uniform_directions(class_key, num, num_classes)
    return jnp.concatenate([(1 - share) ** 0.5 * points, share**0.5 * classes], axis=1)


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
