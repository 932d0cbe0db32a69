"""Two estimators of a step: path gradients of the entropy, and the jackknife of distances.

- Path gradients: log rho is differentiated through the points alone, not in its parameters. The
  part left out has mean zero for the entropy, and the noise of the rest vanishes at the optimum.
  This holds for the entropy only: for int rho^2 the omission would halve the gradient.
- Jackknife: SW_2^2 between n-point samples exceeds that of the measures by about a constant / n,
  since sorting pairs points by the rank that they happen to have. A combination of all points and
  of halves of them removes that term.

References:
  Roeder, Wu, Duvenaud (2017), arXiv 1703.09194; Quenouille (1956).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from swjko.families.base import Family
from swjko.functionals.base import is_entropy_like, needs_density
from swjko.types import Cloud, Functional, Params, Scalar


def reads_entropy_alone(functional: Functional) -> bool:
    """Returns whether the functional reads the density, and as a multiple of the entropy only."""
    return needs_density(functional) and is_entropy_like(functional)


def path_push(family: Family, params: Params, latent: PyTree) -> Cloud:
    """Returns ``family.push(params, latent)`` with the log-density of a fixed measure.

    Its first derivatives in ``params`` come through the points alone. A family that carries its
    score along needs no inverse for them.
    """
    if family.push_with_score is not None:
        cloud, score = family.push_with_score(params, latent)
        log_density = _with_score(cloud.log_density, score, cloud.points)
    else:
        cloud = family.push(params, latent)
        log_density = path_log_prob(family, params, cloud.points)
    return cloud if log_density is None else cloud._replace(log_density=log_density)


@jax.custom_jvp
def _with_score(log_density: Array, score: Array, points: Array) -> Array:
    """Returns the log-density, whose derivative is along the score at the points."""
    del score, points
    return log_density


@_with_score.defjvp
def _with_score_jvp(primals, tangents):
    log_density, score, _ = primals
    return log_density, jnp.sum(score * tangents[2], axis=1)


@jax.custom_vjp
def path_log_prob(
    family: Family, params: Params, points: Float[Array, "n d"]
) -> Float[Array, " n"] | None:
    """Returns ``family.log_prob(params, points)``, with no first derivative in ``params``.

    ``lax.stop_gradient(params)`` has the same first derivatives, but not the derivatives of the
    gradient, which differentiation through a whole step needs.
    """
    return family.log_prob(params, points)


def _forward(family, params, points):
    return jax.vjp(lambda family, points: family.log_prob(params, points), family, points)


def _backward(pullback, cotangent):
    family, points = pullback(cotangent)
    return family, None, points


path_log_prob.defvjp(_forward, _backward)


def jackknife(distance: Callable[..., Scalar], *points: Float[Array, "n d"]) -> Scalar:
    """Returns a distance between clouds of n points without its bias of order 1 / n.

    It is (n D_n - h D_h) / (n - h), with D_h the mean over two parts of h = n // 2 points. One
    point has no parts, and its distance stays.
    """
    whole, n = distance(*points), points[0].shape[0]
    if n < 2:
        return whole
    h = n // 2
    halves = [distance(*(cloud[first : first + h] for cloud in points)) for first in (0, h)]
    return (n * whole - h * 0.5 * (halves[0] + halves[1])) / (n - h)
