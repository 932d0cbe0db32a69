"""A perceptron in flax, with a residual connection if it keeps the dimension.

``swjko.flows.mlp`` makes a family of it.
"""

import itertools

from flax import nnx
from jaxtyping import Array, Float


class Perceptron(nnx.Module):
    """Linear layers with silu between them.

    If ``latent_dim == dim`` the map is z + net(z) and the last layer starts at zero, so the map
    starts at the identity.
    """

    def __init__(self, latent_dim: int, dim: int, width: int, num_layers: int, rngs: nnx.Rngs):
        self.residual = latent_dim == dim
        sizes = [latent_dim] + [width] * num_layers
        self.hidden = nnx.List(
            [nnx.Linear(before, after, rngs=rngs) for before, after in itertools.pairwise(sizes)]
        )
        initializers = nnx.initializers
        last = initializers.zeros_init() if self.residual else initializers.lecun_normal()
        self.last = nnx.Linear(width, dim, kernel_init=last, rngs=rngs)

    def __call__(self, z: Float[Array, "n e"]) -> Float[Array, "n d"]:
        x = z
        for layer in self.hidden:
            x = nnx.silu(layer(x))
        return z + self.last(x) if self.residual else self.last(x)
