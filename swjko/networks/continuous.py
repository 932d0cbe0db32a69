"""Continuous normalising flows in flax: points move along a velocity field for unit time.

    dx/dt = v(t, x) from x(0) = z,
    log rho(x(1)) = log N(z) - int_0^1 div v(t, x(t)) dt.

``swjko.flows`` makes a family of it.

References:
  Chen, Rubanova, Bettencourt, Duvenaud (2018), arXiv 1806.07366.
  Grathwohl et al. (2019), FFJORD, arXiv 1810.01367: the estimated divergence.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from swjko.linalg import hadamard_signs, nan_where
from swjko.networks.affine import affine_gain
from swjko.types import Scalar

# Points and their log-determinants, which are integrated together.
FlowState: TypeAlias = tuple[Float[Array, "n d"], Float[Array, " n"]]
Dynamics: TypeAlias = Callable[[Scalar, FlowState], FlowState]


class ContinuousFlow(nnx.Module):
    """The flow of a ``VelocityField`` over unit time; its inverse integrates backwards."""

    def __init__(
        self,
        dim: int,
        width: int,
        num_layers: int,
        integrator: "RungeKutta | Diffrax",
        num_probes: int | None,
        seed: int,
        rngs: nnx.Rngs,
    ):
        """Makes the velocity field.

        Args:
          dim: Dimension of the points.
          width: Hidden units of the velocity's perceptron.
          num_layers: Its hidden layers.
          integrator: Integrator of the dynamics. The inverse is as accurate as the integral.
          num_probes: None for the exact divergence, by one derivative in each coordinate. A number
            estimates it from that many random signs for each row of the batch, the same in both
            directions; see ``swjko.linalg.hadamard_signs``.
          seed: Seed of the signs.
          rngs: Random streams of flax.
        """
        self.field = VelocityField(dim, width, num_layers, rngs)
        self.integrator, self.num_probes, self.seed = integrator, num_probes, seed

    def forward_and_log_det(self, z: Float[Array, "n d"]) -> FlowState:
        return self.integrator.integrate(self._dynamics(z), (z, jnp.zeros_like(z[:, 0])), 0.0, 1.0)

    def inverse_and_log_det(self, x: Float[Array, "n d"]) -> FlowState:
        return self.integrator.integrate(self._dynamics(x), (x, jnp.zeros_like(x[:, 0])), 1.0, 0.0)

    def _dynamics(self, batch: Float[Array, "n d"]) -> Dynamics:
        if self.num_probes is None:
            units = jnp.eye(batch.shape[1], dtype=batch.dtype)[:, None, :]
            tangents = jnp.broadcast_to(units, (batch.shape[1], *batch.shape))
            return with_divergence(self.field, tangents, 1.0)
        tangents = hadamard_signs(
            jax.random.key(self.seed), batch.shape[0], self.num_probes, batch.shape[1], batch.dtype
        )
        return with_divergence(self.field, tangents, 1.0 / self.num_probes)


def with_divergence(
    velocity: Callable[[Scalar, Float[Array, "n d"]], Float[Array, "n d"]],
    tangents: Float[Array, "m n d"],
    coefficient: float,
) -> Dynamics:
    """Returns the dynamics of points and of log-determinants.

    (t, (x, log_det)) -> (v, coefficient sum_j u_j^T (dv/dx) u_j)

    Args:
      velocity: Velocity (t, x [n d]) -> [n d], row by row.
      tangents: Vectors u_j of each row.
      coefficient: 1 with the unit vectors gives the divergence; 1 / m with m random signs gives
        an unbiased estimate.
    """

    def dynamics(t: Scalar, state: FlowState) -> FlowState:
        # v acts row by row, so one tangent of all rows gives one column of each row's Jacobian.
        v, derivative = jax.linearize(lambda x: velocity(t, x), state[0])
        return v, coefficient * jnp.sum(tangents * jax.vmap(derivative)(tangents), axis=(0, 2))

    return dynamics


@dataclasses.dataclass(frozen=True)
class RungeKutta:
    """The classical fourth-order method in equal steps; the error is of order num_steps^-4."""

    num_steps: int

    def integrate(
        self, dynamics: Dynamics, state: FlowState, start: float, end: float
    ) -> FlowState:
        size = (end - start) / self.num_steps

        def moved(state, slope, length):
            return jax.tree.map(lambda value, rate: value + length * rate, state, slope)

        def step(state, t):
            slope_1 = dynamics(t, state)
            slope_2 = dynamics(t + size / 2, moved(state, slope_1, size / 2))
            slope_3 = dynamics(t + size / 2, moved(state, slope_2, size / 2))
            slope_4 = dynamics(t + size, moved(state, slope_3, size))
            slope = jax.tree.map(
                lambda k_1, k_2, k_3, k_4: (k_1 + 2 * k_2 + 2 * k_3 + k_4) / 6,
                *(slope_1, slope_2, slope_3, slope_4),
            )
            return moved(state, slope, size), None

        times = start + size * jnp.arange(self.num_steps, dtype=state[0].dtype)
        return lax.scan(step, state, times)[0]


@dataclasses.dataclass(frozen=True)
class Diffrax:
    """A solver of diffrax.

    A solver that estimates its error takes adaptive steps, with tolerances eps^0.7 of the dtype
    (1e-5 in float32, 1e-11 in float64) for the whole batch. Another takes ``num_steps`` equal
    steps. An integral that does not finish is NaN. Only reverse-mode gradients are supported.
    """

    solver: Any
    num_steps: int

    def integrate(
        self, dynamics: Dynamics, state: FlowState, start: float, end: float
    ) -> FlowState:
        import diffrax

        dtype = state[0].dtype
        tolerance = float(jnp.finfo(dtype).eps) ** 0.7
        adaptive = isinstance(self.solver, diffrax.AbstractAdaptiveSolver)
        controller = (
            diffrax.PIDController(tolerance, tolerance) if adaptive else diffrax.ConstantStepSize()
        )
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, state, args: dynamics(jnp.asarray(t), state)),
            self.solver,
            jnp.asarray(start, dtype),
            jnp.asarray(end, dtype),
            jnp.asarray((end - start) / self.num_steps, dtype),
            state,
            stepsize_controller=controller,
            throw=False,
        )
        failed = solution.result != diffrax.RESULTS.successful
        return jax.tree.map(lambda values: nan_where(failed, values[-1]), solution.ys)


class VelocityField(nnx.Module):
    """The velocity v(t, x) = A x + b + net(t, x), which starts at zero.

    The flow of A x + b alone reaches the Gaussians, so this part has the gain of
    ``swjko.networks.affine.TriangularAffine``. The last layer of the perceptron starts at zero.
    Activations are smooth, as a high-order integrator requires.
    """

    def __init__(self, dim: int, width: int, num_layers: int, rngs: nnx.Rngs):
        self.gain = affine_gain(dim)
        self.matrix, self.bias = nnx.Param(jnp.zeros((dim, dim))), nnx.Param(jnp.zeros((dim,)))
        sizes = [dim] + [width] * num_layers
        self.hidden = nnx.List(
            [_TimedLayer(before, after, rngs) for before, after in itertools.pairwise(sizes)]
        )
        self.last = nnx.Param(jnp.zeros((width, dim)))

    def __call__(self, t: Scalar, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        hidden = x
        for layer in self.hidden:
            hidden = layer(t, hidden)
        affine = x @ self.matrix[...].T + self.bias[...][None, :]
        return self.gain * affine + hidden @ self.last[...]


class _TimedLayer(nnx.Module):
    """The layer x -> tanh(x W + b + t c)."""

    def __init__(self, size_in: int, size_out: int, rngs: nnx.Rngs):
        self.weights = nnx.Param(
            jax.random.normal(rngs.params(), (size_in, size_out)) / math.sqrt(size_in)
        )
        self.bias = nnx.Param(jnp.zeros((size_out,)))
        self.rate = nnx.Param(jax.random.normal(rngs.params(), (size_out,)))

    def __call__(self, t, x):
        return jnp.tanh(x @ self.weights[...] + (self.bias[...] + t * self.rate[...])[None, :])
