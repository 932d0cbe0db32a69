"""One measure of a family: draws and densities without passing the parameters along."""

import dataclasses

import jax
from jaxtyping import Array, Float

from swjko.families.base import Family, sample
from swjko.types import Cloud, Key, Params, validation
from swjko.types.readable import Readable


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FlowDistribution(Readable):
    """The measure of a family at given parameters, such as the end of a flow. It is a pytree.

    Attributes:
      family: Family of measures.
      params: Parameters of the measure.
    """

    family: Family
    params: Params

    @property
    def dim(self) -> int:
        """Dimension of the points."""
        return self.family.dim

    def sample(self, key: Key, num: int) -> Cloud:
        """Draws ``num`` points, with ``log_density`` if the family has a density.

        Args:
          key: Random key.
          num: Number of points, at least 1.
        """
        return sample(self.family, self.params, key, num)

    def log_prob(self, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Returns the log-density at points [n d].

        Args:
          points: Points [n d].

        Raises:
          ValueError: If the family has no density at given points.
        """
        if self.family.log_prob is None:
            raise ValueError(
                "distribution must have a density at given points; this family has none. "
                "Use a family with a density, such as swjko.flows.coupling."
            )
        return self.family.log_prob(self.params, validation.as_points(points, "points"))

    def sample_and_log_prob(
        self, key: Key, num: int
    ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        """Draws points [n d] with their log-densities [n].

        Args:
          key: Random key.
          num: Number of points, at least 1.

        Raises:
          ValueError: If the family has no density.
        """
        cloud = self.sample(key, num)
        if cloud.log_density is None:
            raise ValueError(
                "distribution must have a density; this family has none. "
                "Use sample, or a family with a density, such as swjko.flows.coupling."
            )
        return cloud.points, cloud.log_density
