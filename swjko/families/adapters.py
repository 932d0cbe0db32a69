"""Families made from models of flax and distrax.

A model with ``forward_and_log_det(z)`` and ``inverse_and_log_det(points)`` has a density. A model
with only ``__call__(z)`` has none.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors, linen, nnx
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array

from swjko.families.base import Family
from swjko.families.bases import Distribution, with_base
from swjko.families.pushforward import Mapped, Pushforward, pushforward
from swjko.types import Key, Params, validation
from swjko.types.pickling import Picklable

_MUST_NOT_CHANGE = (
    "must give a model whose state no call changes, since the change would be lost between steps."
)
_NNX_CURE = (
    "Call model.eval() in make_model, or pass use_running_average=True to batch normalisation and "
    "deterministic=True to dropout."
)
_LINEN_CURE = "Pass use_running_average=True to BatchNorm, and deterministic=True to Dropout."


def from_nnx(
    make_model: Callable[[nnx.Rngs], nnx.Module], *, dim: int, latent_dim: int | None = None
) -> Pushforward:
    """Makes a family from a flax nnx model, as a function of its ``nnx.Param`` variables.

    mu_0 is the image of N(0, I) under the model as initialised. Shapes are checked here. Other
    state of the model, such as batch statistics and random streams, stays as ``make_model`` gives
    it: it is data of the family, and not trained.

    Args:
      make_model: Function from ``nnx.Rngs`` to a model on batches, ``model(z [n latent_dim])``
        -> [n dim]. For a density the model needs ``forward_and_log_det(z)`` ->
        (points, log_det [n]) and ``inverse_and_log_det(points)`` -> (z, log_det [n]). With
        ``forward_with_score(z, score)`` -> (points, log_det [n], score [n dim]) path gradients
        need no inverse; a score is the gradient of a log-density.
      dim: Dimension of the points.
      latent_dim: Dimension of z; None means ``dim``.

    Raises:
      ValueError: If a call of the model changes its state, as batch normalisation does while it
        trains. The change would be lost between steps.
    """
    if isinstance(make_model, nnx.Module):
        kind = type(make_model).__name__
        raise TypeError(
            f"make_model must be a function from nnx.Rngs to an nnx.Module; got a model {kind}. "
            f"Pass lambda rngs: {kind}(..., rngs=rngs)."
        )
    validation.require_callable(make_model, "make_model", "from nnx.Rngs to an nnx.Module")
    model = nnx.eval_shape(lambda: make_model(nnx.Rngs(0)))
    graph, params, frozen = nnx.split(model, nnx.Param, ...)
    if jax.tree.leaves(frozen):
        name, size = ("dim", dim) if latent_dim is None else ("latent_dim", latent_dim)
        batch = jax.ShapeDtypeStruct((2, validation.as_count(size, name)), float)
        jax.eval_shape(partial(_require_unchanged, graph), params, frozen, batch)
        _, _, frozen = nnx.split(make_model(nnx.Rngs(0)), nnx.Param, ...)
    data = nnx.to_pure_dict(frozen)

    forward, inverse = (_call, None) if _methods(model)[1] is None else (_forward, _inverse)
    family = pushforward(
        _Start.of(make_model),
        Partial(forward, graph, data),
        dim=dim,
        inverse=None if inverse is None else Partial(inverse, graph, data),
        latent_dim=latent_dim,
    )
    if not hasattr(model, "forward_with_score"):
        return family
    return dataclasses.replace(
        family, transform_with_score=Partial(_forward_with_score, graph, data)
    )


def from_linen(module: linen.Module, *, dim: int, latent_dim: int | None = None) -> Family:
    """Makes a family from a flax linen module, as a function of its "params".

    mu_0 is the image of N(0, I) under the module as initialised. Shapes are checked here. Other
    collections, such as batch statistics and constants, stay as they are initialised: they are data
    of the family, and not trained.

    Args:
      module: Module on batches, ``module(z [n latent_dim])`` -> [n dim]. For a density it needs
        the methods ``forward_and_log_det(z)`` -> (points, log_det [n]) and
        ``inverse_and_log_det(points)`` -> (z, log_det [n]). Define submodules in ``setup``, so
        that both methods use the same ones.
      dim: Dimension of the points.
      latent_dim: Dimension of z; None means ``dim``.

    Raises:
      ValueError: If a call of the module changes a collection, or draws random numbers. The change
        would be lost between steps.
    """
    if not isinstance(module, linen.Module):
        raise TypeError(
            f"module must be a flax.linen.Module, such as nn.Dense(2); got {type(module).__name__}."
            " Use from_nnx for nnx models, and swjko.pushforward for functions."
        )
    name, size = ("dim", dim) if latent_dim is None else ("latent_dim", latent_dim)
    size = validation.as_count(size, name)
    forward, inverse = _methods(module)

    def variables(key: Key) -> Params:
        return module.init(key, jnp.zeros((1, size)), method=forward)

    def apply(method: str, frozen: Params, params: Params, batch: Array) -> Any:
        return module.apply({**frozen, "params": params}, batch, method=method)

    try:
        shapes = jax.eval_shape(variables, jax.eval_shape(lambda: jax.random.key(0)))
        frozen = {name: value for name, value in shapes.items() if name != "params"}
        batch = jax.ShapeDtypeStruct((2, size), float)
        jax.eval_shape(partial(apply, forward), frozen, shapes.get("params", {}), batch)
    except (errors.ModifyScopeVariableError, errors.InvalidRngError) as error:
        raise ValueError(f"module {_MUST_NOT_CHANGE} {_LINEN_CURE}") from error
    if frozen:
        made = variables(jax.random.key(0))
        frozen = {name: made[name] for name in frozen}

    return pushforward(
        lambda key: variables(key)["params"],
        Partial(partial(apply, forward), frozen),
        dim=dim,
        inverse=None if inverse is None else Partial(partial(apply, inverse), frozen),
        latent_dim=latent_dim,
    )


def from_distrax(
    init: Callable[[Key], Params], make_bijector: Callable[[Params], Any], *, dim: int
) -> Family:
    """Makes the family of images of N(0, I) under a distrax bijector, with its density.

    Args:
      init: ``key -> params``, any pytree of float arrays. mu_0 is the image under these.
      make_bijector: Function from params to a bijector of R^dim (``event_ndims_in`` 1) or of each
        coordinate (0). It is called inside the compiled program, because a bijector made outside
        would be a constant without gradient.
      dim: Dimension of the points.

    Example::

        family = from_distrax(
            lambda key: {"shift": jnp.zeros(2)},
            lambda params: distrax.ScalarAffine(shift=params["shift"], scale=2.0), dim=2)
    """
    validation.require_callable(make_bijector, "make_bijector", "from params to a distrax bijector")

    def apply(method: str, params: Params, batch: Array) -> tuple[Array, Array]:
        bijector = make_bijector(params)
        ndims = getattr(bijector, "event_ndims_in", None)
        if not hasattr(bijector, method) or ndims not in (0, 1):
            raise TypeError(
                "make_bijector must return a distrax bijector with event_ndims_in 0 or 1; "
                f"got {type(bijector).__name__} with event_ndims_in {ndims}."
            )
        image, log_det = getattr(bijector, method)(batch)
        if ndims == 0:
            log_det = jnp.sum(jnp.broadcast_to(log_det, batch.shape), axis=-1)
        return image, jnp.broadcast_to(log_det, batch.shape[:1])

    forward, inverse = (
        lambda params, batch, method=method: apply(method, params, batch)
        for method in ("forward_and_log_det", "inverse_and_log_det")
    )
    return pushforward(init, forward, dim=dim, inverse=inverse)


def standardised(
    make_model: Callable[[nnx.Rngs], nnx.Module],
    dim: int,
    init_mean: ArrayLike,
    init_scale: ArrayLike,
    latent_dim: int | None = None,
    base: Family | Distribution | None = None,
) -> Family:
    """Returns the model's family followed by x -> mean + scale x, so networks have unit scale."""
    mean, scale = validation.as_start(dim, init_mean, init_scale)
    family = with_base(from_nnx(make_model, dim=dim, latent_dim=latent_dim), base)
    forward, inverse = Partial(_standardise, mean, scale), Partial(_unstandardise, mean, scale)
    return Mapped(family, forward, inverse, dim)


def _methods(model: object) -> tuple[str, str | None]:
    """Returns the names of the map and of its inverse, which is None without a density."""
    names = ("forward_and_log_det", "inverse_and_log_det")
    return names if all(hasattr(model, name) for name in names) else ("__call__", None)


@dataclasses.dataclass(frozen=True)
class _Start(Picklable):
    """The parameters of a new nnx model; equal ones have equal functions and arguments."""

    function: Callable[..., nnx.Module]
    args: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, make_model: Callable[[nnx.Rngs], nnx.Module]) -> "_Start":
        whole = cls(make_model, (), ())
        if type(make_model) is not partial:
            return whole
        # Two objects of functools.partial are never equal, and programs are kept by equality.
        options = tuple(sorted(make_model.keywords.items()))
        parts = cls(make_model.func, make_model.args, options)
        try:
            hash(parts)
        except TypeError:  # arrays among the arguments
            return whole
        return parts

    def __call__(self, key: Key) -> Params:
        model = self.function(*self.args, nnx.Rngs(key), **dict(self.options))
        return nnx.to_pure_dict(nnx.split(model, nnx.Param, ...)[1])


def _call(graph, frozen, params, z):
    return nnx.merge(graph, params, frozen)(z)


def _forward(graph, frozen, params, z):
    return nnx.merge(graph, params, frozen).forward_and_log_det(z)


def _forward_with_score(graph, frozen, params, points, score):
    return nnx.merge(graph, params, frozen).forward_with_score(points, score)


def _inverse(graph, frozen, params, points):
    return nnx.merge(graph, params, frozen).inverse_and_log_det(points)


def _require_unchanged(graph, params, frozen, batch):
    """Raises ValueError if a call writes a variable. Others keep their tracers."""
    model = nnx.merge(graph, params, frozen)
    before = _values(model)
    getattr(model, _methods(model)[0])(batch)
    changed = {
        kind
        for path, (kind, value) in _values(model).items()
        if before.get(path, ("",))[-1] is not value
    }
    if changed:
        raise ValueError(
            f"make_model {_MUST_NOT_CHANGE} Got {', '.join(sorted(changed))}. {_NNX_CURE}"
        )


def _values(model):
    """Returns kind and value of each variable, by path."""
    variables = nnx.to_flat_state(nnx.state(model))
    return {path: (type(one).__name__, one.get_value()) for path, one in variables}


# A family made in double precision serves points in single precision too.
def _standardise(mean, scale, points):
    mean, scale = mean.astype(points.dtype), scale.astype(points.dtype)
    return mean[None, :] + scale[None, :] * points, jnp.sum(jnp.log(scale))


def _unstandardise(mean, scale, points):
    mean, scale = mean.astype(points.dtype), scale.astype(points.dtype)
    return (points - mean[None, :]) / scale[None, :], -jnp.sum(jnp.log(scale))
