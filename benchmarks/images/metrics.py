"""Distances of generated images from held-out ones, and from the images trained on.

Biases of finite samples are the same for all methods if all sets have the same size, so
``of_images`` insists on it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import swjko
from benchmarks.images.classifier import Classifier
from swjko.types import Estimate, Key

NEIGHBOURS = 3
_MAX_SLICED_STARTS = 4


class ImageData(NamedTuple):
    """Rows in [0, 1] of two halves of equal size, and what all comparisons share.

    Attributes:
      train: Half that flows and classifier are trained on [n d].
      held_out: Half that images are compared with [n d].
      shape: Shape of an image.
      classifier: Classifier trained on the training half.
      features: Features of the held-out half [n 64].
      radii: Distance from each held-out image to its third neighbour, in the features [n].
      nearest: Median distance in pixels from a held-out to the nearest training image.
    """

    train: np.ndarray
    held_out: np.ndarray
    shape: tuple[int, int, int]
    classifier: Classifier
    features: np.ndarray
    radii: np.ndarray
    nearest: float


def image_data(
    train: np.ndarray, held_out: np.ndarray, shape: tuple[int, int, int], classifier: Classifier
) -> ImageData:
    """Make the record of two halves."""
    features = classifier.features(held_out, shape)
    nearest = float(np.median(nearest_distances(held_out, train)))
    radii = neighbour_distances(features)
    return ImageData(train, held_out, shape, classifier, features, radii, nearest)


class Metrics(NamedTuple):
    """Metrics of generated images against held-out ones.

    Attributes:
      sw: SW_2^2 in pixels, with the standard error of the directions.
      max_sw: Max-sliced distance W_2 in pixels. It comes from ascents, so it is at most the true
        one; the error is the spread over four ascents.
      frechet: Squared Frechet distance of Gaussians with the moments of the features, in per cent
        of their total variance.
      precision: Fraction of the generated images within the held-out ones' neighbourhoods in the
        features (Kynkaanniemi et al. 2019, arXiv 1904.06991), three neighbours.
      recall: The same with the two sets exchanged.
      memorisation: Median distance in pixels from a generated image to the nearest training image,
        over that from a held-out one. Well below 1 means copies.
    """

    sw: Estimate
    max_sw: Estimate
    frechet: float
    precision: float
    recall: float
    memorisation: float


class Scorer(NamedTuple):
    """Metrics on the same directions for all methods, so that differences are of the images."""

    key: Key
    data: ImageData
    num_projections: int
    num_ascents: int

    def __call__(self, rows: Any) -> Metrics:
        """All metrics of generated rows.

        Values outside [0, 1] are clipped, except for the sliced distances.

        Raises:
          ValueError: If there are not as many rows as are held out.
        """
        data, rows = self.data, np.asarray(rows, np.float32)
        if rows.shape != data.held_out.shape:
            raise ValueError(
                f"`rows` must be as many as those held out, {data.held_out.shape}; "
                f"got {rows.shape}."
            )
        keys = jax.random.split(self.key, 1 + _MAX_SLICED_STARTS)[1:]
        options = {"num_iterations": self.num_ascents}
        ascents = jnp.stack([_max_sw(key, rows, data.held_out, **options) for key in keys])
        max_sw = Estimate(jnp.max(ascents), jnp.std(ascents, ddof=1))
        rows_in_range = np.clip(rows, 0.0, 1.0)
        features = data.classifier.features(rows_in_range, data.shape)
        found = precision_and_recall(features, data.features, data.radii)
        nearest = float(np.median(nearest_distances(rows_in_range, data.train)))
        distance = frechet(features, data.features)
        return Metrics(self._sw(rows), max_sw, distance, *found, nearest / data.nearest)

    def few(self, rows: Any) -> dict[str, Any]:
        """``sw`` and ``frechet`` alone, the same as among all metrics."""
        data, rows = self.data, np.asarray(rows, np.float32)
        features = data.classifier.features(np.clip(rows, 0.0, 1.0), data.shape)
        return {"sw": self._sw(rows), "frechet": frechet(features, data.features)}

    def _sw(self, rows: np.ndarray) -> Estimate:
        key = jax.random.split(self.key, 1 + _MAX_SLICED_STARTS)[0]
        return _sw(key, rows, self.data.held_out, num_projections=self.num_projections)


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """100 times the squared Frechet distance of the moments of points [n d] and [m d].

    |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^{1/2}), in float64.
    """
    shift = x.mean(axis=0) - y.mean(axis=0)
    covs = [np.cov(part.T, bias=True) for part in (x, y)]
    values, vectors = np.linalg.eigh(covs[0])
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    # C_x C_y has the eigenvalues of the symmetric root(C_x) C_y root(C_x).
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covs[1] @ root), 0.0)).sum()
    traces = np.trace(covs[0]) + np.trace(covs[1]) - 2.0 * cross
    return float(100.0 * (np.sum(shift**2) + traces))


def precision_and_recall(
    generated: np.ndarray, real: np.ndarray, real_radii: np.ndarray
) -> tuple[float, float]:
    """Fraction of each set within the other's distances to the third neighbour."""
    across = np.sqrt(_square_distances(generated, real))
    precision = np.mean((across <= real_radii[None, :]).any(axis=1))
    recall = np.mean((across <= neighbour_distances(generated)[:, None]).any(axis=0))
    return float(precision), float(recall)


def neighbour_distances(x: np.ndarray) -> np.ndarray:
    """Distance from each point to its third neighbour, itself not counted, [n]."""
    return np.sqrt(np.partition(_square_distances(x, x), NEIGHBOURS, axis=1)[:, NEIGHBOURS])


def nearest_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance from each row of x to the nearest of y, [n]."""
    return np.sqrt(_square_distances(x, y).min(axis=1))


def _square_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances [n m] in float32; centred, because a common offset would cost digits."""
    center = y.mean(axis=0)
    x, y = ((part - center).astype(np.float32) for part in (x, y))
    squares = x @ y.T
    squares *= -2.0
    squares += np.sum(x**2, axis=1)[:, None]
    squares += np.sum(y**2, axis=1)[None, :]
    return np.maximum(squares, 0.0, out=squares)


@functools.partial(jax.jit, static_argnames="num_projections")
def _sw(key, x, y, num_projections):
    return swjko.sliced_wasserstein_estimate(key, x, y, num_projections, control_variate=True)


@functools.partial(jax.jit, static_argnames="num_iterations")
def _max_sw(key, x, y, num_iterations):
    options = {"num_iterations": num_iterations, "num_starts": 2}
    return swjko.max_sliced_wasserstein(key, x, y, **options).value
