"""One-step generators: ``drifting`` against ``sw_jko`` for one perceptron, target and time.

Targets are two rings, scikit-learn's digits, and the codes of MNIST in an autoencoder, along their
principal axes, as ``python -m swjko generate`` has them. The codes need the files of MNIST; without
them they have no row. Schemes run in turns for each seed, without compilation. ``direct`` minimises
F by Adam alone, with as many updates as ``sw_jko``. In the JSON, of each row:

- sw: SW_2^2 of as many fresh samples as there are training data to the held-out ones, on the same
  directions for all, after the last step; mean and standard deviation over the seeds. start is that
  of the first params.
- sw_in_time: that after the last step which ends before the quicker of ``drifting`` and ``sw_jko``
  has ended, so what the two reach in equal seconds; absent for ``direct``.
- floor: that of the training data themselves.
- seconds: median wall seconds of a run.

``sw_jko`` has the numbers of the images benchmark, and for the rings as many updates as for digits.
Numbers of ``drifting`` for the codes were chosen on another split. ``curves`` holds seconds and
distances after each step, for each seed.
"""

import argparse
import functools
import statistics
import sys
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
from swjko.cli.codes import latent_space
from swjko.cli.generate import split
from swjko.problems import DataError, Images, load_images

_DIRECTIONS = 1024
FLAGS = common.Flags(quick="few steps of small networks", seeds="number of seeds (default 3)")


class Jko(NamedTuple):
    """Numbers of ``sw_jko``; ``samples`` are those of the measure and of the data in an update."""

    steps: int
    updates: int
    samples: int
    rate: float = 3e-3


class Drift(NamedTuple):
    """Numbers of ``drifting``; ``batch`` is of the data in a move, and None takes all of them."""

    steps: int
    moves: int
    updates: int
    pairs: int
    samples: int
    batch: int | None
    rate: float = 3e-3


class Sizes(NamedTuple):
    """Numbers of a target."""

    width: int
    jko: Jko
    drift: Drift


DEFAULT = {
    "rings": Sizes(64, Jko(10, 80, 1024), Drift(20, 16, 200, 256, 1024, 1024)),
    "digits": Sizes(256, Jko(10, 80, 898), Drift(20, 8, 200, 256, 898, None)),
    "MNIST codes": Sizes(
        256, Jko(5, 480, 1024, 5e-3), Drift(16, 60, 250, 256, 2500, None, rate=2e-3)
    ),
}
_FEW = Sizes(8, Jko(2, 2, 32), Drift(2, 2, 2, 8, 32, 32))
QUICK = {"rings": _FEW, "digits": _FEW}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the data."""
    text = "directory of the files of MNIST (default: SWJKO_DATA)"
    parser.add_argument("--data-dir", metavar="DIR", help=text)


def main(args: argparse.Namespace) -> None:
    """Measure all schemes on all targets."""
    rows, curves, drawn = [], [], {}
    sizes = QUICK if args.quick else DEFAULT
    for target, (data, held_out) in _targets(sizes, args.data_dir).items():
        drawn[target, "data"] = held_out
        floor = _distance(data, held_out)
        found, points = _measured(target, data, held_out, sizes[target], args.seeds or 3)
        curves += [curve for of_scheme in found.values() for curve in of_scheme]
        drawn |= points
        for name, row in _rows(found).items():
            rows.append({"target": target, "method": name, "floor": floor} | row)
            common.show(f"{target}, {name}", rows[-1])
    content = {"quick": args.quick, "sizes": sizes, "rows": rows, "curves": curves}
    common.finish(args, content, ("", _figure(drawn, curves)))


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


def codes_of(images: Images, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Codes of four fifths of the images: most for training, and a fifth of these held out."""
    rows = images.rows()[split(images, seed)[0]]
    codes = latent_space(jax.random.key(seed), "mlp", rows, images.shape, None, False).target
    codes = codes[np.random.default_rng(seed).permutation(len(codes))]
    size = 4 * len(codes) // 5
    return codes[:size], codes[size:]


def _targets(
    sizes: dict[str, Sizes], data_dir: str | None
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Training data and held-out data by target."""
    found = {"rings": rings(), "digits": digits()}
    if "MNIST codes" in sizes:
        try:
            found["MNIST codes"] = codes_of(load_images("mnist", data_dir))
        except DataError as error:
            print(f"benchmarks generators: no codes of MNIST: {error}", file=sys.stderr)
    return found


def schemes(target: str, data: jax.Array, sizes: Sizes) -> dict[str, tuple[Any, int]]:
    """The schemes and their numbers of steps."""
    jko, drift, dim = sizes.jko, sizes.drift, data.shape[1]
    starts: dict[str, dict[str, Any]] = {
        "rings": {},
        "digits": {"init_mean": float(data.mean()), "init_scale": float(data.std())},
        "MNIST codes": {"init_scale": jnp.std(data, axis=0)},
    }
    family = flows.mlp(dim, dim, width=sizes.width, **starts[target])
    projections: Any = {"num_projections": dim * max(1, 32 // dim)}
    projections["direction_fn"] = swjko.orthogonal_directions
    batch = jko.samples if jko.samples < len(data) else None
    functional = swjko.sw_to_target(data, batch_size=batch, **projections)
    steps = swjko.sw_jko(
        family,
        functional,
        _adam(jko.rate, jko.updates),
        step_size=5.0,
        num_inner_steps=jko.updates,
        num_samples=jko.samples,
        **projections,
    )
    updates = jko.steps * jko.updates
    direct = swjko.direct_minimization(
        family,
        functional,
        _adam(jko.rate, updates),
        num_inner_steps=updates,
        num_samples=jko.samples,
    )
    drifting = swjko.drifting(
        family,
        swjko.sw_to_target(data, batch_size=drift.batch, **projections),
        _adam(drift.rate, drift.steps * drift.updates),
        # A move goes half of the way.
        step_size=0.5 * drift.moves * dim,
        num_drift_steps=drift.moves,
        num_inner_steps=drift.updates,
        num_samples=drift.samples,
        batch_size=drift.pairs,
    )
    return {
        "sw_jko": (steps, jko.steps),
        "drifting": (drifting, drift.steps),
        "direct": (direct, 1),
    }


def _adam(rate: float, updates: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, updates))


def _measured(
    target: str, data: jax.Array, held_out: jax.Array, sizes: Sizes, num_seeds: int
) -> tuple[dict[str, list[dict[str, Any]]], dict[tuple[str, str], Any]]:
    """Curves of each scheme by seed, and points of the last seed."""
    made, key = schemes(target, data, sizes), jax.random.key(0)
    step = jax.jit(lambda key, scheme, state: scheme.step(key, state))
    programs = {
        name: compiled(step, key, scheme, scheme.init(key)).call
        for name, (scheme, _) in made.items()
    }
    draw = jax.jit(lambda family, params, key: family.push(params, family.latent(key, len(data))))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in made}
    points = {}
    for seed in range(num_seeds):
        init_key, run_key, draw_key = jax.random.split(jax.random.key(seed), 3)
        for name, (scheme, num_steps) in made.items():
            state = scheme.init(init_key)
            seconds, distances = [0.0], []
            for index in range(num_steps + 1):
                points[target, name] = draw(scheme.family, state.params, draw_key).points
                distances.append(_distance(points[target, name], held_out))
                if index < num_steps:
                    key = jax.random.fold_in(run_key, index)
                    spent, (state, _) = common.timed(
                        functools.partial(programs[name], key, scheme, state)
                    )
                    seconds.append(seconds[-1] + spent)
            curve = {"target": target, "method": name, "seed": seed}
            found[name].append(curve | {"seconds": seconds, "sw": distances})
    return found, points


def _rows(found: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What the table shows of each scheme."""
    times = {
        name: statistics.median(curve["seconds"][-1] for curve in curves)
        for name, curves in found.items()
    }
    rows: dict[str, dict[str, Any]] = {}
    for name, curves in found.items():
        rows[name] = {
            "sw": common.mean_and_deviation(curve["sw"][-1] for curve in curves),
            "start": statistics.mean(curve["sw"][0] for curve in curves),
            "seconds": times[name],
        }
    pairs = list(zip(found["sw_jko"], found["drifting"], strict=True))
    for name in ("sw_jko", "drifting"):
        reached = []
        for curves in pairs:
            end = min(curve["seconds"][-1] for curve in curves)
            curve = curves[name == "drifting"]
            last = max(at for at, seconds in enumerate(curve["seconds"]) if seconds <= end)
            reached.append(curve["sw"][last])
        rows[name]["sw_in_time"] = common.mean_and_deviation(reached)
    return rows


def _distance(points: jax.Array, held_out: jax.Array) -> float:
    key = jax.random.key(5)
    directions = swjko.orthogonal_directions(key, _DIRECTIONS, held_out.shape[1])
    return float(_sliced_pow(points, held_out, directions))


_sliced_pow = jax.jit(swjko.sliced_wasserstein_pow)


def _figure(drawn: dict[tuple[str, str], Any], curves: list[dict[str, Any]]) -> Figure:
    """Points of the rings above, pictures of the digits, and distances by seconds below."""
    figure, axes = common.new_figure(7.5, 7.6, rows=3, columns=3)
    for axis, name in zip(axes[0], ("data", "sw_jko", "drifting"), strict=True):
        axis.scatter(*np.asarray(drawn["rings", name])[:2000].T, s=1, linewidths=0)
        axis.set(title=name, aspect="equal", xlim=(-2.6, 2.6), ylim=(-2.6, 2.6))
    for axis, name in zip(axes[1], ("data", "sw_jko", "drifting"), strict=True):
        pictures = np.clip(drawn["digits", name][:40], 0, 1).reshape(5, 8, 8, 8)
        axis.imshow(pictures.transpose(0, 2, 1, 3).reshape(40, 64), cmap="gray_r", vmin=0, vmax=1)
        axis.axis("off")
    targets = list(dict.fromkeys(target for target, _ in drawn))
    for axis, target in zip(axes[2], targets, strict=False):
        for curve in curves:
            if curve["target"] == target:
                color = f"C{('sw_jko', 'drifting', 'direct').index(curve['method'])}"
                first = curve["seed"] == 0 and target == targets[0]
                style = {"color": color, "label": curve["method"] if first else None}
                axis.plot(curve["seconds"], curve["sw"], marker=".", linewidth=1, **style)
        axis.set(title=target, xlabel="seconds", yscale="log")
    for axis in axes[2, len(targets) :]:
        axis.axis("off")
    axes[2, 0].set_ylabel("$SW_2^2$ to held-out data")
    axes[2, 0].legend(frameon=False, fontsize=7)
    return figure
