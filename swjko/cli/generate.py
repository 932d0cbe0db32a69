"""Images from noise: a flow of F = SW_2^2(mu, images) / 2, and a sheet of its samples."""

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from swjko import flows
from swjko.cli.classes import (
    classes_of,
    clusters_of,
    generator_of_codes,
    labelled_directions,
    labelled_space,
    latents_of_rows,
)
from swjko.cli.codes import WIDTH, Space, drift_scheme, interpolated, latent_space
from swjko.cli.flow import adam, as_npz, make_scheme, sample_cloud
from swjko.cli.generate_choices import chosen_family, require_clusters
from swjko.cli.generate_scores import class_scores, measured, neighbours, verdict
from swjko.cli.memory import require_memory
from swjko.cli.report import Outcome
from swjko.cli.settings import GENERATE_NUMBERS, Settings
from swjko.cli.sheets import sheet
from swjko.cli.terminal import say, say_compiling
from swjko.data.image_files import as_text
from swjko.data.images import Images, load_images
from swjko.data.tables import DataError
from swjko.distances.directions import orthogonal_directions
from swjko.distances.projections import convolutional_directions
from swjko.families.base import Family
from swjko.families.preprocessing import logit, preprocessed
from swjko.functionals.targets import sw_to_target
from swjko.running.solution import Solution
from swjko.running.solve import solve
from swjko.schemes.base import Scheme
from swjko.types import Key, Params

# A drift makes more use of all images than a gradient does.
_DEFAULT_BATCH = {"mlp": 8000, "coupling": 2000, "convolutional": 2000}
_FEWEST_IMAGES = 10
# Distance from black and white that the logit keeps: two and a half of 256 grey levels.
_ALPHA = 0.01
_NOISE_DIM, _CLUSTERS = 32, 40


class Generated(NamedTuple):
    """The outcome, the sheet as bytes [height width] or [height width 3], and the flow's space."""

    outcome: Outcome
    sheet: np.ndarray
    space: Space


def generate(
    settings: Settings,
    *,
    seed: int,
    data: str = "digits",
    loaded: Images | None = None,
    family: str = "auto",
    space: str = "auto",
    slices: str = "orthogonal",
    by_class: bool = False,
    clusters: int | None = None,
    batch_size: int | None = None,
    grid: int = 10,
    checkpoint_dir: str | None = None,
    progress: bool = True,
) -> Generated:
    """Flow from noise to images. A fifth of the images is held out for the scores.

    A perceptron of codes follows ``drifting``, and other families follow ``sw_jko``. Generators
    without a density see a class or cluster of the data beside their noise.

    Args:
      settings: Numbers of the run.
      seed: Seed of the split of the data and of the flow.
      data: A named set or a path, see ``load_images``.
      loaded: The images, if they are loaded already.
      family: "mlp", a perceptron of codes; "coupling", a coupling flow; "convolutional", a
        generator of pixels; or "auto", a perceptron in codes and a coupling flow in pixels.
      space: "pixels"; "latent", the codes of an autoencoder that is fitted to the images first;
        or "auto", see ``chosen_space``.
      slices: "orthogonal", or "convolutional", see ``swjko.convolutional_directions``; of a flow in
        pixels. The scores have orthogonal ones for both.
      by_class: Whether each row of the sheet holds one class, for a perceptron of codes.
      clusters: Clusters of the data that a generator tells apart if it draws no classes; None
        takes 40, and 1 is none.
      batch_size: Images drawn for each update; None takes 2000, or 8000 for a perceptron
        of codes, or all if there are fewer.
      grid: Rows and columns of the samples on the sheet.
      checkpoint_dir: See ``solve``.
      progress: Whether to show a progress bar.

    Raises:
      DataError: If the data cannot be used, or hold fewer than ten images or than a batch.
    """
    images = load_images(data) if loaded is None else loaded
    classes = classes_of(images, data) if by_class else None
    family, space = chosen_family(family, space, images.shape, slices, by_class)
    require_clusters(clusters, family, by_class)
    numbers = {name: getattr(settings, name) or n for name, n in GENERATE_NUMBERS[family].items()}
    settings = settings._replace(**numbers)
    parts = split(images, seed, data, batch_size)
    target, held_out = (images.rows()[part] for part in parts)
    of_sets = None if classes is None else tuple(classes[part] for part in parts)
    say_compiling(progress)
    batch_size = batch_size or min(_DEFAULT_BATCH[family], len(target))
    key = jax.random.key(seed)
    solve_key, start_key, measure_key, sheet_key = jax.random.split(key, 4)
    chosen, folder = _space(
        jax.random.fold_in(key, 4), family, space, target, images.shape, checkpoint_dir, progress
    )
    if family != "coupling":
        labels = of_sets[0] if of_sets else clusters_of(chosen.target, clusters or _CLUSTERS)
        chosen = chosen if labels is None else _labelled(family, chosen, labels, images.shape)
    require_memory(chosen.family, settings)
    scheme = _scheme(family, slices, chosen, settings, batch_size, images.shape)
    solution = solve(solve_key, scheme, settings.steps, progress=progress, checkpoint_dir=folder)
    say("measuring samples against held-out images", progress)
    # Another key gives a generator another start, and a coupling flow the same law.
    ends = (jax.jit(chosen.family.init)(start_key), solution.state.params)
    config = settings._asdict() | {"seed": seed, "data": data, "family": family, "space": space}
    config |= {"slices": slices, "by_class": by_class, "shape": images.shape}
    config |= {"batch_size": batch_size, "clusters": 0 if by_class else chosen.num_classes}
    run = _Run(chosen, solution, target, held_out, of_sets, images.shape, grid, config)
    return _generated(run, measure_key, sheet_key, ends, settings)


class _Run(NamedTuple):
    """A flow that has ended, the rows and, if given, the classes of both sets, and the options."""

    space: Space
    solution: Solution
    target: np.ndarray
    held_out: np.ndarray
    classes: tuple[np.ndarray, ...] | None
    shape: tuple[int, int, int]
    grid: int
    config: dict[str, Any]


def _generated(
    run: _Run, measure_key: Key, sheet_key: Key, ends: tuple[Params, Params], settings: Settings
) -> Generated:
    """Measure the law at both ends of the flow against held-out images, and draw the sheet."""
    shown = run.space.show(run.space.family)
    start, end, floor, figures = measured(
        measure_key, shown, ends, run.target, run.held_out, settings
    )
    drawn, ends_of_rows = _drawn(sheet_key, run, shown, ends[1])
    nearest, of_held_out, scores = neighbours(drawn, run.target, run.held_out)
    figures |= scores
    if run.classes is not None:
        wanted = np.arange(run.grid).repeat(run.grid) % run.space.num_classes
        figures |= class_scores(nearest, of_held_out, wanted, *run.classes)
    outcome = Outcome(
        problem="generate",
        dim=run.space.family.dim,
        config=run.config,
        solution=run.solution,
        energy_start=start,
        energy_end=end,
        reference=floor,
        reference_name="held-out images",
        figures=figures,
        plots={},
        verdict=verdict(figures),
        files={"draws.npz": as_npz(points=drawn, shape=run.shape)},
    )
    blocks = [drawn, run.target[nearest]]
    if run.config["space"] == "latent":
        blocks.append(interpolated(shown, ends[1], ends_of_rows, run.space.num_classes))
    return Generated(outcome, sheet(blocks, run.shape, run.grid), run.space)


def _space(
    key: Key,
    family: str,
    space: str,
    target: np.ndarray,
    shape: tuple[int, int, int],
    checkpoint_dir: str | None,
    progress: bool,
) -> tuple[Space, Path | None]:
    """Return the space of the flow and the directory of the flow's checkpoints."""
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    if space == "pixels":
        return _pixels(family, target, shape), folder
    fit_dir, flow_dir = (folder and folder / name for name in ("autoencoder", "flow"))
    return latent_space(key, family, target, shape, fit_dir, progress), flow_dir


def _drawn(key: Key, run: _Run, shown: Family, params: Params) -> tuple[np.ndarray, Array]:
    """Draw pictures for the sheet, and latents for the ends of its rows."""
    grid, end_keys = run.grid, jax.random.split(jax.random.fold_in(key, 1))
    if run.classes is not None:
        points = jax.jit(shown.push)(params, latents_of_rows(run.space, key, grid, grid)).points
        ends = [latents_of_rows(run.space, end, grid, 1) for end in end_keys]
    else:
        points = sample_cloud(shown, params, key, num=grid * grid).points
        ends = [shown.latent(end, grid) for end in end_keys]
    return np.clip(points, 0.0, 1.0), jnp.concatenate(ends)


def _scheme(
    family: str,
    slices: str,
    space: Space,
    settings: Settings,
    batch_size: int,
    shape: tuple[int, int, int],
) -> Scheme:
    if family == "mlp":
        return drift_scheme(space, settings, batch_size)
    convolved = slices == "convolutional"
    direction_fn = convolutional_directions(*shape) if convolved else orthogonal_directions
    if convolved and space.num_classes:
        direction_fn = labelled_directions(direction_fn, space.num_classes)
    functional = sw_to_target(
        space.target,
        settings.projections,
        direction_fn=direction_fn,
        batch_size=batch_size,
    )
    return make_scheme(space.family, functional, settings, adam(settings), direction_fn)


def split(
    images: Images, seed: int, source: str = "images", batch_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the images for the flow and of those held out.

    Args:
      images: The images.
      seed: Seed of the permutation.
      source: What messages call them.
      batch_size: See ``generate``.

    Raises:
      DataError: If there are too few images, or they are too small.
    """
    count = len(images.pixels)
    if count < _FEWEST_IMAGES:
        raise DataError(f"{source}: must hold at least {_FEWEST_IMAGES} images; got {count}.")
    if min(images.shape[:2]) * images.shape[2] < 2:
        raise DataError(
            f"{source}: images must be at least 2 pixels wide and high; "
            f"got {as_text(images.shape[:2])}."
        )
    order = np.random.default_rng(seed).permutation(count)
    cut = count // 5
    if batch_size is not None and batch_size > count - cut:
        raise DataError(
            f"{source}: --batch-size must be at most {count - cut}, the number of images for the "
            f"flow; got {batch_size}."
        )
    return order[cut:], order[:cut]


def _pixels(name: str, target: np.ndarray, shape: tuple[int, int, int]) -> Space:
    if name == "convolutional":
        family = _convolutional(shape, 0)
    else:
        family = preprocessed(flows.coupling(math.prod(shape)), logit(_ALPHA))
    return Space(jnp.asarray(target), family, lambda family: family)


def _convolutional(shape: tuple[int, int, int], num_classes: int) -> Family:
    latent_dim = _NOISE_DIM + num_classes
    return flows.convolutional(latent_dim, shape, width=16, output="sigmoid", init_mean=-2.0)


def _labelled(family: str, space: Space, labels: np.ndarray, shape: tuple[int, int, int]) -> Space:
    """Return the space with classes or clusters."""
    if family == "convolutional":
        make, noise_dim = functools.partial(_convolutional, shape), _NOISE_DIM
    else:
        make = functools.partial(generator_of_codes, space.target, WIDTH)
        noise_dim = space.family.dim
    return labelled_space(space, labels, noise_dim, make)
