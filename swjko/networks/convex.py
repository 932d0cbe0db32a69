"""Input convex potentials in flax, and what their gradients are as maps: x = grad psi(z), log det of the Hessian, inverse.

    psi(z) = alpha |z|^2 / 2 + (1 - alpha) |L^T z|^2 / 2 + <b, z> + sum_k c_k^2 h_k(z),

h the last layer of an input convex network: all weights but those of z itself are nonnegative, all activations convex and increasing.
The Hessian is at least alpha I, so grad psi is invertible: z = argmin psi(z) - <z, x>. By Brenier's theorem grad psi is moreover the
optimal map between N(0, I) and its image.

Sources: Amos, Xu, Kolter (2017), arXiv 1609.07152; Huang, Chen, Tsirigotis, Courville (2021), arXiv 2012.05942 (convex potential flows);
Korotin, Egiazarian, Asadulaev, Safin, Burnaev (2021), arXiv 1909.13082 (convex quadratic layers). The functions take any strongly convex
function of one point; ``swjko.flows`` makes a family of it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from swjko.linalg import hadamard_signs, inverse_of_lower_triangular
from swjko.networks.coupling import affine_gain
from swjko.types import Key, Params, Scalar

# A strongly convex function of one point [d]. A module is one.
Potential: TypeAlias = Callable[[Float[Array, " d"]], Scalar]
# (matvec, b) -> the solution y of matvec(y) = b, for a positive definite linear map of R^d.
LinearSolver: TypeAlias = Callable[
    [Callable[[Array], Array], Float[Array, " d"]], Float[Array, " d"]
]

# Newton's iteration doubles its digits: a handful is the rule, and the rest is for steps cut short far from the solution. The loop ends
# when all points have arrived, which a fixed length would have to pay for at each call.
_MAX_NEWTON_STEPS = 60
# Lanczos steps of a stochastic log-determinant: at condition number 100 of the Hessian they leave 1e-3 of each logarithm, at 10 1e-8.
_LANCZOS_STEPS = 16
# Output weights start at its square, 1e-14, which is zero beside the identity, and Adam still moves them at once. At zero itself the
# gradient of any smooth nonnegative weight vanishes.
_OUTPUT_START = 1e-7


class ConvexFlow(nnx.Module):
    """z -> grad psi(z) in batches, with its log-determinant and its inverse.

    With ``num_probes`` None, Hessians are formed and factorised: d derivatives for each point. Otherwise log-determinants are estimated
    from that many fixed random signs for each row of the batch, see ``swjko.linalg.hadamard_signs``, the same in both directions, and the inverse solves
    by conjugate gradients: the cost of a point is some tens of derivatives in any dimension.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        num_layers: int,
        rank: int,
        strong_convexity: float,
        num_probes: int | None,
        seed: int,
        rngs: nnx.Rngs,
    ):
        self.potential = ConvexPotential(dim, width, num_layers, rank, strong_convexity, rngs)
        self.num_probes, self.seed = num_probes, seed

    def forward_and_log_det(
        self, z: Float[Array, "n d"]
    ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        return transport(self.potential, z), self._log_det(z)

    def inverse_and_log_det(
        self, x: Float[Array, "n d"]
    ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        z = inverse_transport(
            self.potential,
            x,
            solve_dense if self.num_probes is None else solve_by_conjugate_gradients,
        )
        return z, -self._log_det(z)

    def _log_det(self, z):
        if self.num_probes is None:
            return log_det_hessian(self.potential, z)
        probes = hadamard_signs(
            jax.random.key(self.seed), z.shape[0], self.num_probes, z.shape[1], z.dtype
        )
        return stochastic_log_det_hessian(self.potential, z, probes)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ConvexMaps:
    """All flows of one size, as functions of their parameters, plain nested dictionaries of arrays. A pytree without leaves."""

    dim: int
    width: int
    num_layers: int
    rank: int
    strong_convexity: float
    num_probes: int | None = None
    seed: int = 0

    def init(self, key: Key, deviations: Float[Array, " d"] | None = None) -> Params:
        """Parameters of the identity, with a random network that is silent, for inputs of the given standard deviations; ones if None."""
        params = nnx.to_pure_dict(nnx.split(self._make(nnx.Rngs(key)), nnx.Param, ...)[1])
        if deviations is not None:
            for layer in params["potential"]["hidden"].values():
                layer["weights"], layer["factor"] = (
                    layer[name] / deviations[None, :] for name in ("weights", "factor")
                )
        return params

    def transport(self, params: Params, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """grad psi at each row."""
        return transport(self._at(params).potential, x)

    def forward(
        self, params: Params, x: Float[Array, "n d"]
    ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        """grad psi and the log-determinant of its Jacobian at each row."""
        return self._at(params).forward_and_log_det(x)

    def forward_with_score(
        self, params: Params, x: Float[Array, "n d"], score: Float[Array, "n d"]
    ) -> tuple[Array, Array, Array]:
        """The same and the score of the image: see ``log_det_and_score``. Log-determinants are exact here."""
        potential = self._at(params).potential
        return transport(potential, x), *log_det_and_score(potential, x, score)

    def inverse(
        self, params: Params, y: Float[Array, "n d"]
    ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        """x with grad psi(x) = y, and the log-determinant of dx / dy, at each row."""
        return self._at(params).inverse_and_log_det(y)

    def _at(self, params: Params) -> ConvexFlow:
        return nnx.merge(self._graph, params)

    @functools.cached_property
    def _graph(self) -> Any:
        return nnx.split(nnx.eval_shape(lambda: self._make(nnx.Rngs(0))), nnx.Param, ...)[0]

    def _make(self, rngs: nnx.Rngs) -> ConvexFlow:
        sizes = (self.dim, self.width, self.num_layers, self.rank)
        return ConvexFlow(*sizes, self.strong_convexity, self.num_probes, self.seed, rngs)


def transport(potential: Potential, z: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """grad psi at each row."""
    return jax.vmap(jax.grad(potential))(z)


def log_det_hessian(potential: Potential, z: Float[Array, "n d"]) -> Float[Array, " n"]:
    """log det of the Hessian of psi at each row, by Cholesky factors; NaN where it is not positive definite."""

    def at_point(z):
        factor = jnp.linalg.cholesky(jax.jacfwd(jax.grad(potential))(z))
        return 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor)))

    return jax.vmap(at_point)(z)


def log_det_and_score(
    potential: Potential, z: Float[Array, "n d"], score: Float[Array, "n d"]
) -> tuple[Float[Array, " n"], Float[Array, "n d"]]:
    """log det H at each row, and the score of the image of a measure whose score at z is given: its grad log rho at x = grad psi(z).

    log rho'(x) = log rho(z) - log det H(z), so grad log rho'(x) = H^{-1} (score - grad log det H(z)), and d log det H = tr(H^{-1} dH). No
    derivatives in what the potential closes over.
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
    """An unbiased estimate of log det H at each row, with an unbiased gradient in z and in the potential's parameters.

    log det H = tr log H = E[v^T log(H) v] by stochastic Lanczos quadrature, exact for each v when d is at most 16 (Ubaru, Chen, Saad 2017,
    doi 10.1137/16M1104974); d log det H = tr(H^{-1} dH) = E[(H^{-1} v)^T dH v] with H^{-1} v by conjugate gradients, and not the
    derivative of the quadrature. First derivatives alone.

    Args:
      probes: v, independent random signs of mean v v^T = I.
    """

    def estimate(z, v):
        gradient, hessian_times = jax.linearize(jax.grad(potential), z)
        del gradient
        value = _lanczos_quadrature(hessian_times, v, min(_LANCZOS_STEPS, v.shape[0]))
        solution = lax.stop_gradient(solve_by_conjugate_gradients(hessian_times, v))
        slope = jnp.vdot(solution, hessian_times(v))
        return lax.stop_gradient(value) + (slope - lax.stop_gradient(slope))

    return jnp.mean(jax.vmap(jax.vmap(estimate), in_axes=(None, 0))(z, probes), axis=0)


def inverse_transport(
    potential: Potential, x: Float[Array, "n d"], solve: "LinearSolver | None" = None
) -> Float[Array, "n d"]:
    """z with grad psi(z) = x at each row, by Newton's method from z = x; ``solve`` as in ``solve_dense``, the default.

    Derivatives, in x and in what the potential closes over, are those of the implicit function, dz = H^{-1} (dx - d grad psi), forwards
    and backwards; first derivatives alone. A row that does not converge in 60 steps is left where it is.
    """
    solve = solve_dense if solve is None else solve
    # The loop ends by itself and H is no part of the first derivative: both see a potential without derivatives in its parameters.
    pure, captured = jax.closure_convert(lambda z: potential(z), x[0])
    captured = lax.stop_gradient(captured)
    frozen_gradient = jax.grad(lambda z: pure(z, *captured))

    def at_point(x):
        z, converged = _newton(frozen_gradient, lax.stop_gradient(x), solve)
        # One step more, at a constant z, squares the error left, and has the derivative of the implicit function.
        step = solve(jax.linearize(frozen_gradient, z)[1], jax.grad(potential)(z) - x)
        return z - jnp.where(converged, step, 0.0)

    return jax.vmap(at_point)(x)


def solve_dense(matvec: Callable[[Array], Array], b: Float[Array, " d"]) -> Float[Array, " d"]:
    """y of H y = b for positive definite H given as a map: its matrix is formed by d calls."""
    matrix = jax.vmap(matvec, out_axes=1)(jnp.eye(b.shape[0], dtype=b.dtype))
    return jax.scipy.linalg.solve(matrix, b, assume_a="pos")


def solve_by_conjugate_gradients(
    matvec: Callable[[Array], Array], b: Float[Array, " d"]
) -> Float[Array, " d"]:
    """The same by calls alone: to eps^(3/4) of the dtype, 6e-6 in float32, in at most 2 d and 200 steps."""
    tolerance = float(jnp.finfo(b.dtype).eps) ** 0.75
    return jax.scipy.sparse.linalg.cg(matvec, b, tol=tolerance, maxiter=min(2 * b.shape[0], 200))[0]


def _newton(
    gradient: Callable[[Array], Array], x: Float[Array, " d"], solve: LinearSolver
) -> tuple[Array, Array]:
    """z with gradient(z) = x to eps^(2/3), and whether it is. A step is kept if the residual falls, and else quartered."""
    tolerance = float(jnp.finfo(x.dtype).eps) ** (2 / 3) * (1.0 + jnp.linalg.norm(x))

    def unfinished(carry):
        _, residual, _, count = carry
        return (jnp.linalg.norm(residual) > tolerance) & (count < _MAX_NEWTON_STEPS)

    def step(carry):
        z, residual, length, count = carry
        trial = z - length * solve(jax.linearize(gradient, z)[1], residual)
        trial_residual = gradient(trial) - x
        # A NaN is no fall.
        keep = jnp.linalg.norm(trial_residual) < jnp.linalg.norm(residual)
        length = jnp.where(keep, jnp.minimum(2.0 * length, 1.0), length / 4.0)
        return (
            jnp.where(keep, trial, z),
            jnp.where(keep, trial_residual, residual),
            length,
            count + 1,
        )

    z, residual, _, _ = lax.while_loop(
        unfinished, step, (x, gradient(x) - x, jnp.ones((), x.dtype), 0)
    )
    return z, jnp.linalg.norm(residual) <= tolerance


def _lanczos_quadrature(
    matvec: Callable[[Array], Array], v: Float[Array, " d"], num_steps: int
) -> Scalar:
    """v^T log(H) v = |v|^2 e_1^T log(T) e_1, T the tridiagonal matrix of ``num_steps`` Lanczos steps from v."""
    norm = jnp.linalg.norm(v)
    threshold = 100 * float(jnp.finfo(v.dtype).eps)

    def step(carry, i):
        q, basis = carry
        basis = basis.at[i].set(q)
        w = matvec(q)
        # Steps past an invariant subspace have q = 0: a one on the diagonal, of logarithm zero, that nothing couples to the rest.
        diagonal = jnp.where(jnp.any(q != 0), jnp.vdot(q, w), 1.0)
        # Orthogonal to the whole basis, twice: in finite precision the three-term recurrence alone loses it.
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


class ConvexPotential(nnx.Module):
    """psi of the module's text at one point [d]; |z|^2 / 2 at the start.

    The quadratic and linear part, whose gradients alone reach all Gaussians, has the gain of ``couplings.TriangularAffine``, for its
    reasons; the network has none, and what little it does while that part is on its way is soon undone. L is lower triangular with a
    positive diagonal.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        num_layers: int,
        rank: int,
        strong_convexity: float,
        rngs: nnx.Rngs,
    ):
        self.gain, self.strong_convexity = affine_gain(dim), strong_convexity
        self.lower, self.log_diagonal = (
            nnx.Param(jnp.zeros((dim, dim))),
            nnx.Param(jnp.zeros((dim,))),
        )
        self.bias = nnx.Param(jnp.zeros((dim,)))
        sizes = [0] + [width] * (num_layers - 1)
        self.hidden = nnx.List([_ConvexLayer(dim, size, width, rank, rngs) for size in sizes])
        self.output = nnx.Param(jnp.full((width,), _OUTPUT_START))

    def __call__(self, z: Float[Array, " d"]) -> Scalar:
        first, *others = self.hidden
        hidden = first(z, None)
        for layer in others:
            hidden = layer(z, hidden)
        network = jnp.sum(self.output[...] ** 2 * hidden) / math.sqrt(self.output.shape[0])
        factor = jnp.diag(jnp.exp(0.5 * self.gain * self.log_diagonal[...])) + self.gain * jnp.tril(
            self.lower[...], -1
        )
        quadratic = self.strong_convexity * jnp.sum(z**2) + (1.0 - self.strong_convexity) * jnp.sum(
            (z @ factor) ** 2
        )
        return 0.5 * quadratic + self.gain * jnp.vdot(self.bias[...], z) + network


class _ConvexLayer(nnx.Module):
    """(z, h) -> softplus(P h + Q (A z)^2 + W z + b), P and Q nonnegative; the first layer has no h."""

    def __init__(self, dim: int, size_in: int, size_out: int, rank: int, rngs: nnx.Rngs):
        def normal(shape, scale):
            return nnx.Param(scale * jax.random.normal(rngs.params(), shape))

        self.weights, self.bias = (
            normal((size_out, dim), 1.0 / math.sqrt(dim)),
            normal((size_out,), 1.0),
        )
        self.raw_hidden = normal((size_out, size_in), 1.0) if size_in else None
        self.factor, self.raw_quadratic = (
            normal((rank, dim), 1.0 / math.sqrt(dim)),
            normal((size_out, rank), 1.0),
        )

    def __call__(self, z: Array, hidden: Any) -> Any:
        u = (
            self.weights[...] @ z
            + self.bias[...]
            + _nonnegative(self.raw_quadratic[...]) @ (self.factor[...] @ z) ** 2
        )
        if self.raw_hidden is not None:
            u = u + _nonnegative(self.raw_hidden[...]) @ hidden
        return nnx.softplus(u)


def _nonnegative(raw: Array) -> Array:
    """Positive weights of a row that sum to about one at the start."""
    return nnx.softplus(raw) / raw.shape[1]
