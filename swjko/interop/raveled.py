"""Log-densities of named parameters as log-densities of one flat point.

A position is a pytree of float arrays, such as {"mu": [], "theta": [8]}. Its entries in the order
of ``jax.tree.leaves``, one after another, are the flat point x [d] that functionals, families and
schemes work with.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from swjko.families.distribution import FlowDistribution
from swjko.families.gaussians import gaussian_moments
from swjko.types import Leaf, Scalar, as_partial, static_field, validation
from swjko.types.readable import Readable


def raveled(logdensity: Callable[[PyTree], Scalar], position: PyTree) -> "Raveled":
    """Makes the log-density of a flat point [d] from one of a pytree, such as blackjax takes.

    The log-density is evaluated once, at ``position``.

    Args:
      logdensity: Function from a position to its unnormalised log-density. Bind data with
        ``jax.tree_util.Partial``. For parameters with bounds pass ``swjko.bounded(...)``: its
        positions satisfy the bounds, and flat points need not.
      position: A position of float arrays or numbers with a finite log-density: the start.

    Raises:
      TypeError: If an entry of ``position`` is no float array, such as an integer.
      ValueError: If the log-density at ``position`` is not finite.

    Example::

        target = swjko.raveled(logdensity, {"mu": 0.0, "theta": jnp.zeros(8)})
        energy = swjko.kl_divergence(target.log_prob)
        ...
        draws = target.constrain(cloud.points)  # {"mu": [n], "theta": [n 8]}
    """
    validation.require_callable(logdensity, "logdensity", "from a position to a scalar")
    density = logdensity if hasattr(logdensity, "unconstrain") else as_partial(logdensity)
    position = _float_arrays(position)
    unconstrained = getattr(density, "unconstrain", _same)(position)
    target = from_unconstrained(density, unconstrained)
    require_density(target, "logdensity", "Pass a `position` inside the support, and data that are")
    return target


def from_unconstrained(density: Callable[[PyTree], Scalar], position: PyTree) -> "Raveled":
    """Returns the target of a pytree density that starts at an unconstrained position."""
    leaves, structure = jax.tree.flatten(position)
    if not sum(leaf.size for leaf in leaves):
        raise ValueError("`position` must hold at least one number; got none. Add the parameters.")
    dtype = jnp.result_type(*leaves)
    start = jnp.concatenate([leaf.reshape(-1).astype(dtype) for leaf in leaves])
    return Raveled(density, start, None, None, structure, tuple(leaf.shape for leaf in leaves))


def require_density(target: "Raveled", name: str, cure: str) -> None:
    """Raises an error if the log-density is no scalar, or is not finite at the start."""
    # As a loop of one point, so that it is compiled as a whole.
    try:
        values = lax.map(target.log_prob, target.start[None, :])
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise TypeError(
            f"`{name}` must be traceable by JAX; got one that reads its arguments as Python or "
            f"NumPy values ({type(error).__name__}). Write it in jax.numpy."
        ) from error
    value = validation.require_scalars(values, 1, name, "position")[0]
    if validation.is_concrete(value) and not np.isfinite(value):
        raise ValueError(f"`{name}` must be finite at the start; got {value}. {cure} finite.")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Raveled(Readable):
    """An unnormalised log-density of flat points [d], and the names of what they hold.

    It is made by ``raveled`` and ``from_numpyro``. It is a pytree: data are leaves.

    Attributes:
      density: Log-density of an unconstrained position. With methods ``constrain`` and
        ``unconstrain`` it maps positions to those of the user.
      start: Flat point [d] where a flow may start.
      origin: Flat point that is the origin of whitened points; None if they are not whitened.
      factor: Lower triangular matrix [d d] of whitened points z, which stand for origin + factor z.
      structure: Structure of a position.
      shapes: Shapes of the leaves of an unconstrained position.
    """

    density: Leaf
    start: Leaf
    origin: Leaf
    factor: Leaf
    structure: Any = static_field()
    shapes: tuple[tuple[int, ...], ...] = static_field()

    @property
    def dim(self) -> int:
        """Dimension of the flat points."""
        return sum(map(math.prod, self.shapes))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates of a flat point, such as "theta[3]"."""
        indices = self.structure.unflatten(range(len(self.shapes)))
        names = []
        for path, index in jax.tree_util.tree_flatten_with_path(indices)[0]:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            for at in np.ndindex(self.shapes[index]):
                names.append(f"{name}[{','.join(map(str, at))}]" if at else name)
        return tuple(names)

    @property
    def log_prob(self) -> Partial:
        """The log-density of one flat point [d], which ``swjko.kl_divergence`` takes."""
        return Partial(_log_prob, self)

    def ravel(self, position: PyTree) -> Float[Array, " d"]:
        """Returns the flat point of one position.

        Args:
          position: A position of the same structure and shapes as at the start.
        """
        position = _float_arrays(position)
        structure = jax.tree.structure(position)
        if structure != self.structure:
            raise ValueError(
                f"`position` must have the structure {self.structure} of the start; "
                f"got {structure}. Pass all parameters, by the same names."
            )
        leaves = jax.tree.leaves(getattr(self.density, "unconstrain", _same)(position))
        if (shapes := tuple(leaf.shape for leaf in leaves)) != self.shapes:
            raise ValueError(
                f"`position` must have the shapes {self.shapes} of the start; got {shapes}."
            )
        point = jnp.concatenate([leaf.reshape(-1).astype(self.start.dtype) for leaf in leaves])
        if self.factor is None:
            return point
        return jax.scipy.linalg.solve_triangular(self.factor, point - self.origin, lower=True)

    def unravel(self, point: Float[Array, " d"], *, deterministic: bool = False) -> PyTree:
        """Returns the position of one flat point; parameters with bounds satisfy them.

        Args:
          point: Flat point [d].
          deterministic: Whether to add the deterministic sites of a NumPyro model.
        """
        position = self._unconstrained(point)
        constrain = getattr(self.density, "constrain", None)
        if constrain is None:
            return position
        return constrain(position, True) if deterministic else constrain(position)

    def constrain(self, points: Float[Array, "n d"], *, deterministic: bool = False) -> PyTree:
        """Returns draws by name, each array with a leading axis [n].

        Args:
          points: Flat points [n d], such as ``cloud.points``.
          deterministic: Whether to add the deterministic sites of a NumPyro model.
        """
        points = validation.as_points(points, "points")
        if points.shape[1] != self.dim:
            raise ValueError(
                f"`points` must have the {self.dim} coordinates of the target; "
                f"got {points.shape[1]}. Pass points of a family of dimension target.dim."
            )
        return jax.vmap(lambda point: self.unravel(point, deterministic=deterministic))(points)

    def whitened(self, distribution: FlowDistribution) -> "Raveled":
        """Returns the same target in coordinates in which a Gaussian is N(0, I).

        A family with its default start then starts at the Gaussian. log Z does not change.

        Args:
          distribution: Measure of the ``swjko.gaussian`` family, such as ``swjko.laplace(...)``.
        """
        mean, covariance = gaussian_moments(distribution.params)
        if self.factor is not None or mean.shape != self.start.shape:
            raise ValueError(
                f"`distribution` must be one of the {self.dim} coordinates of a target that is not "
                f"yet whitened; got {mean.shape[0]} coordinates."
            )
        factor = jnp.linalg.cholesky(covariance)
        zero = jnp.zeros_like(self.start)
        return dataclasses.replace(self, start=zero, origin=mean, factor=factor)

    def _unconstrained(self, point: Float[Array, " d"]) -> PyTree:
        if point.shape != (self.dim,):
            raise ValueError(
                f"`point` must have the {self.dim} coordinates of the target; got shape "
                f"{point.shape}. Use a family of dimension target.dim."
            )
        if self.factor is not None:
            moved = jnp.dot(self.factor.astype(point.dtype), point, precision="highest")
            point = self.origin.astype(point.dtype) + moved
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        pieces = jnp.split(point, ends[:-1])
        return self.structure.unflatten(
            piece.reshape(shape) for piece, shape in zip(pieces, self.shapes, strict=True)
        )


def _log_prob(target: Raveled, point: Float[Array, " d"]) -> Scalar:
    value = target.density(target._unconstrained(point))
    if target.factor is None:
        return value
    return value + jnp.sum(jnp.log(jnp.diagonal(target.factor))).astype(value.dtype)


def _float_arrays(position: PyTree) -> PyTree:
    """Returns the position with leaves that are float arrays."""

    def checked(path, leaf):
        return validation.as_float_array(leaf, f"position{jax.tree_util.keystr(path)}")

    return jax.tree_util.tree_map_with_path(checked, position)


def _same(position: PyTree) -> PyTree:
    return position
