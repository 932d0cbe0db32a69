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
from jaxtyping import Array, Float

from swjko.families.base import Family
from swjko.functionals.base import is_entropy_like, needs_density
from swjko.types import Functional, Params, Scalar


def reads_entropy_alone(functional: Functional) -> bool:
    """Returns whether the functional reads the density, and as a multiple of the entropy only."""
    return needs_density(functional) and is_entropy_like(functional)


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
