"""One-step generators: ``drifting`` against ``sw_jko`` for one perceptron, target and time.

The two schemes run in turns for each seed, so the load of the machine meets both alike. Seconds are
those of a compiled run, and in the JSON, in ``rows``:

- sw: SW_2^2 of as many fresh samples as are held out to these, on the same directions for all;
  mean and standard deviation over the seeds.
- floor: that of the training data themselves.
- seconds: median wall seconds of a run.

``sw_jko`` has the numbers of the images benchmark for digits, and as many updates for the rings.
"""

import argparse
import statistics
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import swjko
from benchmarks import common
from benchmarks.gaussian_flows import compiled
from swjko import flows
from swjko.problems import load_images

_DIRECTIONS = 1024
FLAGS = common.Flags(quick="few steps of small networks", seeds="number of seeds (default 3)")


class Sizes(NamedTuple):
    """Numbers of a target: JKO (steps, updates), and drift (steps, moves, updates, batch)."""

    jko: tuple[int, int]
    drift: tuple[int, int, int, int]
    width: int
    num_samples: int


DEFAULT = {
    "rings": Sizes(jko=(10, 80), drift=(20, 16, 200, 256), width=64, num_samples=1024),
    "digits": Sizes(jko=(10, 80), drift=(20, 8, 200, 256), width=256, num_samples=898),
}
QUICK = {name: Sizes((2, 2), (2, 2, 2, 8), 8, 32) for name in DEFAULT}


def main(args: argparse.Namespace) -> None:
    rows, drawn = [], {}
    for target, sizes in (QUICK if args.quick else DEFAULT).items():
        data, held_out = rings() if target == "rings" else digits()
        drawn[target, "data"] = held_out
        found = _measured(data, held_out, sizes, args.seeds or 3)
        floor = _distance(data, held_out)
        for method, (distances, seconds, points) in found.items():
            drawn[target, method] = points
            sw = common.mean_and_deviation(distances)
            row = {"target": target, "method": method, "sw": sw, "seconds": seconds}
            rows.append(row | {"floor": floor, "distances": distances})
            common.show(f"{target}, {method}", rows[-1])
    common.finish(args, {"quick": args.quick, "sizes": DEFAULT, "rows": rows}, ("", _figure(drawn)))


def rings() -> tuple[jax.Array, jax.Array]:
    """Two samples of 4000 points on circles of radius 1 and 2, with noise of 0.05."""
    rng = np.random.default_rng(0)
    radii, angles = rng.choice([1.0, 2.0], 8000), rng.uniform(0, 2 * np.pi, 8000)
    points = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    points = jnp.asarray(points + 0.05 * rng.normal(size=points.shape), jnp.float32)
    return points[:4000], points[4000:]


def digits() -> tuple[jax.Array, jax.Array]:
    """Two random halves of scikit-learn's digits, as rows of 64 pixels in [0, 1]."""
    rows = load_images("digits").rows()
    rows = jnp.asarray(rows[np.random.default_rng(0).permutation(len(rows))], jnp.float32)
    return rows[:898], rows[898:1796]


def schemes(data: jax.Array, sizes: Sizes) -> dict[str, tuple[Any, int]]:
    """The schemes and their numbers of steps."""
    dim = data.shape[1]
    start = (float(data.mean()), float(data.std())) if dim > 2 else (0.0, 1.0)
    family = flows.mlp(dim, dim, width=sizes.width, init_mean=start[0], init_scale=start[1])
    batch = sizes.num_samples if sizes.num_samples < len(data) else None
    projections: Any = {"num_projections": max(32, dim)}
    projections["direction_fn"] = swjko.orthogonal_directions
    functional = swjko.sw_to_target(data, batch_size=batch, **projections)
    num_steps, updates = sizes.jko
    jko = swjko.sw_jko(
        family,
        functional,
        optax.adam(optax.cosine_decay_schedule(3e-3, updates)),
        step_size=5.0,
        num_inner_steps=updates,
        num_samples=sizes.num_samples,
        **projections,
    )
    drift_steps, moves, updates, pairs = sizes.drift
    drift = swjko.drifting(
        family,
        functional,
        optax.adam(optax.cosine_decay_schedule(3e-3, drift_steps * updates)),
        # A move goes half of the way.
        step_size=0.5 * moves * dim,
        num_drift_steps=moves,
        num_inner_steps=updates,
        num_samples=sizes.num_samples,
        batch_size=pairs,
    )
    return {"sw_jko": (jko, num_steps), "drifting": (drift, drift_steps)}


def _measured(
    data: jax.Array, held_out: jax.Array, sizes: Sizes, num_seeds: int
) -> dict[str, tuple[list[float], float, np.ndarray]]:
    """Distances of each seed, median seconds, and points of the last seed, of each scheme."""
    made, programs = schemes(data, sizes), {}
    key = jax.random.key(0)
    for name, (scheme, num_steps) in made.items():
        options = {"num_steps": num_steps, "record": swjko.infos}
        programs[name], _ = compiled(_run, key, scheme, scheme.init(key), **options)
    found: dict[str, Any] = {name: ([], [], None) for name in made}
    for seed in range(num_seeds):
        init_key, run_key, draw_key = jax.random.split(jax.random.key(seed), 3)
        for name, (scheme, _) in made.items():
            start = scheme.init(init_key)
            call = (programs[name], run_key, scheme, start)
            seconds, (state, _) = common.timed(lambda call=call: call[0](*call[1:]))
            points = swjko.sample(scheme.family, state.params, draw_key, len(held_out)).points
            found[name][0].append(_distance(points, held_out))
            found[name][1].append(seconds)
            found[name] = (*found[name][:2], points)
    return {
        name: (distances, statistics.median(seconds), points)
        for name, (distances, seconds, points) in found.items()
    }


def _distance(points: jax.Array, held_out: jax.Array) -> float:
    key = jax.random.key(5)
    directions = swjko.orthogonal_directions(key, _DIRECTIONS, held_out.shape[1])
    return float(_sliced_pow(points, held_out, directions))


_run = jax.jit(swjko.run, static_argnames=("num_steps", "record"))
_sliced_pow = jax.jit(swjko.sliced_wasserstein_pow)


def _figure(drawn: dict[tuple[str, str], Any]) -> Figure:
    """Points of the rings above, pictures of the digits below."""
    figure, axes = common.new_figure(7.5, 5.2, rows=2, columns=3)
    for axis, name in zip(axes[0], ("data", "sw_jko", "drifting"), strict=True):
        axis.scatter(*np.asarray(drawn["rings", name])[:2000].T, s=1, linewidths=0)
        axis.set(title=name, aspect="equal", xlim=(-2.6, 2.6), ylim=(-2.6, 2.6))
    for axis, name in zip(axes[1], ("data", "sw_jko", "drifting"), strict=True):
        pictures = np.clip(drawn["digits", name][:40], 0, 1).reshape(5, 8, 8, 8)
        axis.imshow(pictures.transpose(0, 2, 1, 3).reshape(40, 64), cmap="gray_r", vmin=0, vmax=1)
        axis.axis("off")
    return figure
