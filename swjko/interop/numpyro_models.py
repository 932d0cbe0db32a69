"""NumPyro models as log-densities of one flat point without bounds."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, PyTree

from swjko.interop.raveled import Raveled, from_unconstrained, require_density
from swjko.types import Partitioned, Scalar, as_partial, partitioned, validation
from swjko.types.readable import Readable

_INSTALL = 'Install it: pip install "swjko[interop]".'


def from_numpyro(model: Callable[..., Any], *args: Any, **kwargs: Any) -> Raveled:
    """Makes the posterior of a NumPyro model as a log-density of one flat point [d].

    Latent sites are mapped to unbounded coordinates by NumPyro's ``biject_to``, and Jacobians are
    included. ``target.constrain(points)`` gives draws by the names of the sites. Arrays among the
    arguments are data: they are leaves, so new data compile nothing. Numbers, such as sizes of
    plates, are static. The start is the centre of the unbounded space, x = 0.

    Args:
      model: Function with NumPyro primitives.
      *args: Arguments of the model.
      **kwargs: Keyword arguments of the model, such as observations.

    Raises:
      ValueError: If a latent site is discrete or has no density, or there is none.

    Example::

        target = swjko.interop.from_numpyro(eight_schools, sigma, y=y)
        energy = swjko.kl_divergence(target.log_prob)
        ...
        draws = target.constrain(solution.distribution.sample(key, 4000).points)
    """
    validation.require_callable(model, "model", "with NumPyro primitives")
    try:
        _library("numpyro")
    except ImportError as error:
        raise ImportError(f"from_numpyro needs numpyro. {_INSTALL}") from error
    density = NumpyroDensity(as_partial(model), partitioned((args, kwargs), "args"))
    shapes = _unbounded_shapes(density)
    if not shapes:
        raise ValueError(
            "`model` must have a parameter, a numpyro.sample without obs=; got none. "
            "Without parameters there is no density to sample."
        )
    start = jax.tree.map(lambda site: jnp.zeros(site.shape, site.dtype), shapes)
    target = from_unconstrained(density, start)
    _with_cure(require_density, target, "model", "Pass data and constants of the priors that are")
    return target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NumpyroDensity(Readable):
    """Log-density of unbounded positions, made by ``from_numpyro``.

    Attributes:
      model: The model.
      arguments: Its positional and keyword arguments.
    """

    model: Partial
    arguments: Partitioned

    def __call__(self, position: PyTree) -> Scalar:
        """Returns the log-density of an unbounded position, Jacobians included."""
        energy = _library("numpyro.infer.util").potential_energy
        return -energy(self.model, *self.arguments.whole, position)

    def constrain(self, position: PyTree, deterministic: bool = False) -> dict[str, Array]:
        """Returns the values of the latent sites, and of deterministic ones if asked."""
        values = _library("numpyro.infer.util").constrain_fn
        arguments = self.arguments.whole
        return values(self.model, *arguments, position, return_deterministic=deterministic)

    def unconstrain(self, position: PyTree) -> dict[str, Array]:
        """Returns the unbounded position of values of the latent sites."""
        values = _library("numpyro.infer.util").unconstrain_fn
        return values(self.model, *self.arguments.whole, position)


def _unbounded_shapes(density: NumpyroDensity) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the unbounded shape of each latent site; nothing is computed."""
    distributions, handlers = _library("numpyro.distributions"), _library("numpyro.handlers")
    sites = {}

    def latent(density):
        args, kwargs = density.arguments.whole
        sites.update(handlers.trace(handlers.seed(density.model, 0)).get_trace(*args, **kwargs))
        return {
            name: jnp.zeros(
                distributions.biject_to(site["fn"].support).inverse_shape(jnp.shape(site["value"]))
            )
            for name, site in sites.items()
            if _is_latent(site) and not site["fn"].support.is_discrete
        }

    shapes = _with_cure(jax.eval_shape, latent, density)
    for name, site in sites.items():
        _require_continuous(name, site, distributions.Delta)
    return shapes


def _library(name: str) -> Any:
    """Returns a module of NumPyro, which is imported when it is first used."""
    return importlib.import_module(name)


def _is_latent(site: dict[str, Any]) -> bool:
    return site["type"] == "sample" and not site["is_observed"]


def _require_continuous(name: str, site: dict[str, Any], delta: type) -> None:
    if site["type"] == "plate" and site["args"][1] not in (None, site["args"][0]):
        raise ValueError(
            f"`model` must use all its data; got a subsample in the plate {name!r}. "
            "Leave out subsample_size."
        )
    if _is_latent(site) and site["fn"].support.is_discrete:
        raise ValueError(
            f"`model` must have continuous parameters; got the discrete site {name!r}. Sum it "
            "out, for instance by numpyro.distributions.MixtureSameFamily."
        )
    if _is_latent(site) and isinstance(getattr(site["fn"], "base_dist", site["fn"]), delta):
        raise ValueError(
            f"`model` must have a density at each site; got a Delta at {name!r}. "
            "Use numpyro.deterministic."
        )


def _with_cure(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except jax.errors.JAXTypeError as error:
        raise TypeError(
            "`model` must not read array arguments as Python numbers, since they are traced. Pass "
            f"sizes and switches as int, bool or str, or by functools.partial. {error}"
        ) from error
