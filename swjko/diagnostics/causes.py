"""Why a flow became NON_FINITE: its functional on samples of the last good measure."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from swjko.families.base import sample
from swjko.functionals.base import log_density, value_at
from swjko.functionals.energies import InternalEnergy, Potential
from swjko.functionals.entropies import NegativeEntropy
from swjko.functionals.sums import WeightedSum
from swjko.schemes.base import Scheme
from swjko.types import Cloud, Functional, Key, Params

# Samples of the scheme's size that are examined: points outside a support may be rare.
_NUM_SAMPLES = 8

_TRANSFORM = (
    "transform the variable: preprocessed(family, interval(low, high)), from "
    "swjko.families.preprocessing, keeps all points in the support"
)
_OUTSIDE = f"If the target has bounded support, {_TRANSFORM}"
_UNDEFINED = f"Define the function at every point. If the target has bounded support, {_TRANSFORM}"
_POLE = "Remove the pole: the functional has no minimum there"
_NO_GRADIENT = (
    "Write the function so that its derivative exists: in a jnp.where, also that of the branch "
    "that is not taken"
)
_FAMILY = "Lower the learning rate or step_size"
_FUNCTIONAL = "Check the functional on a sample of the family"


def non_finite_cause(key: Key, scheme: Scheme, params: Params) -> str:
    """Names the values that are not finite on samples of a scheme's measure, and the cure.

    The result is empty if all is finite there, or if the scheme has no functional.

    Args:
      key: Random key of the samples.
      scheme: Scheme of one flow.
      params: Parameters of the last good measure.
    """
    inner = _innermost(scheme)
    functional = getattr(inner, "functional", None)
    if functional is None and callable(getattr(inner, "log_prob", None)):
        functional = WeightedSum((jnp.asarray(-1.0),), (Potential(inner.log_prob),))
    if functional is None:
        return ""
    num = getattr(inner, "num_samples", None) or jax.tree.leaves(params)[0].shape[0]
    log_prob = inner.family.log_prob
    law = None if log_prob is None else functools.partial(log_prob, params)
    for number in range(1 if inner.family.is_finite else _NUM_SAMPLES):
        sample_key, functional_key = jax.random.split(jax.random.fold_in(key, number))
        cloud = sample(inner.family, params, sample_key, num)
        findings = _of_family(cloud) + _of_functional(functional_key, functional, cloud, law)
        if (target := getattr(scheme, "target_log_prob", None)) is not None:
            findings += _of_potential(Potential(target), cloud, is_log_density=True)
        for found in findings:
            if found:
                return found
    return ""


def _innermost(scheme: Any) -> Any:
    """Returns the innermost scheme, which holds the functional."""
    while (inner := getattr(scheme, "scheme", None) or getattr(scheme, "jko", None)) is not None:
        scheme = inner
    return scheme


def _of_family(cloud: Cloud) -> list[str]:
    found = [_finding("points of the family", jnp.sum(cloud.points, axis=1), cloud, _FAMILY)]
    if cloud.log_density is not None:
        found += [_finding("log-densities of the family", cloud.log_density, cloud, _FAMILY)]
    return found


def _of_functional(
    key: Key, functional: Functional, cloud: Cloud, log_prob: Any, sign: float = 1.0
) -> list[str]:
    """Returns the fault of each term; an empty string if there is none."""
    if isinstance(functional, WeightedSum):
        keys = jax.random.split(key, len(functional.functionals))
        terms = zip(keys, functional.coefs, functional.functionals, strict=True)
        return [
            found
            for key, coef, term in terms
            for found in _of_functional(key, term, cloud, log_prob, sign * float(coef))
        ]
    if isinstance(functional, NegativeEntropy):
        return []
    if isinstance(functional, Potential):
        return _of_potential(functional, cloud, is_log_density=sign < 0)
    if isinstance(functional, InternalEnergy):
        values = jax.vmap(functional.f)(jnp.exp(log_density(cloud, "internal_energy")))
        return [_finding("values of f at the densities", values, cloud, _FUNCTIONAL)]
    value = float(value_at(functional, key, cloud, log_prob))
    if np.isfinite(value):
        return []
    return [f"the functional is {value} on a sample of {len(cloud.points)} points. {_FUNCTIONAL}"]


def _of_potential(functional: Potential, cloud: Cloud, *, is_log_density: bool) -> list[str]:
    name = "log-densities" if is_log_density else "potentials"
    outside = -np.inf if is_log_density else np.inf
    values, gradients = jax.vmap(jax.value_and_grad(functional.v))(cloud.points)
    host = np.asarray(values)
    cure = _UNDEFINED if np.any(np.isnan(host)) else _OUTSIDE if outside in host else _POLE
    slopes = jnp.sum(gradients, axis=1)
    return [
        _finding(name, values, cloud, cure),
        _finding(f"gradients of the {name}", slopes, cloud, _NO_GRADIENT),
    ]


def _finding(name: str, values: Float[Array, " n"], cloud: Cloud, cure: str) -> str:
    """Returns how many values are NaN or infinite, and the cure; empty if none is."""
    host = np.asarray(values)
    if cloud.weights is not None:  # a point of zero weight is padding
        host = host[np.asarray(cloud.weights) > 0]
    kinds = {"NaN": np.isnan(host), "-inf": np.isneginf(host), "+inf": np.isposinf(host)}
    counts = [f"{kind} on {np.sum(bad)}" for kind, bad in kinds.items() if np.any(bad)]
    return f"{name} are {' and '.join(counts)} of {len(host)} points. {cure}" if counts else ""
