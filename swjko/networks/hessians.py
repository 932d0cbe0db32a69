"""Log-determinants of Hessians of strongly convex functions, exact and estimated.

The functions take any strongly convex function psi of one point and write H for its Hessian.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from swjko.linalg import inverse_of_lower_triangular
from swjko.types import Scalar

# A strongly convex function of one point [d], such as a ``ConvexPotential``.
Potential: TypeAlias = Callable[[Float[Array, " d"]], Scalar]
# (matvec, b) -> y with matvec(y) = b, for a positive definite linear map of R^d.
LinearSolver: TypeAlias = Callable[
    [Callable[[Array], Array], Float[Array, " d"]], Float[Array, " d"]
]

# Lanczos steps of a stochastic log-determinant. The error of each logarithm is 1e-3 at condition
# number 100 of the Hessian, and 1e-8 at 10.
_LANCZOS_STEPS = 16


def log_det_hessian(potential: Potential, z: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Returns the log-determinant of the Hessian at each row, by Cholesky factors.

    It is NaN where the Hessian is not positive definite.
    """

    def at_point(z):
        factor = jnp.linalg.cholesky(jax.jacfwd(jax.grad(potential))(z))
        return 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor)))

    return jax.vmap(at_point)(z)


def log_det_and_score(
    potential: Potential, z: Float[Array, "n d"], score: Float[Array, "n d"]
) -> tuple[Float[Array, " n"], Float[Array, "n d"]]:
    """Returns the log-determinant of the Hessian, and the score of the image of a measure.

    log rho'(x) = log rho(z) - log det H(z) at x = grad psi(z), so
    grad log rho'(x) = H^{-1} (score - grad log det H(z)), with d log det H = tr(H^{-1} dH).
    Arrays that the potential closes over get no derivatives.

    Args:
      potential: Strongly convex function of one point.
      z: Points [n d].
      score: grad log rho of the measure at z [n d].

    Returns:
      log det H [n], and grad log rho' [n d] at the images of z.
    """

    def at_point(z, score):
        hessian, pull_back = jax.vjp(jax.jacfwd(jax.grad(potential)), z)
        factor = jnp.linalg.cholesky(hessian)
        half = inverse_of_lower_triangular(factor)
        inverse = jnp.matmul(half.T, half)
        (slope,) = pull_back(inverse)
        return 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor))), jnp.matmul(inverse, score - slope)

    return jax.vmap(at_point)(z, score)


def stochastic_log_det_hessian(
    potential: Potential, z: Float[Array, "n d"], probes: Float[Array, "m n d"]
) -> Float[Array, " n"]:
    """Estimates the log-determinant of the Hessian at each row, without bias.

    log det H = tr log H = E[v^T log(H) v] by stochastic Lanczos quadrature, exact for each v if d
    is at most 16. The gradient, in z and in the potential's parameters, is unbiased as well:
    d log det H = tr(H^{-1} dH) = E[(H^{-1} v)^T dH v], with H^{-1} v by conjugate gradients. It
    is not the derivative of the quadrature. Only first derivatives are supported.

    Args:
      potential: Strongly convex function of one point.
      z: Points [n d].
      probes: Independent random signs v, with mean v v^T = I.

    References:
      Ubaru, Chen, Saad (2017), doi 10.1137/16M1104974.
    """

    def estimate(z, v):
        _, hessian_times = jax.linearize(jax.grad(potential), z)
        value = _lanczos_quadrature(hessian_times, v, min(_LANCZOS_STEPS, v.shape[0]))
        solution = lax.stop_gradient(solve_by_conjugate_gradients(hessian_times, v))
        slope = jnp.vdot(solution, hessian_times(v))
        return lax.stop_gradient(value) + (slope - lax.stop_gradient(slope))

    return jnp.mean(jax.vmap(jax.vmap(estimate), in_axes=(None, 0))(z, probes), axis=0)


def solve_dense(matvec: Callable[[Array], Array], b: Float[Array, " d"]) -> Float[Array, " d"]:
    """Solves H y = b for a positive definite map H, whose matrix is formed by d calls."""
    matrix = jax.vmap(matvec, out_axes=1)(jnp.eye(b.shape[0], dtype=b.dtype))
    return jax.scipy.linalg.solve(matrix, b, assume_a="pos")


def solve_by_conjugate_gradients(
    matvec: Callable[[Array], Array], b: Float[Array, " d"]
) -> Float[Array, " d"]:
    """Solves H y = b by conjugate gradients, in at most min(2 d, 200) steps.

    The tolerance is eps^(3/4) of the dtype, 6e-6 in float32.
    """
    tolerance = float(jnp.finfo(b.dtype).eps) ** 0.75
    return jax.scipy.sparse.linalg.cg(matvec, b, tol=tolerance, maxiter=min(2 * b.shape[0], 200))[0]


def _lanczos_quadrature(
    matvec: Callable[[Array], Array], v: Float[Array, " d"], num_steps: int
) -> Scalar:
    """Returns v^T log(H) v = |v|^2 e_1^T log(T) e_1.

    T is the tridiagonal matrix of ``num_steps`` Lanczos steps from v.
    """
    norm = jnp.linalg.norm(v)
    threshold = 100 * float(jnp.finfo(v.dtype).eps)

    def step(carry, i):
        q, basis = carry
        basis = basis.at[i].set(q)
        w = matvec(q)
        # Steps past an invariant subspace have q = 0. They put a one on the diagonal, whose
        # logarithm is zero, and couple it to nothing.
        diagonal = jnp.where(jnp.any(q != 0), jnp.vdot(q, w), 1.0)
        # In finite precision the three-term recurrence loses orthogonality, so w is made
        # orthogonal to the whole basis, twice.
        for _ in range(2):
            w = w - basis.T @ (basis @ w)
        length = jnp.linalg.norm(w)
        goes_on = length > threshold * jnp.abs(diagonal)
        q = jnp.where(goes_on, w / jnp.where(goes_on, length, 1.0), 0.0)
        return (q, basis), (diagonal, jnp.where(goes_on, length, 0.0))

    basis = jnp.zeros((num_steps, v.shape[0]), v.dtype)
    _, (diagonal, off_diagonal) = lax.scan(step, (v / norm, basis), jnp.arange(num_steps))
    tridiagonal = (
        jnp.diag(diagonal) + jnp.diag(off_diagonal[:-1], 1) + jnp.diag(off_diagonal[:-1], -1)
    )
    nodes, vectors = jnp.linalg.eigh(lax.stop_gradient(tridiagonal))
    return norm**2 * jnp.sum(vectors[0] ** 2 * jnp.log(nodes))
