"""Images from noise: a flow of F = SW_2^2(mu, images) / 2, and a sheet of its samples."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.distance import cdist

from swjko import flows, validation
from swjko.cli.codes import Space, drift_scheme, interpolated, latent_space
from swjko.cli.flow import adam, as_npz, make_scheme, sample_cloud
from swjko.cli.memory import require_memory
from swjko.cli.report import Outcome
from swjko.cli.scores import mean_energy
from swjko.cli.settings import GENERATE_FAMILIES, GENERATE_NUMBERS, GENERATE_SPACES, Settings
from swjko.cli.sheets import sheet
from swjko.cli.terminal import say, say_compiling
from swjko.cli.verdict import Check, Verdict, judge
from swjko.data.image_files import as_text
from swjko.data.images import Images, load_images
from swjko.data.tables import DataError
from swjko.diagnostics.evaluate import evaluate
from swjko.distances.directions import orthogonal_directions
from swjko.families.preprocessing import logit, preprocessed
from swjko.functionals.targets import sw_to_target
from swjko.running.solve import solve
from swjko.schemes.base import Scheme
from swjko.types import Cloud, Estimate

# A drift makes more use of all images than a gradient does.
_DEFAULT_BATCH = {"mlp": 8000, "coupling": 2000, "convolutional": 2000}
_FEWEST_IMAGES = 10
# Largest clouds in the final measurements; distances between more would take longer than the flow.
_MEASURED_POINTS = 2000
# Distance from black and white that the logit keeps: two and a half of 256 grey levels.
_ALPHA = 0.01
_NOISE_DIM = 32
# What a good fit may exceed the values of held-out images by.
_LARGEST_DISTANCE, _LARGEST_EXCESS = 1.5, 2.0
_evaluate = jax.jit(evaluate, static_argnames=("num_samples", "num_repeats"))


class Generated(NamedTuple):
    """The outcome, and the sheet as bytes [height width] or [height width 3]."""

    outcome: Outcome
    sheet: np.ndarray


def generate(
    settings: Settings,
    *,
    seed: int,
    data: str = "digits",
    loaded: Images | None = None,
    family: str = "auto",
    space: str = "auto",
    batch_size: int | None = None,
    grid: int = 10,
    checkpoint_dir: str | None = None,
    progress: bool = True,
) -> Generated:
    """Flow from noise to images. A fifth of the images is held out for the scores.

    A perceptron of codes follows ``drifting``, and other families follow ``sw_jko``.

    Args:
      settings: Numbers of the run.
      seed: Seed of the split of the data and of the flow.
      data: A named set or a path, see ``load_images``.
      loaded: The images, if they are loaded already.
      family: "mlp", a perceptron of codes; "coupling", a coupling flow; "convolutional", a
        generator of pixels; or "auto", a perceptron in codes and a coupling flow in pixels.
      space: "pixels"; "latent", the codes of an autoencoder that is fitted to the images first;
        or "auto", see ``chosen_space``.
      batch_size: Images drawn for each update; None takes 2000, or 8000 for a perceptron
        of codes, or all if there are fewer.
      grid: Rows and columns of the samples on the sheet.
      checkpoint_dir: See ``solve``.
      progress: Whether to show a progress bar.

    Raises:
      DataError: If the data cannot be used, or hold fewer than ten images or than a batch.
    """
    family = validation.as_choice(family, "family", GENERATE_FAMILIES)
    images = load_images(data) if loaded is None else loaded
    space = chosen_space(space, family, images.shape)
    if family == "auto":
        family = "mlp" if space == "latent" else "coupling"
    numbers = {name: getattr(settings, name) or n for name, n in GENERATE_NUMBERS[family].items()}
    settings = settings._replace(**numbers)
    target, held_out = _split(images, seed, data, batch_size)
    say_compiling(progress)
    batch_size = batch_size or min(_DEFAULT_BATCH[family], len(target))
    key = jax.random.key(seed)
    solve_key, start_key, measure_key, sheet_key = jax.random.split(key, 4)
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    if space == "latent":
        fit_dir, folder = (folder and folder / name for name in ("autoencoder", "flow"))
        fit_key = jax.random.fold_in(key, 4)
        chosen = latent_space(fit_key, family, target, images.shape, fit_dir, progress)
    else:
        chosen = _pixels(family, target, images.shape)
    require_memory(chosen.family, settings)
    make = drift_scheme if family == "mlp" else _jko_scheme
    scheme = make(chosen, settings, batch_size)
    solution = solve(solve_key, scheme, settings.steps, progress=progress, checkpoint_dir=folder)
    say("measuring samples against held-out images", progress)
    # Another key gives a generator another start, and a coupling flow the same law.
    ends = (jax.jit(chosen.family.init)(start_key), solution.state.params)
    shown = chosen.show(chosen.family)
    drawn = np.clip(sample_cloud(shown, ends[1], sheet_key, num=grid * grid).points, 0.0, 1.0)
    start, end, floor, figures = _measured(measure_key, shown, ends, target, held_out, settings)
    nearest, scores = _neighbours(drawn, target, held_out)
    config = settings._asdict() | {"seed": seed, "data": data, "family": family, "space": space}
    config |= {"batch_size": batch_size, "shape": images.shape}
    figures |= scores
    outcome = Outcome(
        problem="generate",
        dim=chosen.family.dim,
        config=config,
        solution=solution,
        energy_start=start,
        energy_end=end,
        reference=floor,
        reference_name="held-out images",
        figures=figures,
        plots={},
        verdict=_verdict(figures),
        files={"draws.npz": as_npz(points=drawn, shape=images.shape)},
    )
    blocks = [drawn, target[nearest]]
    if space == "latent":
        blocks.append(interpolated(shown, ends[1], jax.random.fold_in(sheet_key, 1), grid))
    return Generated(outcome, sheet(blocks, images.shape, grid))


def _jko_scheme(space: Space, settings: Settings, batch_size: int) -> Scheme:
    functional = sw_to_target(
        space.target,
        settings.projections,
        direction_fn=orthogonal_directions,
        batch_size=batch_size,
    )
    return make_scheme(space.family, functional, settings, adam(settings), orthogonal_directions)


def _verdict(figures: dict[str, Any]) -> Verdict:
    drawn = figures["distance of a sample to the nearest image, mean"]
    ratio = drawn / figures["distance of a held-out image to the nearest image, mean"]
    moved = float(figures["SW_2^2/2 of the flow to the images"].value)
    excess = moved / figures["SW_2^2/2 of held-out images to the images"]
    checks = [
        Check(
            bool(ratio <= _LARGEST_DISTANCE),
            f"samples are at most {_LARGEST_DISTANCE} times as far from the nearest image as "
            "held-out images are",
            f"samples are {ratio:.3g} times as far from the nearest image as held-out images are",
        ),
        Check(
            bool(excess <= _LARGEST_EXCESS),
            f"their SW_2^2 to the images is at most {_LARGEST_EXCESS} times that of held-out ones",
            f"their SW_2^2 to the images is {excess:.3g} times that of held-out images",
        ),
    ]
    return judge(checks, "use more --steps or --inner-steps")


def chosen_space(space: str, family: str, shape: tuple[int, int, int]) -> str:
    """Return "pixels" or "latent"; "auto" means latent for more than 16 x 16 pixels."""
    space = validation.as_choice(space, "space", GENERATE_SPACES)
    if space == "latent" and family == "convolutional":
        raise DataError("--family convolutional draws pixels. Use it with --space pixels.")
    if space == "pixels" and family == "mlp":
        raise DataError("--family mlp draws codes. Use it with --space latent.")
    if space != "auto":
        return space
    large = family != "convolutional" and shape[0] * shape[1] > 256
    return "latent" if large or family == "mlp" else "pixels"


def _split(
    images: Images, seed: int, source: str, batch_size: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows into those for the flow and those held out."""
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
    rows = images.rows()
    return rows[order[cut:]], rows[order[:cut]]


def _pixels(name: str, target: np.ndarray, shape: tuple[int, int, int]) -> Space:
    if name == "convolutional":
        family = flows.convolutional(_NOISE_DIM, shape, output="sigmoid", init_mean=-1.0)
    else:
        family = preprocessed(flows.coupling(math.prod(shape)), logit(_ALPHA))
    return Space(jnp.asarray(target), family, lambda family: family)


def _measured(
    key, family, params, target, held_out, settings
) -> tuple[Estimate, Estimate, float, dict[str, Any]]:
    """Measure F of both ends and of the held-out images in pixels, with equal sampling noise."""
    figures: dict[str, Any] = {"images for the flow": len(target), "images held out": len(held_out)}
    energy_key, floor_key, sample_key, held_out_key = jax.random.split(key, 4)
    target, held_out = (jnp.asarray(rows[:_MEASURED_POINTS]) for rows in (target, held_out))
    to_target, to_held_out = (
        sw_to_target(rows, settings.projections, direction_fn=orthogonal_directions)
        for rows in (target, held_out)
    )
    start, end = (
        jax.device_get(_evaluate(energy_key, family, to_target, at, num_samples=len(held_out)))
        for at in params
    )
    floor = float(mean_energy(jax.random.split(floor_key, 16), to_target, Cloud(held_out)))
    drawn = sample_cloud(family, params[-1], sample_key, num=len(target))
    against = float(mean_energy(jax.random.split(held_out_key, 16), to_held_out, drawn))
    figures |= {
        "SW_2^2/2 of the flow to the images": end,
        "SW_2^2/2 of held-out images to the images": floor,
        "SW_2^2/2 of the flow to held-out images": against,
    }
    return start, end, floor, figures


def _neighbours(
    drawn: np.ndarray, target: np.ndarray, held_out: np.ndarray
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the index of the image nearest to each sample, and scores of the distances."""
    distances = cdist(drawn, target)
    nearest = distances.argmin(axis=1)
    distances = distances[np.arange(len(drawn)), nearest]
    of_held_out = cdist(held_out[: len(drawn)], target).min(axis=1)
    return nearest, {
        "distance of a sample to the nearest image, mean": float(distances.mean()),
        "distance of a held-out image to the nearest image, mean": float(of_held_out.mean()),
        "samples nearer to an image than any held-out image": int(
            np.sum(distances < of_held_out.min())
        ),
    }
