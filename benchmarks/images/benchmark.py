"""Images by F = SW_2^2(mu, data) / 2, in pixels and in an autoencoder's codes.

SW-JKO, the sliced-Wasserstein flow and direct minimisation, as in Bonet et al. (2022), arXiv
2110.10972, table 2. The published FID needs Inception weights. Here the Frechet distance is that of
features of a small classifier, trained on the same half of the data as the flows. Everything is
scored on the other half, with as many generated images as it holds. Each seed has its own split,
classifier, autoencoder and flows. In the JSON:

- rows: mean and standard deviation over the seeds of each method's metrics
  (``benchmarks.images.metrics``), updates, seconds of running, and seconds of compiling for the
  first seed, whose programs the others use.
- references: the training half itself, which a method can undercut only by chance; held-out and
  training images through the autoencoder, where the former are scored against themselves and are
  the floor of all that is decoded; decoded N(0, I), where flows of codes start.
- swf_by_steps: the sliced-Wasserstein flow after more and more steps. Its row is its best one by
  the Frechet distance. The mean over directions moves a point by 1 / d of its way, so a step of d
  goes all of it, along d orthogonal directions at once. The rows called unscaled have a step of 1,
  the drift as written by Liutkus et al. (2019).
- comparisons: ratios and differences of methods.
- memory_mb: peak resident megabytes of each method in its own process, interpreter and compilation
  included, and of the first method on 10,000 rows with 1000 directions and no minibatches.

The settings were chosen on splits with seeds from 100 on.
"""

import argparse
import contextlib
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.compilation_cache import compilation_cache

import swjko
from benchmarks import common
from benchmarks.images import classifier, figures, methods
from benchmarks.images.metrics import ImageData, Scorer, image_data
from benchmarks.images.settings import DEFAULT, FULL, METHODS, QUICK, SMALL, STEP_SIZE, Sizes
from benchmarks.images.summary import summarise
from swjko.autoencoder import Autoencoder, autoencoder, fit_autoencoder
from swjko.problems import DataError, Images, load_images

_SHOWN = 60
_MEMORY_ROWS, _MEMORY_PROJECTIONS = 10_000, 1000
_MAX_ENERGIES = 100
FLAGS = common.Flags(
    quick="some digits of 8 x 8",
    full="the published numbers of points, directions and updates, for a GPU",
    seeds="number of seeds (default: three; five for digits)",
    first_seed="the first seed",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose data and methods."""
    add = parser.add_argument
    data = ("digits", "mnist", "fashion")
    add("--data", choices=data, default="digits", help="which images (default digits)")
    add("--data-dir", metavar="DIR", help="directory of their files (default: SWJKO_DATA)")
    add("--go-on", action="store_true", help="keep the seeds of the JSON, and add those it lacks")
    text = "measure methods whose names contain this, and write nothing"
    add("--only", metavar="METHOD", help=text)
    text = "compare pixels along convolutional directions; with --only"
    add("--convolved", action="store_true", help=text)
    add("--peak", metavar="METHOD", help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    if args.convolved and not args.only:
        print("benchmarks images: error: --convolved needs --only", file=sys.stderr)
        return 2
    sizes = SMALL if args.data == "digits" else DEFAULT
    sizes = QUICK if args.quick else FULL if args.full else sizes
    try:
        images = load_images(args.data, args.data_dir)
    except DataError as error:
        print(f"benchmarks images: error: {error}", file=sys.stderr)
        return 2
    if args.peak:
        print(_peak(args.peak, images, sizes))
        return 0
    with _programs_kept():
        _all_seeds(images, sizes, args)
    return 0


@contextlib.contextmanager
def _programs_kept() -> Iterator[None]:
    """Cache programs: those of all seeds are the same, and half of a small run is compilation."""
    if jax.config.values["jax_compilation_cache_dir"]:
        yield
        return
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        try:
            yield
        finally:
            jax.config.update("jax_compilation_cache_dir", None)
            # Otherwise later programs would go to the removed directory.
            compilation_cache.reset_cache()


def _all_seeds(images: Images, sizes: Sizes, args: argparse.Namespace) -> None:
    """Measure all seeds, and write the results after each."""
    stem, names = f"images_{args.data}", [name for name in METHODS if (args.only or "") in name]
    content = {key: getattr(args, key) for key in ("data", "quick", "full")}
    content |= {"step_size": STEP_SIZE, "updates": sizes.updates, "network": sizes.network}
    for key in ("autoencoder_steps", "autoencoder_linear"):
        content[key] = getattr(sizes, key)
    seeds = seeds_of(args.directory / f"{stem}.json", content) if args.go_on else []
    for seed in range(args.first_seed, args.first_seed + (args.seeds or sizes.seeds)):
        if seed in [found["seed"] for found in seeds]:
            continue
        seconds, (found, drawn) = common.timed(
            lambda seed=seed: one_seed(images, seed, sizes, names, args.convolved)
        )
        if args.only:
            continue
        seeds = sorted([*seeds, found | {"seconds": seconds}], key=lambda found: found["seed"])
        results = content | {"seeds": seeds} | summarise(seeds, names)
        common.write_results(stem, results, args.directory)
        if seed == args.first_seed:
            figures.save_all(drawn, found, args.directory, stem)
    if not args.only:
        results = content | {"seeds": seeds} | summarise(seeds, names)
        memory = _memory(args, names[:1] if args.quick else names)
        common.finish(args, results | {"memory_mb": memory}, name=stem)


def seeds_of(path: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a JSON has of each seed; nothing if there is no file.

    Raises:
      ValueError: If the JSON was measured with other settings.
    """
    if not path.exists():
        return []
    content = common.read_results(path.stem, path.parent)
    expected = common.finite_json(settings)
    others = [name for name, value in expected.items() if content.get(name) != value]
    if others:
        raise ValueError(
            f"{path} must have the same settings; got others ({', '.join(others)}). "
            "Leave --go-on out, or take another --out."
        )
    return content["seeds"]


def one_seed(
    images: Images, seed: int, sizes: Sizes, names: Sequence[str], convolved: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Everything of one seed: its report as JSON holds it, and images to draw."""
    split_key, fit_key = jax.random.split(jax.random.key(seed))
    data = prepare(split_key, images, seed, sizes)
    rows, num_steps = jnp.asarray(data.train), sizes.autoencoder_steps
    model = _autoencoder(images, sizes)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, num_steps))
    options: Any = {"num_steps": num_steps, "progress": False}
    options["batch_size"] = min(sizes.autoencoder_batch, len(rows))
    fit = fit_autoencoder(fit_key, model, rows, optimizer, **options)
    spaces = {
        "ambient": methods.ambient(rows, images.shape, convolved),
        "latent": methods.latent(model, fit.params, rows),
    }
    decode = jax.jit(lambda codes: model.decode(fit.params, codes))
    through = jax.jit(lambda rows: model.decode(fit.params, model.encode(fit.params, rows)))
    score = Scorer(split_key, data, sizes.metric_projections, sizes.metric_ascents)
    references = {
        "training half": data.train,
        "autoencoder, held-out": through(data.held_out),
        "autoencoder, training": through(data.train),
        "decoded N(0, I)": decode(jax.random.normal(split_key, spaces["latent"].data.shape)),
    }
    shown = data.held_out[:_SHOWN]
    drawn: dict[str, Any] = {"data": shown, "shape": images.shape}
    drawn |= {"autoencoder": np.asarray(through(shown)), "methods": {}, "trajectories": {}}
    found: dict[str, Any] = {"seed": seed, "references": {}, "methods": {}, "swf_by_steps": {}}
    for name, reference in references.items():
        found["references"][name] = score(reference)
        common.show(f"seed {seed}, {name}", found["references"][name])
    found["classifier"] = {
        "test_accuracy": data.classifier.test_accuracy,
        "sha256_of_weights": data.classifier.sha256,
    }
    losses = {"first_loss": fit.losses[0], "last_loss": np.mean(fit.losses[-20:])}
    found["autoencoder"] = {"seconds": fit.seconds, **losses}
    for name in names:
        key = jax.random.fold_in(fit_key, 1 + METHODS.index(name))
        _one_method(key, name, spaces[name.split()[0]], sizes, score, found, drawn)
        common.show(f"seed {seed}, {name}", found["methods"][name]["metrics"])
    return common.finite_json(found), drawn


def _one_method(
    key: Any,
    name: str,
    space: methods.Space,
    sizes: Sizes,
    score: Scorer,
    found: dict[str, Any],
    drawn: dict[str, Any],
) -> None:
    """Run and score a method; adds to the report of the seed and to what is drawn."""
    scheme_key, run_key, draw_key = jax.random.split(key, 3)
    numbers, count = sizes.updates[name], len(score.data.held_out)
    scheme = methods.make_scheme(scheme_key, name, space, count, numbers, sizes.network)
    staged = name in sizes.swf_stages
    moves = numbers.num_inner_steps if staged else 1
    stages = sizes.swf_stages.get(name, range(1, numbers.num_steps + 1))
    solved = methods.solve(run_key, scheme, [stage // moves for stage in stages])
    kept = {moves * step: params for step, params in solved.kept.items()}
    family = space.show(scheme.family)
    push = jax.jit(family.push)
    latents = family.latent(draw_key, count)
    params = solved.state.params
    if staged:
        scored = {step: score.few(push(at, latents).points) for step, at in kept.items() if step}
        found["swf_by_steps"][name] = [{"steps": step, **few} for step, few in scored.items()]
        params = kept[min(scored, key=lambda step: scored[step]["frechet"])]
    generated = np.asarray(push(params, latents).points)
    energy = solved.infos.energy
    found["methods"][name] = {
        "metrics": score(generated),
        "result": swjko.Result(int(solved.state.result)).name,
        "updates": max(stages) if staged else numbers.num_steps * numbers.num_inner_steps,
        "energy": energy[:: math.ceil(len(energy) / _MAX_ENERGIES)],
        "run_seconds": solved.run_seconds,
        "compile_seconds": solved.compile_seconds,
    }
    followed = jax.tree.map(lambda leaf: leaf[:_SHOWN], latents)
    drawn["methods"][name] = generated[:_SHOWN]
    drawn["trajectories"][name] = {
        step: np.asarray(push(at, followed).points) for step, at in kept.items()
    }
    if name == "latent sw_jko coupling":
        between = figures.great_circles(latents)
        drawn["interpolation"] = np.asarray(push(solved.state.params, between).points)


def prepare(key: Any, images: Images, seed: int, sizes: Sizes) -> ImageData:
    """Split the data into two random halves, and train the classifier on the first."""
    rows, labels = images.rows(), images.labels
    if labels is None:
        raise ValueError(f"`images` must have labels for the classifier; got none, {images.name}.")
    order = np.random.default_rng(seed).permutation(len(rows))[: sizes.rows]
    half = len(order) // 2
    parts = order[:half], order[half : 2 * half]
    sets = [(rows[part], labels[part].astype(np.int32)) for part in parts]
    options = {"num_steps": sizes.classifier_steps}
    trained = classifier.train(key, sets[0], sets[1], images.shape, **options)
    common.show(f"seed {seed}, accuracy of the classifier", trained.test_accuracy)
    return image_data(sets[0][0], sets[1][0], images.shape, trained)


def _autoencoder(images: Images, sizes: Sizes) -> Autoencoder:
    latent_dim = min(methods.LATENT_DIM, math.prod(images.shape) // 2)
    return autoencoder(images.shape, latent_dim=latent_dim, num_linear=sizes.autoencoder_linear)


def _memory(args: argparse.Namespace, names: Sequence[str]) -> dict[str, int | None]:
    """Peak megabytes of a step of each method, each in its own process."""
    command = [sys.executable, "-m", "benchmarks", "images", "--data", args.data]
    command += ["--data-dir", args.data_dir] if args.data_dir else []
    command += [f"--{size}" for size in ("quick", "full") if getattr(args, size)]
    found = {}
    for name in [*names, f"{names[0]}, {_MEMORY_ROWS} rows, {_MEMORY_PROJECTIONS} directions"]:
        done = subprocess.run([*command, "--peak", name], capture_output=True, text=True)
        peak = done.stdout.split()[-1] if done.returncode == 0 else "None"
        found[name] = int(peak) if peak.isdigit() else None
        common.show(f"peak MB of {name}", found[name])
    return found


def _peak(name: str, images: Images, sizes: Sizes) -> int | None:
    """Peak megabytes of two updates; the autoencoder is not trained, which changes nothing here."""
    name, *large = name.split(",")
    rows = jnp.asarray(images.rows()[: sizes.rows])
    rows = jnp.resize(rows, (_MEMORY_ROWS, rows.shape[1])) if large else rows[: len(rows) // 2]
    if name.startswith("ambient"):
        space = methods.ambient(rows, images.shape)
    else:
        model = _autoencoder(images, sizes)
        space = methods.latent(model, model.init(jax.random.key(0)), rows)
    numbers = sizes.updates[name]._replace(num_inner_steps=2)
    if large:
        numbers = numbers._replace(num_projections=_MEMORY_PROJECTIONS, batch=_MEMORY_ROWS)
    key = jax.random.key(0)
    scheme = methods.make_scheme(key, name, space, len(rows), numbers, sizes.network)
    methods.solve(jax.random.key(1), scheme, [1])
    return common.peak_mib()
