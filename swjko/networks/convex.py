"""Input convex potentials in flax, their gradients as maps, and the inverses of these maps.

    psi(z) = alpha |z|^2 / 2 + (1 - alpha) |L^T z|^2 / 2 + <b, z> + sum_k c_k^2 h_k(z)

h is the last layer of an input convex network: all weights but those of z itself are nonnegative,
and all activations are convex and increasing. The Hessian is at least alpha I, so x = grad psi(z)
is invertible: z = argmin psi(z) - <z, x>. By Brenier's theorem grad psi is also the optimal map
between N(0, I) and its image. ``swjko.flows`` makes a family of it.

References:
  Amos, Xu, Kolter (2017), arXiv 1609.07152.
  Huang, Chen, Tsirigotis, Courville (2021), arXiv 2012.05942: convex potential flows.
  Korotin, Egiazarian, Asadulaev, Safin, Burnaev (2021), arXiv 1909.13082: quadratic layers.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from swjko.linalg import hadamard_signs
from swjko.networks.affine import WithLogDet, affine_gain
from swjko.networks.hessians import (
    LinearSolver,
    Potential,
    log_det_and_score,
    log_det_hessian,
    solve_by_conjugate_gradients,
    solve_dense,
    stochastic_log_det_hessian,
)
from swjko.types import Key, Leaf, Params, Scalar

# Newton's method doubles the number of digits, so a few steps suffice. The rest are for shortened
# steps far from the solution. The loop ends when all points have converged.
_MAX_NEWTON_STEPS = 60
# Output weights start at its square, 1e-14. That is zero beside the identity, and Adam still moves
# them at once. At zero itself the gradient of a smooth nonnegative weight vanishes.
_OUTPUT_START = 1e-7


class ConvexFlow(nnx.Module):
    """The map z -> grad psi(z), with its log-determinant and its inverse."""

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
        """Makes the potential.

        Args:
          dim: Dimension of the points.
          width: Hidden units.
          num_layers: Hidden layers.
          rank: Convex quadratics that enter each hidden layer.
          strong_convexity: Smallest eigenvalue alpha of the Hessian.
          num_probes: None to form and factorise the Hessians, by d derivatives for each point. A
            number estimates log-determinants from that many random signs for each row of the
            batch, the same in both directions, and inverts by conjugate gradients: a point then
            costs some tens of derivatives in any dimension. See ``swjko.linalg.hadamard_signs``.
          seed: Seed of the signs.
          rngs: Random streams of flax.
        """
        self.potential = ConvexPotential(dim, width, num_layers, rank, strong_convexity, rngs)
        self.num_probes, self.seed = num_probes, seed

    def forward_and_log_det(self, z: Float[Array, "n d"]) -> WithLogDet:
        return transport(self.potential, z), self._log_det(z)

    def inverse_and_log_det(self, x: Float[Array, "n d"]) -> WithLogDet:
        solve = solve_dense if self.num_probes is None else solve_by_conjugate_gradients
        z = inverse_transport(self.potential, x, solve)
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
    """All ``ConvexFlow`` modules of one size, as functions of their parameters.

    Params are nested dictionaries of arrays. The object itself is a pytree without leaves.
    """

    dim: int
    width: int
    num_layers: int
    rank: int
    strong_convexity: float
    num_probes: int | None = None
    seed: int = 0

    def init(self, key: Key, deviations: Float[Array, " d"] | None = None) -> Params:
        """Returns parameters of the identity, with a random network of negligible weight.

        Args:
          key: Random key.
          deviations: Standard deviations of the inputs; None means ones.
        """
        params = nnx.to_pure_dict(nnx.split(self._make(nnx.Rngs(key)), nnx.Param, ...)[1])
        if deviations is not None:
            for layer in params["potential"]["hidden"].values():
                layer["weights"], layer["factor"] = (
                    layer[name] / deviations[None, :] for name in ("weights", "factor")
                )
        return params

    def transport(self, params: Params, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Returns grad psi at each row."""
        return transport(self._at(params).potential, x)

    def forward(self, params: Params, x: Float[Array, "n d"]) -> WithLogDet:
        """Returns grad psi and the log-determinant of its Jacobian at each row."""
        return self._at(params).forward_and_log_det(x)

    def forward_with_score(
        self, params: Params, x: Float[Array, "n d"], score: Float[Array, "n d"]
    ) -> tuple[Array, Array, Array]:
        """Returns grad psi, its exact log-determinant, and the score; see ``log_det_and_score``."""
        potential = self._at(params).potential
        return transport(potential, x), *log_det_and_score(potential, x, score)

    def inverse(self, params: Params, y: Float[Array, "n d"]) -> WithLogDet:
        """Returns x with grad psi(x) = y, and the log-determinant of dx / dy, at each row."""
        return self._at(params).inverse_and_log_det(y)

    def _at(self, params: Params) -> ConvexFlow:
        return nnx.merge(self._graph, params)

    @functools.cached_property
    def _graph(self) -> nnx.GraphDef:
        return nnx.split(nnx.eval_shape(lambda: self._make(nnx.Rngs(0))), nnx.Param, ...)[0]

    def _make(self, rngs: nnx.Rngs) -> ConvexFlow:
        sizes = (self.dim, self.width, self.num_layers, self.rank)
        return ConvexFlow(*sizes, self.strong_convexity, self.num_probes, self.seed, rngs)


def transport(potential: Potential, z: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Returns grad psi at each row."""
    return jax.vmap(jax.grad(potential))(z)


def inverse_transport(
    potential: Potential, x: Float[Array, "n d"], solve: LinearSolver | None = None
) -> Float[Array, "n d"]:
    """Returns z with grad psi(z) = x at each row, by Newton's method from z = x.

    Derivatives in x and in what the potential closes over are those of the implicit function,
    dz = H^{-1} (dx - d grad psi). First derivatives are supported, in forward and reverse mode.
    A row that does not converge in 60 steps stays at its last iterate.

    Args:
      potential: Strongly convex function of one point.
      x: Points [n d].
      solve: Solver of the Newton steps; None means ``solve_dense``.
    """
    solve = solve_dense if solve is None else solve
    # H is not part of the first derivative, and a while_loop has no reverse derivative. So both see
    # a potential whose parameters are held constant.
    pure, captured = jax.closure_convert(lambda z: potential(z), x[0])
    captured = lax.stop_gradient(captured)
    frozen_gradient = jax.grad(lambda z: pure(z, *captured))

    def at_point(x):
        z, converged = _newton(frozen_gradient, lax.stop_gradient(x), solve)
        # One more step at a constant z squares the remaining error, and its derivative is that of
        # the implicit function.
        step = solve(jax.linearize(frozen_gradient, z)[1], jax.grad(potential)(z) - x)
        return z - jnp.where(converged, step, 0.0)

    return jax.vmap(at_point)(x)


def _newton(
    gradient: Callable[[Array], Array], x: Float[Array, " d"], solve: LinearSolver
) -> tuple[Array, Array]:
    """Returns z with gradient(z) = x to eps^(2/3), and whether it converged.

    A step is kept if it lowers the residual; otherwise its length is divided by four.
    """
    tolerance = float(jnp.finfo(x.dtype).eps) ** (2 / 3) * (1.0 + jnp.linalg.norm(x))

    def unfinished(carry):
        _, residual, _, count = carry
        return (jnp.linalg.norm(residual) > tolerance) & (count < _MAX_NEWTON_STEPS)

    def step(carry):
        z, residual, length, count = carry
        trial = z - length * solve(jax.linearize(gradient, z)[1], residual)
        trial_residual = gradient(trial) - x
        # False if the trial is NaN.
        keep = jnp.linalg.norm(trial_residual) < jnp.linalg.norm(residual)
        length = jnp.where(keep, jnp.minimum(2.0 * length, 1.0), length / 4.0)
        z, residual = jnp.where(keep, trial, z), jnp.where(keep, trial_residual, residual)
        return z, residual, length, count + 1

    start = (x, gradient(x) - x, jnp.ones((), x.dtype), 0)
    z, residual, _, _ = lax.while_loop(unfinished, step, start)
    return z, jnp.linalg.norm(residual) <= tolerance


class ConvexPotential(nnx.Module):
    """The potential psi at one point [d], which starts at |z|^2 / 2.

    L is lower triangular with a positive diagonal. The gradients of the quadratic and linear parts
    alone reach all Gaussians, so these parts have the gain of
    ``swjko.networks.affine.TriangularAffine``. The network has no gain.
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
        self.lower = nnx.Param(jnp.zeros((dim, dim)))
        self.log_diagonal = nnx.Param(jnp.zeros((dim,)))
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
        diagonal = jnp.diag(jnp.exp(0.5 * self.gain * self.log_diagonal[...]))
        factor = diagonal + self.gain * jnp.tril(self.lower[...], -1)
        alpha = self.strong_convexity
        quadratic = alpha * jnp.sum(z**2) + (1.0 - alpha) * jnp.sum((z @ factor) ** 2)
        return 0.5 * quadratic + self.gain * jnp.vdot(self.bias[...], z) + network


class _ConvexLayer(nnx.Module):
    """The layer (z, h) -> softplus(P h + Q (A z)^2 + W z + b), with P and Q nonnegative.

    The first layer has no h.
    """

    def __init__(self, dim: int, size_in: int, size_out: int, rank: int, rngs: nnx.Rngs):
        def normal(shape, scale):
            return nnx.Param(scale * jax.random.normal(rngs.params(), shape))

        self.weights = normal((size_out, dim), 1.0 / math.sqrt(dim))
        self.bias = normal((size_out,), 1.0)
        self.raw_hidden = normal((size_out, size_in), 1.0) if size_in else None
        self.factor = normal((rank, dim), 1.0 / math.sqrt(dim))
        self.raw_quadratic = normal((size_out, rank), 1.0)

    def __call__(self, z: Float[Array, " d"], hidden: Leaf) -> Array:
        # In this order: another one rounds differently.
        u = self.weights[...] @ z + self.bias[...]
        u = u + _nonnegative(self.raw_quadratic[...]) @ (self.factor[...] @ z) ** 2
        if self.raw_hidden is not None:
            u = u + _nonnegative(self.raw_hidden[...]) @ hidden
        return nnx.softplus(u)


def _nonnegative(raw: Array) -> Array:
    """Returns positive weights whose rows sum to about one at the start."""
    return nnx.softplus(raw) / raw.shape[1]
