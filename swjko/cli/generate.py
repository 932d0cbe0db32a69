"""Images from noise: a flow of F = SW_2^2(mu, images) / 2 over pixels, and a sheet of samples beside the images nearest to them."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.spatial.distance import cdist

from swjko import flows, validation
from swjko.cli import problems as experiments
from swjko.cli.problems import Settings
from swjko.cli.report import Outcome
from swjko.data import image_files
from swjko.data.images import Images, load_images
from swjko.data.tables import DataError, require_extra
from swjko.diagnostics.evaluate import evaluate
from swjko.distances.directions import orthogonal_directions
from swjko.families.base import Family, sample
from swjko.families.preprocessing import logit, preprocessed
from swjko.functionals.energies import sw_to_target
from swjko.running.solve import solve
from swjko.schemes.sw_jko import sw_jko
from swjko.types import Cloud, Estimate

# Energies of more points have less noise of samples, which at 512 hides what is left to learn of 64 pixels.
GENERATE = Settings(steps=6, step_size=5.0, inner_steps=250, samples=1024, projections=256)
FAMILIES = ("coupling", "convolutional")
_DEFAULT_BATCH = 2000
_FEWEST_IMAGES = 10
# Points of each cloud in what is measured at the end: distances between more would take longer than the flow.
_MEASURED_POINTS = 2000
# What the logit keeps away from black and white: two and a half of 256 grey levels, which the sheet cuts off.
_ALPHA = 0.01
_LATENT_DIM = 32
# Pictures are enlarged by a whole factor to about so many pixels.
_SHOWN_PIXELS = 40
_evaluate = jax.jit(evaluate, static_argnames=("num_samples", "num_repeats"))
_sample = jax.jit(sample, static_argnames=("num",))


class Generated(NamedTuple):
    """What ``generate`` returns: the outcome, and the sheet, bytes [height width] or [height width 3]."""

    outcome: Outcome
    sheet: np.ndarray


def generate(
    settings: Settings,
    *,
    seed: int,
    data: str = "digits",
    data_dir: str | None = None,
    family: str = "coupling",
    batch_size: int | None = None,
    grid: int = 10,
    checkpoint_dir: str | None = None,
    progress: bool = True,
) -> Generated:
    """A flow from noise to images by ``sw_jko``, in the space of their pixels.

    Args:
      settings: see there.
      seed: of the split of the data and of the flow.
      data, data_dir: as ``load_images`` takes them.
      family: "coupling", couplings behind a sigmoid; or "convolutional", a generator without a density.
      batch_size: images for each update, drawn anew; None takes 2000, or all where there are fewer.
      grid: rows and columns of the sheet's two blocks, samples and the images nearest to each of them.
      checkpoint_dir: see ``solve``; a run that is there goes on.

    A fifth of the images is held out, for what is measured. Raises DataError on data that cannot be used, on fewer than ten images and on
    fewer than a batch; FlowError and CheckpointError as ``solve`` does.
    """
    images = load_images(data, data_dir)
    target, held_out = _split(images, seed, data, batch_size)
    batch_size = min(_DEFAULT_BATCH, len(target)) if batch_size is None else batch_size
    measures = _family(validation.as_choice(family, "family", FAMILIES), images.shape)
    functional = sw_to_target(
        jnp.asarray(target),
        settings.projections,
        direction_fn=orthogonal_directions,
        batch_size=batch_size,
    )
    solve_key, start_key, measure_key, sheet_key = jax.random.split(jax.random.key(seed), 4)
    scheme = sw_jko(
        measures,
        functional,
        optax.adam(optax.cosine_decay_schedule(settings.learning_rate, settings.inner_steps)),
        step_size=settings.step_size,
        num_inner_steps=settings.inner_steps,
        num_samples=settings.samples,
        num_projections=settings.projections,
        direction_fn=orthogonal_directions,
    )
    solution = solve(
        solve_key, scheme, settings.steps, progress=progress, checkpoint_dir=checkpoint_dir
    )
    # A generator starts at another random network than that of the run; a coupling flow at the same law for all keys.
    ends = (jax.jit(measures.init)(start_key), solution.state.params)
    drawn = np.clip(
        _sample(measures, solution.state.params, sheet_key, num=grid * grid).points, 0.0, 1.0
    )
    energy_start, energy_end, floor, figures = _measured(
        measure_key, measures, ends, target, held_out, settings
    )
    nearest, distances = _nearest(drawn, target)
    held_out_distances = _nearest(held_out[: len(drawn)], target)[1]
    figures |= {
        "distance of a sample to the nearest image, mean": float(distances.mean()),
        "distance of a held-out image to the nearest image, mean": float(held_out_distances.mean()),
        "samples nearer to an image than any held-out image": int(
            np.sum(distances < held_out_distances.min())
        ),
    }
    config = {
        **settings._asdict(),
        "seed": seed,
        "data": data,
        "family": family,
        "batch_size": batch_size,
        "shape": images.shape,
    }
    outcome = Outcome(
        "generate",
        measures.dim,
        config,
        solution,
        energy_start,
        energy_end,
        floor,
        "held-out images",
        figures,
        {},
    )
    return Generated(outcome, sheet([drawn, target[nearest]], images.shape, grid))


def sheet(blocks: list[np.ndarray], shape: tuple[int, int, int], grid: int) -> np.ndarray:
    """Blocks side by side, each of rows [grid^2 h w c] in [0, 1] as grid x grid pictures, enlarged by a whole factor: bytes."""
    h, w, c = shape
    factor = max(1, _SHOWN_PIXELS // max(h, w))
    gap = max(1, factor * max(h, w) // 10)
    drawn = []
    for block in blocks:
        pictures = (
            np.rint(255 * np.clip(block, 0.0, 1.0)).astype(np.uint8).reshape(grid, grid, h, w, c)
        )
        pictures = pictures.repeat(factor, axis=2).repeat(factor, axis=3)
        pictures = np.pad(
            pictures, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=128
        )
        drawn.append(pictures.transpose(0, 2, 1, 3, 4).reshape(grid * pictures.shape[2], -1, c))
    # Twice the gap between the blocks and once around all.
    between = np.full((drawn[0].shape[0], 2 * gap, c), 128, np.uint8)
    whole = np.concatenate([part for block in drawn for part in (block, between)][:-1], axis=1)
    whole = np.pad(whole, ((gap, 0), (gap, 0), (0, 0)), constant_values=128)
    return whole[..., 0] if c == 1 else whole


def save_sheet(picture: np.ndarray, path: Path) -> None:
    """As a PNG file, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    require_extra("PIL.Image").fromarray(picture).save(partial, format="PNG", optimize=True)
    partial.replace(path)


def _split(
    images: Images, seed: int, source: str, batch_size: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to flow to, and rows held out."""
    count = len(images.pixels)
    if count < _FEWEST_IMAGES:
        raise DataError(
            f"{source}: {count} images are too few to flow to; at least {_FEWEST_IMAGES} are needed."
        )
    if min(images.shape[:2]) * images.shape[2] < 2:
        raise DataError(
            f"{source}: pictures of {image_files.as_text(images.shape)} are no pictures."
        )
    order = np.random.default_rng(seed).permutation(count)
    cut = count // 5
    if batch_size is not None and batch_size > count - cut:
        raise DataError(
            f"{source}: {count - cut} images for the flow are fewer than a batch of {batch_size}; take a smaller --batch-size."
        )
    rows = images.rows()
    return rows[order[cut:]], rows[order[:cut]]


def _family(name: str, shape: tuple[int, int, int]) -> Family:
    if name == "convolutional":
        return flows.convolutional(_LATENT_DIM, shape, output="sigmoid", init_mean=-1.0)
    return preprocessed(flows.coupling(shape[0] * shape[1] * shape[2]), logit(_ALPHA))


def _measured(
    key, family, params, target, held_out, settings
) -> tuple[Estimate, Estimate, float, dict[str, Any]]:
    """F at both ends and of the held-out images, and figures: clouds of one size, so that all have the same noise of samples."""
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
    floor = float(
        experiments.mean_energy(jax.random.split(floor_key, 16), to_target, Cloud(held_out))
    )
    drawn = _sample(family, params[-1], sample_key, num=len(target))
    against = float(experiments.mean_energy(jax.random.split(held_out_key, 16), to_held_out, drawn))
    figures |= {
        "SW_2^2/2 of the flow to the images": end,
        "SW_2^2/2 of held-out images to the images": floor,
        "SW_2^2/2 of the flow to held-out images": against,
    }
    return start, end, floor, figures


def _nearest(rows: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row, the index of the nearest in the target and the distance to it."""
    distances = cdist(rows, target)
    nearest = distances.argmin(axis=1)
    return nearest, distances[np.arange(len(rows)), nearest]
