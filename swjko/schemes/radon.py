"""The Radon-Wasserstein drifts of KL: velocities from projections, at a cost of O(n d) a move.

Fields of the form v(x) = mean_theta w_theta(<x, theta>) theta, with the norm
mean_theta int w_theta^2 dmu_theta, make a geometry in which the steepest descent of KL(mu | nu) is

    w_theta(u) = E[<grad log nu(x), theta> | <x, theta> = u] - (log mu_theta)'(u),

the projected score of the target less the score of the projected density mu_theta. Only measures on
lines need a kernel. With s_j = <x_j, theta>, g_j = <grad log nu(x_j), theta> and a Gaussian K of
deviation h, the numerator

    a(u) = sum_j w_j [K(u - s_j) g_j - K'(u - s_j)]

is the drift of the regularised geometry (RRW), which is SVGD on each line, and a over the density
sum_j w_j K(u - s_j) that of the kernel density (KDRW).

The sums are convolutions on a grid: masses are shared between the two nearest bins, multiplied by
the transfer function of K in Fourier space, and read at the points by linear interpolation.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Complex, Float

from swjko.distances.directions import uniform_directions
from swjko.functionals.radial import TowardsTarget, as_target, equal_weights, matmul, scores
from swjko.types import Cloud, DirectionFn, Key, Leaf, Scalar, static_field, validation

# Deviations of the kernel between the outermost point and the end of the grid: what is periodic
# there is e^-12.5 of a peak.
_MARGIN = 5.0


def radon_wasserstein(
    log_prob: Callable[[Float[Array, " d"]], Scalar],
    num_projections: int,
    *,
    bandwidth: float | Scalar | None = None,
    regularized: bool = False,
    num_bins: int = 512,
    direction_fn: DirectionFn = uniform_directions,
    block_size: int | None = None,
) -> "RadonWasserstein":
    """Makes the Radon-Wasserstein drift of KL(mu | nu) towards a density.

    v(x) = mean_theta w_theta(<x, theta>) theta, from scores on lines; see the module's formulas.
    The mean over directions is a d-th of the Wasserstein velocity for a translation, as in
    ``sliced_flow``. A move takes O(num_projections (n + num_bins)) beside the projections.

    Args:
      log_prob: Log-density of nu at one point [d], up to a constant. Bind data by
        ``jax.tree_util.Partial``.
      num_projections: Directions drawn for each move.
      bandwidth: Deviation h of the Gaussian on each line, positive; None means the rule of
        Silverman on each line, 1.06 deviations / n^(1/5).
      regularized: Whether to take RRW, which does not divide by the density; its kernel is one at
        0, so that bandwidths are comparable with those of ``svgd``. Otherwise it is KDRW.
      num_bins: Bins of the grid on each line, at least 16. They should be narrower than h.
      direction_fn: ``(key, num, dim) -> [num dim]`` unit rows.
      block_size: Points whose scores are computed at once; None takes all.

    Example:
      ``particle_flow(points, drift=radon_wasserstein(log_prob, 32), step_size=1.0)``

    References:
      Hess-Childs, Slepcev, Xu, "Radon-Wasserstein gradient flows for interacting-particle sampling
      in high dimensions" (2026), arXiv 2602.05227. The formulas here are derived anew.
    """
    return RadonWasserstein(
        as_target(log_prob),
        None if bandwidth is None else validation.as_positive(bandwidth, "bandwidth"),
        validation.as_count(num_projections, "num_projections"),
        bool(regularized),
        validation.as_count(num_bins, "num_bins", minimum=16),
        validation.require_callable(direction_fn, "direction_fn", "(key, num, dim) -> directions"),
        None if block_size is None else validation.as_count(block_size, "block_size"),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RadonWasserstein(TowardsTarget):
    """Made by ``radon_wasserstein``. The data bound to log_prob and the bandwidth are leaves."""

    log_prob: Partial
    bandwidth: Leaf
    num_projections: int = static_field()
    regularized: bool = static_field()
    num_bins: int = static_field()
    direction_fn: DirectionFn = static_field()
    block_size: int | None = static_field()

    def __call__(self, key: Key, cloud: Cloud) -> Float[Array, "n d"]:
        points, weights = cloud.points, equal_weights(cloud)
        if points.shape[0] < 2:
            raise ValueError(
                "radon_wasserstein needs at least two points, whose density it estimates; got one. "
                "Use more points."
            )
        directions = self.direction_fn(key, self.num_projections, points.shape[1])
        directions = directions.astype(points.dtype)
        forces = scores(self.log_prob, points, self.block_size)

        def on_line(lines: tuple[Array, Array]) -> Float[Array, " n"]:
            return self._on_line(*lines, weights)

        projected = matmul(directions, points.T), matmul(directions, forces.T)
        return matmul(lax.map(on_line, projected).T, directions) / self.num_projections

    def _on_line(
        self, s: Float[Array, " n"], g: Float[Array, " n"], weights: Float[Array, " n"]
    ) -> Float[Array, " n"]:
        """Returns w_theta at the projected points."""
        h, bins = self._width(s, weights), self.num_bins
        low, high = jnp.min(s) - _MARGIN * h, jnp.max(s) + _MARGIN * h
        spacing = (high - low) / (bins - 1)
        places = (s - low) / spacing
        left = jnp.clip(places.astype(jnp.int32), 0, bins - 2)
        part = places - left.astype(places.dtype)
        # Masses are the real parts and forces the imaginary ones, so one pass serves both.
        values = lax.complex(weights, weights * g)
        grid = jnp.zeros((bins,), values.dtype)
        grid = grid.at[left].add(_scaled(values, 1 - part))
        grid = grid.at[left + 1].add(_scaled(values, part))
        density, numerator = self._convolved(grid, h / spacing, spacing)

        def read(values: Float[Array, " m"]) -> Float[Array, " n"]:
            return (1 - part) * values[left] + part * values[left + 1]

        if self.regularized:
            return read(numerator)
        # Rounding in Fourier space must not reach the divisor of a point far from all others.
        alone = jnp.finfo(s.dtype).eps * jnp.max(density)
        return read(numerator) / jnp.maximum(read(density), alone)

    def _convolved(
        self, grid: Complex[Array, " m"], h: Scalar, spacing: Scalar
    ) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """Returns the density and the numerator on the grid; h is in bins, K(0) = 1."""
        omega = 2 * jnp.pi * jnp.fft.fftfreq(grid.shape[0]).astype(h.dtype)
        transfer = jnp.sqrt(2 * jnp.pi) * h * jnp.exp(-((omega * h) ** 2) / 2)
        # Filters that are even (K) and odd (K') keep real sequences real, so real and imaginary
        # parts stay apart.
        spectrum = _scaled(jnp.fft.fft(grid), transfer)
        turned = lax.complex(-omega * spectrum.imag, omega * spectrum.real)
        smooth, slope = jnp.fft.ifft(spectrum), jnp.fft.ifft(turned)
        return smooth.real, smooth.imag - slope.real / spacing

    def _width(self, s: Float[Array, " n"], weights: Float[Array, " n"]) -> Scalar:
        """Returns h, positive also where all points coincide."""
        if self.bandwidth is not None:
            return self.bandwidth.astype(s.dtype)
        variance = jnp.sum(weights * (s - jnp.sum(weights * s)) ** 2)
        least = jnp.finfo(s.dtype).tiny ** 0.5
        effective = 1 / jnp.sum(weights**2)
        return 1.06 * jnp.sqrt(jnp.maximum(variance, least)) * effective**-0.2


def _scaled(values: Complex[Array, " m"], factor: Float[Array, " m"]) -> Complex[Array, " m"]:
    """Returns a product without a promotion of the factor to complex numbers."""
    return lax.complex(factor * values.real, factor * values.imag)
