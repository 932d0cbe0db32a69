"""Images by F = SW_2^2(mu, data) / 2, in pixels and in an autoencoder's codes: SW-JKO, the sliced-Wasserstein flow, direct minimisation.

The comparison of Bonet et al. (2022), arXiv 2110.10972, table 2, whose FID needs Inception weights; here the Frechet distance is that of
features of a small classifier trained on the same half of the data that the flows are trained on. Everything is scored on the other half,
with as many generated images as it holds. For each seed its own split, classifier, autoencoder and flows. In the JSON:

- rows: for each method mean and standard deviation over the seeds of its metrics (``benchmarks.image_metrics``), updates, seconds of
  running, and of compiling for the first seed, whose programs the others use;
- references: the training half itself, which no method can undercut but by chance; held-out and training images through the autoencoder,
  of which the first, being scored against themselves, is the floor of all that is decoded; decoded N(0, I), where flows of codes start;
- swf_by_steps: the sliced-Wasserstein flow after more and more steps; its row is its best one by the Frechet distance. The mean over
  directions moves a point by 1 / d of its way, so a step of h = d goes all of it, along d orthogonal directions at once; the rows called
  unscaled have h = 1, the drift as it is written by Liutkus et al. (2019);
- comparisons: the ratios and differences that the comparison is about;
- memory_mb: peak resident megabytes of each method in a process of its own, interpreter and compilation included, and of the first
  method in pixels on 10,000 rows with 1000 directions and no minibatches.

Maps to pixels are cut off at 0 and 1, in the flow as after it, so that black is black; particles move freely, and are cut off where they
are looked at or classified. Codes have mean 0 and mean variance 1, and flows of them start at N(0, I). Pixels start at N(m, s^2), m and s
those of all pixels; generators from fewer dimensions start at a random network. Settings were chosen on splits with seeds from 100 on.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.compilation_cache import compilation_cache
from jax.tree_util import Partial

import swjko
from benchmarks import common, image_classifier, image_figures, image_metrics
from benchmarks.image_metrics import ImageData, Metrics
from benchmarks.image_settings import (
    DEFAULT,
    FULL,
    METHODS,
    QUICK,
    SMALL,
    STEP_SIZE,
    Sizes,
    Updates,
)
from benchmarks.image_summary import summarise
from swjko import flows
from swjko.data.images import Images, load_images
from swjko.data.tables import DataError
from swjko.networks.autoencoder import Autoencoder, autoencoder, decoded, fit_autoencoder

_LATENT_DIM, _SHOWN, _ORTHOGONAL_DIM = 48, 60, 64
_MEMORY_ROWS, _MEMORY_PROJECTIONS = 10_000, 1000
# Of a run of more steps every so many.
_MAX_ENERGIES = 100


class Space(NamedTuple):
    """Where a flow lives: the data in it [m d], shape of an image, mean and scale of the start, ``show``: its families as of pixels."""

    name: str
    data: jax.Array
    shape: tuple[int, int, int]
    init_mean: float
    init_scale: float
    show: Callable[[swjko.Family], swjko.Family]

    @property
    def dim(self) -> int:
        return self.data.shape[1]


class Solved(NamedTuple):
    """The end of a run, params after some of its steps, and what it took."""

    state: Any
    kept: dict[int, Any]
    infos: Any
    compile_seconds: float
    run_seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--quick",
        action="store_true",
        help="some digits of 8 x 8, to see that it runs; written to runs/benchmarks",
    )
    sizes.add_argument(
        "--full",
        action="store_true",
        help="the published numbers of points, directions and updates, for a GPU",
    )
    parser.add_argument(
        "--data",
        choices=("digits", "mnist", "fashion"),
        default="digits",
        help="which images (default digits)",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="directory of their files (default: the variable SWJKO_DATA)",
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="how many (default: three, of digits five)"
    )
    parser.add_argument(
        "--first-seed", type=int, default=0, metavar="N", help="the first of them (default 0)"
    )
    parser.add_argument(
        "--go-on",
        action="store_true",
        help="keep the seeds that the JSON has, and add those that it lacks",
    )
    parser.add_argument(
        "--only",
        metavar="METHOD",
        help="methods whose names hold this, to look at; nothing is written",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="directory for JSON and PNG (default benchmarks/results)"
    )
    parser.add_argument("--peak", metavar="METHOD", help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    sizes = sizes_of(args)
    try:
        images = load_images(args.data, args.data_dir)
    except DataError as error:
        print(f"benchmarks images: error: {error}", file=sys.stderr)
        return 2
    if args.peak:
        return _print_peak(args.peak, images, sizes)
    names = [name for name in sizes.methods if args.only in (None, name) or args.only in name]
    with _programs_kept():
        _all_seeds(images, sizes, names, args)
    return 0


@contextlib.contextmanager
def _programs_kept() -> Iterator[None]:
    """The programs of all seeds are the same, and half of the time of small ones is compilation."""
    if jax.config.values["jax_compilation_cache_dir"]:
        yield
        return
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        try:
            yield
        finally:
            jax.config.update("jax_compilation_cache_dir", None)
            # Otherwise later programs would go to the directory that is no more.
            compilation_cache.reset_cache()


def _all_seeds(images: Images, sizes: Sizes, names: list[str], args: argparse.Namespace) -> None:
    """Results are written after each seed, so that a run that is stopped leaves those it has."""
    directory = Path(args.out or (Path("runs/benchmarks") if args.quick else common.RESULTS))
    stem = f"images_{args.data}"
    settings = {
        "data": args.data,
        "quick": args.quick,
        "full": args.full,
        "step_size": STEP_SIZE,
        "updates": sizes.updates,
    }
    settings |= {
        "network": sizes.network,
        "autoencoder_steps": sizes.autoencoder_steps,
        "autoencoder_linear": sizes.autoencoder_linear,
    }
    seeds = _seeds_of(directory / f"{stem}.json", settings) if args.go_on else []
    for seed in range(args.first_seed, args.first_seed + (args.seeds or sizes.seeds)):
        if seed in [found["seed"] for found in seeds]:
            continue
        start = time.perf_counter()
        found, drawn = one_seed(images, seed, sizes, names)
        seeds = sorted(
            [*seeds, found | {"seconds": time.perf_counter() - start}],
            key=lambda found: found["seed"],
        )
        if args.only:
            continue
        common.write_results(stem, settings | {"seeds": seeds} | summarise(seeds, names), directory)
        if seed == args.first_seed:
            for name, figure in image_figures.all_of(drawn, found).items():
                image_figures.save(figure, directory / f"{stem}_{name}.png")
    if not args.only:
        memory = _memory(args, names[:1] if args.quick else names)
        print(
            common.write_results(
                stem,
                settings | {"seeds": seeds} | summarise(seeds, names) | {"memory_mb": memory},
                directory,
            )
        )


def _seeds_of(path: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a JSON has of each seed; none where there is no file. Raises ValueError where its settings are others."""
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    others = [name for name, value in common.finite_json(settings).items() if content.get(name) != value]
    if others:
        raise ValueError(
            f"{path} was measured with other settings ({', '.join(others)}); leave --go-on out, or take another --out."
        )
    return content["seeds"]


def one_seed(
    images: Images, seed: int, sizes: Sizes, names: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Everything of one seed: what goes into the JSON, as JSON holds it, and images to draw."""
    split_key, fit_key = jax.random.split(jax.random.key(seed))
    keys = [jax.random.fold_in(fit_key, 1 + METHODS.index(name)) for name in names]
    data = prepare(split_key, images, seed, sizes)
    rows, references = jnp.asarray(data.train), {}
    model = _autoencoder(images, sizes)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, sizes.autoencoder_steps))
    options: Any = {
        "num_steps": sizes.autoencoder_steps,
        "batch_size": min(sizes.autoencoder_batch, len(rows)),
    }
    fit = fit_autoencoder(fit_key, model, rows, optimizer, progress=False, **options)
    spaces = {"ambient": ambient(rows, images.shape), "latent": latent(model, fit.params, rows)}
    decode = jax.jit(lambda params, codes: model.decode(params, codes))
    encode = jax.jit(lambda params, rows: model.encode(params, rows))
    noise = jax.random.normal(split_key, spaces["latent"].data.shape)
    score = _Scorer(split_key, data, sizes)
    drawn = {
        "methods": {},
        "trajectories": {},
        "data": data.held_out[:_SHOWN],
        "shape": images.shape,
    }
    for name, reference in {
        "training half": data.train,
        "autoencoder, held-out": decode(fit.params, encode(fit.params, data.held_out)),
        "autoencoder, training": decode(fit.params, encode(fit.params, data.train)),
        "decoded N(0, I)": decode(fit.params, noise),
    }.items():
        references[name] = score(reference)
        _say(seed, name, references[name])
    drawn["autoencoder"] = np.asarray(
        decode(fit.params, encode(fit.params, data.held_out[:_SHOWN]))
    )
    found: dict[str, Any] = {
        "seed": seed,
        "references": references,
        "methods": {},
        "swf_by_steps": {},
    }
    found["classifier"] = {
        "test_accuracy": data.classifier.test_accuracy,
        "sha256_of_weights": data.classifier.sha256,
    }
    found["autoencoder"] = {
        "seconds": fit.seconds,
        "first_loss": fit.losses[0],
        "last_loss": np.mean(fit.losses[-20:]),
    }
    for key, name in zip(keys, names, strict=True):
        space = spaces[name.split()[0]]
        found["methods"][name] = _one_method(
            key, name, space, len(data.held_out), sizes, score, found["swf_by_steps"], drawn
        )
        _say(seed, name, found["methods"][name]["metrics"], found["methods"][name]["run_seconds"])
    return common.finite_json(found), drawn


def _one_method(
    key: Any,
    name: str,
    space: Space,
    count: int,
    sizes: Sizes,
    score: Any,
    by_steps: dict[str, Any],
    drawn: dict[str, Any],
) -> dict[str, Any]:
    """Runs and scores; adds to what is drawn and, for the sliced-Wasserstein flow, to the table by steps."""
    scheme_key, run_key, draw_key = jax.random.split(key, 3)
    numbers = sizes.updates[name]
    scheme = make_scheme(scheme_key, name, space, count, numbers, sizes.network)
    moves = numbers.num_inner_steps if name in sizes.swf_stages else 1
    stages = sizes.swf_stages.get(name, range(1, numbers.num_steps + 1))
    solved = solve(run_key, scheme, [stage // moves for stage in stages])
    kept = {moves * step: params for step, params in solved.kept.items()}
    family = space.show(scheme.family)
    push = jax.jit(family.push)
    latents = family.latent(draw_key, count)
    params = solved.state.params
    if name in sizes.swf_stages:
        scored = {step: score.few(push(at, latents).points) for step, at in kept.items() if step}
        by_steps[name] = [{"steps": step, **few} for step, few in scored.items()]
        params = kept[min(scored, key=lambda step: scored[step]["frechet"])]
    generated = np.asarray(push(params, latents).points)
    metrics = score(generated)
    followed = jax.tree.map(lambda leaf: leaf[:_SHOWN], latents)
    drawn["methods"][name] = generated[:_SHOWN]
    drawn["trajectories"][name] = {
        step: np.asarray(push(at, followed).points) for step, at in kept.items()
    }
    if name == "latent sw_jko coupling":
        drawn["interpolation"] = np.asarray(
            push(solved.state.params, image_figures.great_circles(latents)).points
        )
    passes = (
        max(stages) if name in sizes.swf_stages else numbers.num_steps * numbers.num_inner_steps
    )
    energy = solved.infos.energy[:: math.ceil(len(solved.infos.energy) / _MAX_ENERGIES)]
    finished = {
        "result": swjko.Result(int(solved.state.result)).name,
        "updates": passes,
        "energy": energy,
    }
    return {
        "metrics": metrics,
        **finished,
        "run_seconds": solved.run_seconds,
        "compile_seconds": solved.compile_seconds,
    }


def prepare(key: Any, images: Images, seed: int, sizes: Sizes) -> ImageData:
    """The two halves of a permutation, and the classifier trained on the first."""
    rows, labels = images.rows(), images.labels
    if labels is None:
        raise ValueError(f"{images.name}: the classifier needs labels, and there are none.")
    order = np.random.default_rng(seed).permutation(len(rows))[: sizes.rows]
    half = len(order) // 2
    train, test = order[:half], order[half : 2 * half]
    train_set, test_set = ((rows[part], labels[part].astype(np.int32)) for part in (train, test))
    classifier = image_classifier.train(
        key, train_set, test_set, images.shape, num_steps=sizes.classifier_steps
    )
    print(f"seed {seed}: classifier, test accuracy {classifier.test_accuracy:.4f}", flush=True)
    return ImageData.of_halves(rows[train], rows[test], images.shape, classifier)


def _autoencoder(images: Images, sizes: Sizes) -> Autoencoder:
    return autoencoder(
        images.shape,
        latent_dim=min(_LATENT_DIM, math.prod(images.shape) // 2),
        num_linear=sizes.autoencoder_linear,
    )


def ambient(rows: jax.Array, shape: tuple[int, int, int]) -> Space:
    return Space(
        "ambient", rows, shape, float(rows.mean()), float(rows.std()), lambda family: family
    )


def latent(model: Autoencoder, params: Any, rows: jax.Array) -> Space:
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
    """The scheme of a method, named "SPACE SCHEME FAMILY"; particles are ``count`` and those of all schemes start alike."""
    _, method, *families = name.split()
    points = space.init_mean + space.init_scale * jax.random.normal(key, (count, space.dim))
    if method == "sliced_flow":
        step_size = numbers.step_size * (1.0 if "unscaled" in families else space.dim)
        options: Any = {
            "step_size": step_size * numbers.num_inner_steps,
            "num_inner_steps": numbers.num_inner_steps,
        }
        options |= {
            "num_projections": numbers.num_projections,
            "direction_fn": swjko.orthogonal_directions,
        }
        return swjko.sliced_flow(points, space.data, **options)
    # A factorisation of d x d for each block of d directions: little beside a pass over many particles, and much beside an update.
    direction_fn = (
        swjko.orthogonal_directions if space.dim <= _ORTHOGONAL_DIM else swjko.uniform_directions
    )
    family = _family(families[0], points, space, network)
    # Where pixels are black, so is their image under a clipped map, and not black in the mean of noise.
    family = _clipped(family) if space.name == "ambient" else family
    batch = None if numbers.batch >= len(space.data) else numbers.batch
    functional = swjko.sw_to_target(
        space.data, numbers.num_projections, direction_fn=direction_fn, batch_size=batch
    )
    if families[0] == "particles":
        # In units of the sliced-Wasserstein flow's step over the dimension: its move of a point is count times the gradient of F.
        optimizer = optax.sgd(numbers.learning_rate * count * space.dim)
    else:
        optimizer = optax.adam(
            optax.cosine_decay_schedule(numbers.learning_rate, numbers.num_inner_steps)
        )
    options = {
        "num_inner_steps": numbers.num_inner_steps,
        "num_samples": count if families[0] == "particles" else numbers.num_samples,
    }
    if method == "direct":
        return swjko.direct_minimization(family, functional, optimizer, **options)
    options |= {
        "step_size": numbers.step_size,
        "num_projections": numbers.num_projections,
        "direction_fn": direction_fn,
    }
    return swjko.sw_jko(family, functional, optimizer, **options)


def _family(
    name: str, points: jax.Array, space: Space, network: Mapping[str, dict[str, int]]
) -> swjko.Family:
    sizes: Any = network.get(f"{space.name} {name}", {})
    start: Any = {"init_mean": space.init_mean, "init_scale": space.init_scale}
    if name == "particles":
        return swjko.particles(points)
    if name == "coupling":
        return flows.coupling(space.dim, **sizes, **start)
    if name == "mlp" and space.name == "latent":
        return flows.mlp(space.dim, space.dim, **sizes, **start)
    if name == "mlp":
        return flows.mlp(min(_LATENT_DIM, space.dim // 2), space.dim, **sizes, **start)
    return flows.convolutional(
        min(_LATENT_DIM, space.dim // 2), space.shape, output="sigmoid", init_mean=-2.0, **sizes
    )


def solve(key: Any, scheme: Any, stages: Sequence[int]) -> Solved:
    """Runs to the last of ``stages``, numbers of steps, by one program; params are kept at each of them and at the start."""
    init_key, run_key = jax.random.split(key)
    state = jax.jit(type(scheme).init)(scheme, init_key)
    chunk = math.gcd(*stages)
    start = time.perf_counter()
    compiled = _run.lower(run_key, scheme, state, num_steps=chunk, record=swjko.infos).compile()
    compile_seconds, run_seconds = time.perf_counter() - start, 0.0
    kept, infos = {0: jax.device_get(state.params)}, []
    for step in range(chunk, stages[-1] + 1, chunk):
        start = time.perf_counter()
        state, info = jax.block_until_ready(compiled(run_key, scheme, state))
        run_seconds += time.perf_counter() - start
        infos.append(jax.device_get(info))
        if step in stages:
            kept[step] = jax.device_get(state.params)
    return Solved(
        state,
        kept,
        jax.tree.map(lambda *parts: np.concatenate(parts), *infos),
        compile_seconds,
        run_seconds,
    )


_run = jax.jit(swjko.run, static_argnames=("num_steps", "record"))


def _clipped(family: swjko.Family) -> swjko.Family:
    """The family with its points moved into [0, 1], where pixels are."""
    return dataclasses.replace(family, push=Partial(_push_clipped, family.push), has_density=False)


def _push_clipped(push, params, z):
    return swjko.Cloud(jnp.clip(push(params, z).points, 0.0, 1.0))


class _Scorer(NamedTuple):
    """The same directions for all methods, so that their differences are those of the images."""

    key: Any
    data: ImageData
    sizes: Sizes

    def __call__(self, rows: Any) -> Metrics:
        options: Any = {
            "num_projections": self.sizes.metric_projections,
            "num_ascents": self.sizes.metric_ascents,
        }
        return image_metrics.of_images(self.key, rows, self.data, **options)

    def few(self, rows: Any) -> dict[str, Any]:
        return image_metrics.sw_and_frechet(
            self.key, rows, self.data, num_projections=self.sizes.metric_projections
        )


def _say(seed: int, name: str, metrics: Metrics, seconds: float | None = None) -> None:
    shown = f"Frechet {metrics.frechet:.2f}, SW {float(metrics.sw.value):.5f} +- {float(metrics.sw.standard_error):.5f}"
    shown += f", precision {metrics.precision:.2f}, recall {metrics.recall:.2f}, memorisation {metrics.memorisation:.2f}"
    print(
        f"seed {seed}: {name}: {shown}{'' if seconds is None else f', {seconds:.0f} s'}", flush=True
    )


def _memory(args: argparse.Namespace, names: list[str]) -> dict[str, int | None]:
    """Peak megabytes of a step of each method, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks", "images", "--data", args.data]
    command += (["--data-dir", args.data_dir] if args.data_dir else []) + [
        f"--{size}" for size in ("quick", "full") if getattr(args, size)
    ]
    found = {}
    for name in [*names, f"{names[0]}, {_MEMORY_ROWS} rows, {_MEMORY_PROJECTIONS} directions"]:
        done = subprocess.run([*command, "--peak", name], capture_output=True, text=True)
        peak = done.stdout.split()[-1] if done.returncode == 0 else "None"
        found[name] = int(peak) if peak.isdigit() else None
        print(f"peak of {name}: {found[name]} MB", flush=True)
    return found


def _print_peak(name: str, images: Images, sizes: Sizes) -> int:
    """Two updates of a method, with an autoencoder as initialised, whose weights do not matter here."""
    name, *large = name.split(",")
    rows = jnp.asarray(images.rows()[: sizes.rows])
    rows = jnp.resize(rows, (_MEMORY_ROWS, rows.shape[1])) if large else rows[: len(rows) // 2]
    model = _autoencoder(images, sizes)
    space = (
        ambient(rows, images.shape)
        if name.startswith("ambient")
        else latent(model, model.init(jax.random.key(0)), rows)
    )
    numbers = sizes.updates[name]._replace(num_inner_steps=2)
    if large:
        numbers = numbers._replace(num_projections=_MEMORY_PROJECTIONS, batch=_MEMORY_ROWS)
    scheme = make_scheme(jax.random.key(0), name, space, len(rows), numbers, sizes.network)
    solve(jax.random.key(1), scheme, [1])
    print(common.peak_mib())
    return 0


def sizes_of(args: argparse.Namespace) -> Sizes:
    if args.quick:
        return QUICK
    return FULL if args.full else SMALL if args.data == "digits" else DEFAULT
