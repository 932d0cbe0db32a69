"""Spaces, schemes and runs of the images benchmark.

Maps to pixels are clipped to [0, 1], in the flow as after it, so that black is black. Particles
move freely and are clipped where they are drawn or classified. Codes have mean 0 and mean variance
1, and flows of codes start at N(0, I). Flows of pixels start at N(m, s^2) with m and s those of all
pixels. Generators from fewer dimensions start at a random network.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

import swjko
from benchmarks.gaussian_flows import compiled
from benchmarks.images.settings import Updates
from swjko import flows
from swjko.autoencoder import Autoencoder, decoded

LATENT_DIM, _ORTHOGONAL_DIM = 48, 64


class Space(NamedTuple):
    """The space of a flow.

    Attributes:
      name: "ambient" (pixels) or "latent" (codes).
      data: Data in the space [m d].
      shape: Shape of an image.
      init_mean: Mean of the start.
      init_scale: Standard deviation of the start.
      show: Turns a family of the space into one of pixels.
      direction_fn: Directions of the comparisons; None takes orthogonal ones in few dimensions.
    """

    name: str
    data: jax.Array
    shape: tuple[int, int, int]
    init_mean: float
    init_scale: float
    show: Callable[[swjko.Family], swjko.Family]
    direction_fn: swjko.DirectionFn | None = None

    @property
    def dim(self) -> int:
        """Dimension d of the space."""
        return self.data.shape[1]


def ambient(rows: jax.Array, shape: tuple[int, int, int], convolved: bool = False) -> Space:
    """The space of pixels, compared along convolutional directions if ``convolved``."""
    moments = float(rows.mean()), float(rows.std())
    direction_fn = swjko.convolutional_directions(*shape) if convolved else None
    return Space("ambient", rows, shape, *moments, lambda family: family, direction_fn)


def latent(model: Autoencoder, params: Any, rows: jax.Array) -> Space:
    """The space of an autoencoder's codes."""
    codes = jax.jit(lambda params, rows: model.encode(params, rows))(params, rows)
    return Space(
        "latent", codes, model.shape, 0.0, 1.0, lambda family: decoded(family, model, params)
    )


def make_scheme(
    key: Any,
    name: str,
    space: Space,
    count: int,
    numbers: Updates,
    network: Mapping[str, dict[str, int]],
) -> Any:
    """The scheme of a method.

    Args:
      key: Random key of the particles, from which those of all schemes start alike.
      name: Method, "SPACE SCHEME FAMILY".
      space: Space of the flow.
      count: Number of particles.
      numbers: Numbers of the scheme.
      network: Widths and depths by space and family.
    """
    _, method, *families = name.split()
    points = space.init_mean + space.init_scale * jax.random.normal(key, (count, space.dim))
    options: Any = {"num_inner_steps": numbers.num_inner_steps}
    projections: Any = {"num_projections": numbers.num_projections}
    if method == "sliced_flow":
        step_size = numbers.step_size * (1.0 if "unscaled" in families else space.dim)
        options |= projections | {"step_size": step_size * numbers.num_inner_steps}
        options["direction_fn"] = space.direction_fn or swjko.orthogonal_directions
        return swjko.sliced_flow(points, space.data, **options)
    # Orthogonal directions factorise a matrix of d x d per block of d directions, which costs
    # little beside a pass over many particles, and much beside an update.
    orthogonal = space.dim <= _ORTHOGONAL_DIM
    usual = swjko.orthogonal_directions if orthogonal else swjko.uniform_directions
    projections["direction_fn"] = space.direction_fn or usual
    particles = families[0] == "particles"
    family = _family(families[0], points, space, network)
    # Where pixels are black, so is their image under a clipped map, but not in the mean of noise.
    family = _clipped(family) if space.name == "ambient" else family
    batch = None if numbers.batch >= len(space.data) else numbers.batch
    functional = swjko.sw_to_target(space.data, batch_size=batch, **projections)
    rate = optax.cosine_decay_schedule(numbers.learning_rate, numbers.num_inner_steps)
    # The rate of particles is in units of the sliced-Wasserstein flow's step over the dimension: a
    # point moves there by count times the gradient of F.
    optimizer = optax.adam(rate)
    if particles:
        optimizer = optax.sgd(numbers.learning_rate * count * space.dim)
    options["num_samples"] = count if particles else numbers.num_samples
    if method == "direct":
        return swjko.direct_minimization(family, functional, optimizer, **options)
    options |= projections | {"step_size": numbers.step_size}
    return swjko.sw_jko(family, functional, optimizer, **options)


def _family(
    name: str, points: jax.Array, space: Space, network: Mapping[str, dict[str, int]]
) -> swjko.Family:
    sizes: Any = network.get(f"{space.name} {name}", {})
    start: Any = {"init_mean": space.init_mean, "init_scale": space.init_scale}
    latent_dim = min(LATENT_DIM, space.dim // 2)
    if name == "particles":
        return swjko.particles(points)
    if name == "coupling":
        return flows.coupling(space.dim, **sizes, **start)
    if name == "mlp":
        latent_dim = space.dim if space.name == "latent" else latent_dim
        return flows.mlp(latent_dim, space.dim, **sizes, **start)
    options: Any = {"output": "sigmoid", "init_mean": -2.0, **sizes}
    return flows.convolutional(latent_dim, space.shape, **options)


def _clipped(family: swjko.Family) -> swjko.Family:
    """The family with its points clipped to [0, 1]."""
    parts = (Partial(part, family) for part in (_init, _latent, _push_clipped))
    return swjko.Family(*parts, None, family.dim, False, family.is_finite)


def _init(family, key):
    return family.init(key)


def _latent(family, key, num):
    return family.latent(key, num)


def _push_clipped(family, params, z):
    return swjko.Cloud(jnp.clip(family.push(params, z).points, 0.0, 1.0))


class Solved(NamedTuple):
    """End of a run, parameters after some of its steps, reports, and seconds."""

    state: Any
    kept: dict[int, Any]
    infos: Any
    compile_seconds: float
    run_seconds: float


def solve(key: Any, scheme: Any, stages: Sequence[int]) -> Solved:
    """Run to the last of some numbers of steps, and keep the parameters at each and at the start.

    One program of as many steps as divide all stages makes the whole run.
    """
    init_key, run_key = jax.random.split(key)
    state = jax.jit(type(scheme).init)(scheme, init_key)
    chunk = math.gcd(*stages)
    options = {"num_steps": chunk, "record": swjko.infos}
    program, compile_seconds = compiled(_run, run_key, scheme, state, **options)
    kept, infos, run_seconds = {0: jax.device_get(state.params)}, [], 0.0
    for step in range(chunk, stages[-1] + 1, chunk):
        start = time.perf_counter()
        state, info = jax.block_until_ready(program(run_key, scheme, state))
        run_seconds += time.perf_counter() - start
        infos.append(jax.device_get(info))
        if step in stages:
            kept[step] = jax.device_get(state.params)
    infos = jax.tree.map(lambda *parts: np.concatenate(parts), *infos)
    return Solved(state, kept, infos, compile_seconds, run_seconds)


_run = jax.jit(swjko.run, static_argnames=("num_steps", "record"))
