"""Families made from equinox modules, and from flowjax flows, which are such modules.

The params are the floating-point arrays of a module by their paths, such as ".layers[0].weight".
What else the module holds is data of the family, taken from one module: static values, integers,
and what ``paramax.non_trainable`` freezes.
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from swjko.families.base import Family
from swjko.families.bijections import (
    forward_and_log_det,
    inverse_and_log_det,
    is_bijection,
    unwrapped,
)
from swjko.families.pushforward import pushforward
from swjko.types import Key, Params, partitioned, validation

# What stands for a param in the rest of a module.
_PARAM = "param"


def from_equinox(
    make_model: Callable[[Key], Any], *, dim: int, latent_dim: int | None = None
) -> Family:
    """Makes a family from an equinox module, as a function of its floating-point arrays.

    mu_0 is the image of N(0, I) under the module as made. Shapes are checked here. Modules with
    dropout or batch normalisation must be in inference mode.

    Args:
      make_model: Function from a key to a module of one point, ``module(z [latent_dim])`` -> [dim].
        For a density it needs ``forward_and_log_det(z)`` -> (point, log_det []) and
        ``inverse_and_log_det(point)`` -> (z, log_det []), or the methods of a flowjax bijection.
        Integer arrays and frozen parameters of the module made from key 0 stay.
      dim: Dimension of the points.
      latent_dim: Dimension of z; None means ``dim``.

    Example::

        family = from_equinox(lambda key: eqx.nn.MLP(3, 2, 64, 2, key=key), dim=2, latent_dim=3)
    """
    # Modules are dataclasses, and may be callable.
    if hasattr(make_model, "__dataclass_fields__") and not isinstance(make_model, type):
        raise TypeError(
            "make_model must be a function from a key to an equinox module; got a module "
            f"{type(make_model).__name__}. Pass lambda key: eqx.nn.MLP(..., key=key)."
        )
    validation.require_callable(make_model, "make_model", "from a key to an equinox module")
    model = make_model(jax.random.key(0))
    if not callable(model) and not is_bijection(model):
        raise TypeError(
            "make_model must return an equinox module that can be called, or has "
            f"forward_and_log_det; got {type(model).__name__}."
        )
    rest = partitioned(_replaced(model, lambda path, leaf: _PARAM), "make_model")

    def init(key: Key) -> Params:
        params: dict[str, Array] = {}
        _replaced(make_model(key), lambda path, leaf: params.setdefault(path, jnp.asarray(leaf)))
        return params

    forward, inverse = (_forward, _inverse) if is_bijection(model) else (_call, None)
    return pushforward(
        init,
        Partial(forward, rest),
        dim=dim,
        inverse=None if inverse is None else Partial(inverse, rest),
        latent_dim=latent_dim,
    )


def from_flowjax(make_flow: Callable[[Key], Any]) -> Family:
    """Makes the family of a flowjax flow or bijection, with its density.

    Args:
      make_flow: Function from a key to a bijection of one point [d], or to a distribution, such as
        a flow of ``flowjax.flows``, that is transformed from a normal law. What
        ``paramax.non_trainable`` freezes is not trained.

    Example::

        family = from_flowjax(lambda key: coupling_flow(
            key, base_dist=Normal(jnp.zeros(2)), flow_layers=4, nn_width=32))
    """
    validation.require_callable(make_flow, "make_flow", "from a key to a flowjax flow")

    def make_bijection(key: Key) -> Any:
        return _bijection(make_flow(key))

    bijection = make_bijection(jax.random.key(0))
    if len(bijection.shape) != 1 or bijection.cond_shape is not None:
        raise ValueError(
            "make_flow must give a bijection of points of shape (d,) without conditions; got shape "
            f"{bijection.shape} and cond_shape {bijection.cond_shape}. Pass cond_dim=None."
        )
    return from_equinox(make_bijection, dim=bijection.shape[0])


def _bijection(flow: Any) -> Any:
    """Returns the map from N(0, I) to a flow."""
    if hasattr(flow, "transform_and_log_det"):
        return flow
    transformed = flow.merge_transforms() if hasattr(flow, "merge_transforms") else flow
    base = type(getattr(transformed, "base_dist", flow)).__name__
    if base != "StandardNormal":
        raise TypeError(
            "make_flow must return a flowjax bijection or a flow from a normal law; got "
            f"{type(flow).__name__} from {base}. Pass base_dist=flowjax.distributions.Normal(...)."
        )
    return transformed.bijection


def _replaced(model: Any, function: Callable[[str, Any], Any]) -> Any:
    """Returns a module with each param replaced by a function of its path and its value."""

    def replaced(path, leaf):
        is_array = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return function(jax.tree_util.keystr(path), leaf) if is_array else leaf

    return jax.tree_util.tree_map_with_path(replaced, model, is_leaf=_is_frozen)


def _is_frozen(leaf: object) -> bool:
    paramax = sys.modules.get("paramax")
    return paramax is not None and isinstance(leaf, paramax.NonTrainable)


def _restored(rest, params):
    def restored(path, leaf):
        return params.get(jax.tree_util.keystr(path), leaf)

    return unwrapped(jax.tree_util.tree_map_with_path(restored, rest.whole))


def _call(rest, params, z):
    return jax.vmap(_restored(rest, params))(z)


def _forward(rest, params, z):
    return jax.vmap(Partial(forward_and_log_det, _restored(rest, params)))(z)


def _inverse(rest, params, points):
    return jax.vmap(Partial(inverse_and_log_det, _restored(rest, params)))(points)
