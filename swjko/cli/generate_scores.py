"""Scores of generated images: distances to images, beside those of held-out ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.distance import cdist

from swjko.cli.flow import sample_cloud
from swjko.cli.scores import mean_energy
from swjko.cli.verdict import Check, Verdict, judge
from swjko.diagnostics.evaluate import evaluate
from swjko.distances.directions import orthogonal_directions
from swjko.functionals.targets import sw_to_target
from swjko.types import Cloud, Estimate

# Largest clouds in the final measurements; distances between more would take longer than the flow.
_MEASURED_POINTS = 2000
# What a good fit may exceed the values of held-out images by.
_LARGEST_DISTANCE, _LARGEST_EXCESS = 1.5, 2.0
_evaluate = jax.jit(evaluate, static_argnames=("num_samples", "num_repeats"))


def verdict(figures: dict[str, Any]) -> Verdict:
    """Return the verdict on samples beside held-out images.

    Args:
      figures: From ``measured`` and ``neighbours``.
    """
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


def measured(
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


def neighbours(
    drawn: np.ndarray, target: np.ndarray, held_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Find the nearest images of samples, and of as many held-out images.

    Returns:
      The index of the image nearest to each sample, that of the one nearest to each held-out image,
      and scores of the distances.
    """
    (nearest, distances), (nearest_to_held_out, of_held_out) = (
        _nearest(points, target) for points in (drawn, held_out[: len(drawn)])
    )
    scores = {
        "distance of a sample to the nearest image, mean": float(distances.mean()),
        "distance of a held-out image to the nearest image, mean": float(of_held_out.mean()),
        "samples nearer to an image than any held-out image": int(
            np.sum(distances < of_held_out.min())
        ),
    }
    return nearest, nearest_to_held_out, scores


def _nearest(points: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the image nearest to each point, and its distance."""
    distances = cdist(points, target)
    nearest = distances.argmin(axis=1)
    return nearest, distances[np.arange(len(points)), nearest]


def class_scores(
    nearest: np.ndarray,
    nearest_to_held_out: np.ndarray,
    shown: np.ndarray,
    of_target: np.ndarray,
    of_held_out: np.ndarray,
) -> dict[str, Any]:
    """Return how often the nearest image has the class that was asked for.

    Args:
      nearest: Index of the image nearest to each sample.
      nearest_to_held_out: Index of the image nearest to each of the first held-out images.
      shown: Class of each sample.
      of_target: Classes of the images of the flow [m].
      of_held_out: Classes of the held-out images [k].
    """
    of_first = of_held_out[: len(nearest_to_held_out)]
    return {
        "nearest image has the class of the sample, share": float(
            np.mean(of_target[nearest] == shown)
        ),
        "nearest image has the class of the held-out image, share": float(
            np.mean(of_target[nearest_to_held_out] == of_first)
        ),
    }
