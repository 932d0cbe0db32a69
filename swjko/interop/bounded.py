"""Log-densities of parameters with bounds, in coordinates without bounds.

With a bijection x = f(y) for each parameter, log p(y) = log p(f(y)) + sum log |det f'(y)|.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import PyTree

from swjko.families.bijections import forward_and_log_det, inverse_and_log_det, is_bijection
from swjko.types import Leaf, Scalar, as_partial, validation
from swjko.types.readable import Readable


def bounded(log_prob: Callable[[Any], Scalar], bijectors: PyTree) -> "Bounded":
    """Makes the log-density of unbounded coordinates from one of parameters with bounds.

    Args:
      log_prob: Log-density of a position, or of one point [d]. It need not check its support.
      bijectors: A pytree of the structure of the positions, or one bijection for an array. Each is
        a bijector of distrax, a transform or constraint of NumPyro, or a bijection of flowjax, from
        unbounded values to the parameter. None, or a name that a dictionary leaves out, is a
        parameter without bounds. ``distrax.as_bijector`` takes those of TensorFlow Probability.

    Returns:
      A log-density of unbounded positions, which are of the same structure. ``swjko.raveled`` takes
      it, with a position that satisfies the bounds.

    Example::

        from numpyro.distributions import constraints

        density = swjko.bounded(log_prob, {"scale": constraints.positive, "p": constraints.simplex})
        target = swjko.raveled(density, {"mu": 0.0, "scale": 1.0, "p": jnp.full(3, 1 / 3)})
    """
    validation.require_callable(log_prob, "log_prob", "from a position to a scalar")
    bijectors = jax.tree.map(_as_bijection, bijectors, is_leaf=_is_whole)
    return Bounded(as_partial(log_prob), bijectors)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bounded(Readable):
    """Made by ``bounded``.

    Attributes:
      log_prob: Log-density of a position that satisfies the bounds.
      bijectors: Bijections from unbounded values, in the structure of the positions.
    """

    log_prob: Partial
    bijectors: Leaf

    def __call__(self, position: PyTree) -> Scalar:
        """Returns the log-density of an unbounded position."""
        image, log_det = self._mapped(forward_and_log_det, position)
        return self.log_prob(image) + log_det

    def constrain(self, position: PyTree) -> PyTree:
        """Returns the position that satisfies the bounds."""
        return self._mapped(forward_and_log_det, position)[0]

    def unconstrain(self, position: PyTree) -> PyTree:
        """Returns the unbounded position, and checks that each bijection fits its parameter."""
        found = self._mapped(inverse_and_log_det, position)[0]
        back = jax.eval_shape(self.constrain, found)
        for (path, leaf), image in zip(
            jax.tree_util.tree_flatten_with_path(position)[0], jax.tree.leaves(back), strict=True
        ):
            if image.shape != leaf.shape:
                raise ValueError(
                    f"`bijectors` must have one of the size of position{_name(path)}, shape "
                    f"{leaf.shape}; got one that returns shape {image.shape}."
                )
        return found

    def _mapped(self, function: Callable[..., Any], position: PyTree) -> tuple[PyTree, Any]:
        bijectors = self.bijectors
        if isinstance(bijectors, dict) and isinstance(position, dict):
            if unknown := sorted(set(bijectors) - set(position)):
                raise ValueError(
                    f"`bijectors` must name parameters of the position, {', '.join(position)}; "
                    f"got {', '.join(unknown)}."
                )
            bijectors = {name: bijectors.get(name) for name in position}
        total: Any = 0.0

        def one(path, bijection, part):
            nonlocal total
            if bijection is None:
                return part
            try:
                image, log_det = function(bijection, jnp.asarray(part))
            except (TypeError, ValueError, AssertionError) as error:
                raise ValueError(
                    f"`bijectors` must have one of the size of position{_name(path)}, shape "
                    f"{jnp.shape(part)}; got {type(bijection).__name__}: {error}"
                ) from error
            total = total + log_det
            return image

        image = jax.tree_util.tree_map_with_path(one, bijectors, position, is_leaf=_is_whole)
        return image, total


def _is_whole(value: object) -> bool:
    return value is None or is_bijection(value) or _is_constraint(value)


def _is_constraint(value: object) -> bool:
    kinds = type(value).__mro__
    return any(kind.__module__ == "numpyro.distributions.constraints" for kind in kinds)


def _as_bijection(value: Any) -> Any:
    if _is_constraint(value):
        return importlib.import_module("numpyro.distributions").biject_to(value)
    if value is None or is_bijection(value):
        return value
    raise TypeError(
        "`bijectors` must be bijectors of distrax, transforms or constraints of NumPyro, or "
        f"bijections of flowjax; got {type(value).__name__}. Pass one such as distrax.Lambda("
        "jnp.exp), or numpyro.distributions.constraints.positive."
    )


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path)
