"""Measures on the line in Lagrangian coordinates: n cells of equal mass, with moving edges.

    mu = sum_i uniform([e_i, e_{i+1}]) / n,   density 1 / (n (e_{i+1} - e_i)) on cell i.

Clouds hold the middles of the cells with their density. Energies of the density are exact, others
are sums over the middles, and a JKO step is the implicit Lagrangian step for the equation of the
flow.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from swjko.families.base import Family
from swjko.types import Cloud, Key, Leaf, Params, validation


def cells(edges: Float[Array, " e"], *, max_density: float | None = None) -> "Cells":
    """Makes the family of n cells of equal mass on the line, with a density.

    Params are the left end and the logarithms of the widths [n], above the least width if there is
    one, so cells never cross. Schemes need num_samples == n. Nothing is drawn at random, and
    num_projections=1 gives the exact distance of the middles. ``optax.lbfgs`` solves the steps.

    Args:
      edges: Edges [n + 1] of the cells of mu_0, increasing. Equal masses between them make mu_0:
        take quantiles at i / n.
      max_density: Largest density, as of a crowd; None is unbounded. Widths are then at least
        1 / (n max_density), and those of mu_0 must be above.

    Example:
      ``cells(jnp.linspace(-1.0, 1.0, 101))`` is uniform on [-1, 1].

    References:
      Gosse, Toscani (2006), "Lagrangian numerical approximations to one-dimensional
      convolution-diffusion equations". Maury, Roudneff-Chupin, Santambrogio (2010), arXiv
      1002.0686, on crowds.
    """
    edges = validation.as_values(edges, "edges")
    if edges.shape[0] < 2:
        raise ValueError(f"edges must hold at least two values; got {edges.shape[0]}.")
    n = edges.shape[0] - 1
    least = jnp.zeros_like(edges[0])
    if max_density is not None:
        bound = validation.as_positive(max_density, "max_density")
        least = (1.0 / (n * bound)).astype(edges.dtype)
    room = jnp.diff(edges) - least
    if validation.is_concrete(room) and not bool(jnp.all(room > 0)):
        raise ValueError(
            f"edges must increase by more than {float(least):.6g} from one to the next; got a "
            f"smallest width of {float(jnp.min(jnp.diff(edges))):.6g}. Sort them"
            + ("." if max_density is None else ", or start below max_density.")
        )
    return Cells(edges, least)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cells(Family):
    """Made by ``cells``. edges, those of mu_0, and least_width are leaves."""

    edges: Leaf
    least_width: Leaf
    dim: ClassVar[int] = 1
    has_density: ClassVar[bool] = True
    is_finite: ClassVar[bool] = True

    def init(self, key: Key) -> Params:
        del key
        widths = jnp.diff(self.edges) - self.least_width
        return {"left": self.edges[0], "log_widths": jnp.log(widths)}

    def latent(self, key: Key, num: int) -> Int[Array, " n"]:
        del key
        if num != (n := self.edges.shape[0] - 1):
            raise ValueError(f"`num_samples` of cells must be their number, {n}; got {num}.")
        return jnp.arange(num)

    def push(self, params: Params, z: Int[Array, " num"]) -> Cloud:
        widths = self._widths(params)
        middles = params["left"] + jnp.cumsum(widths) - widths / 2
        return Cloud(middles[z][:, None], None, -jnp.log(widths.shape[0] * widths)[z])

    def edges_at(self, params: Params) -> Float[Array, " e"]:
        """Returns the edges of the cells."""
        right = params["left"] + jnp.cumsum(self._widths(params))
        return jnp.concatenate([params["left"][None], right])

    def _widths(self, params: Params) -> Float[Array, " n"]:
        return self.least_width + jnp.exp(params["log_widths"])
