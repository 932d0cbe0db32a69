"""How near a set of generated images is to held-out ones: in pixels, in the features of a classifier, and to the images trained on.

Biases of finite samples are the same for all methods where all sets have the same size; ``of_images`` insists on it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import swjko
from benchmarks.image_classifier import Classifier
from swjko.types import Estimate, Key

NEIGHBOURS = 3
_MAX_SLICED_STARTS = 4


class ImageData(NamedTuple):
    """Rows in [0, 1] of the two halves, equally many, and what does not change with the images compared to them.

    Attributes:
      train, held_out: [n d].
      shape: of an image.
      classifier: trained on the training half.
      features: [n 64] of the held-out half.
      radii: [n], in the features, from each of the held-out half to its third neighbour.
      nearest: median distance in pixels from the held-out half to the training half.
    """

    train: np.ndarray
    held_out: np.ndarray
    shape: tuple[int, int, int]
    classifier: Classifier
    features: np.ndarray
    radii: np.ndarray
    nearest: float

    @classmethod
    def of_halves(
        cls,
        train: np.ndarray,
        held_out: np.ndarray,
        shape: tuple[int, int, int],
        classifier: Classifier,
    ) -> "ImageData":
        features = classifier.features(held_out, shape)
        nearest = float(np.median(nearest_distances(held_out, train)))
        return cls(
            train, held_out, shape, classifier, features, neighbour_distances(features), nearest
        )


class Metrics(NamedTuple):
    """Of generated images against held-out ones.

    Attributes:
      sw: SW_2^2 in pixels; the standard error is that of the directions.
      max_sw: the max-sliced distance W_2 in pixels, from ascents, so at most the true one; the error is the spread over four of them.
      frechet: squared Frechet distance of Gaussians with the moments of the features, in per cent of their total variance.
      precision, recall: parts of the generated images within the held-out ones' neighbourhoods in the features, and the other way
        (Kynkaanniemi et al. 2019, arXiv 1904.06991), three neighbours.
      memorisation: median distance in pixels from a generated image to the nearest training image, over that from a held-out one. Well
        below 1 means copies.
    """

    sw: Estimate
    max_sw: Estimate
    frechet: float
    precision: float
    recall: float
    memorisation: float


def of_images(
    key: Key, rows: Any, data: ImageData, *, num_projections: int, num_ascents: int
) -> Metrics:
    """``Metrics`` of generated rows, as many as are held out; what lies outside [0, 1] is cut off for all but the sliced distances, which
    are of the points as they are. Raises ValueError on another number of rows."""
    rows = np.asarray(rows, np.float32)
    if rows.shape != data.held_out.shape:
        raise ValueError(
            f"generated images must be as many as those held out, {data.held_out.shape}; received {rows.shape}."
        )
    sw_key, *ascent_keys = jax.random.split(key, 1 + _MAX_SLICED_STARTS)
    sw = _sw(sw_key, rows, data.held_out, num_projections=num_projections)
    ascents = jnp.stack(
        [_max_sw(key, rows, data.held_out, num_iterations=num_ascents) for key in ascent_keys]
    )
    max_sw = Estimate(jnp.max(ascents), jnp.std(ascents, ddof=1))
    rows = np.clip(rows, 0.0, 1.0)
    features = data.classifier.features(rows, data.shape)
    precision, recall = precision_and_recall(features, data.features, data.radii)
    nearest = float(np.median(nearest_distances(rows, data.train)))
    return Metrics(
        sw, max_sw, frechet(features, data.features), precision, recall, nearest / data.nearest
    )


def sw_and_frechet(key: Key, rows: Any, data: ImageData, *, num_projections: int) -> dict[str, Any]:
    """The two of them alone, on the directions that ``of_images`` takes for the same key."""
    rows = np.asarray(rows, np.float32)
    sw = _sw(
        jax.random.split(key, 1 + _MAX_SLICED_STARTS)[0],
        rows,
        data.held_out,
        num_projections=num_projections,
    )
    return {
        "sw": sw,
        "frechet": frechet(
            data.classifier.features(np.clip(rows, 0.0, 1.0), data.shape), data.features
        ),
    }


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """100 (|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^{1/2})) of points [n d] and [m d] in float64."""
    means, covs = (
        [part.mean(axis=0) for part in (x, y)],
        [np.cov(part.T, bias=True) for part in (x, y)],
    )
    root = _root(covs[0])
    # C_x C_y has the eigenvalues of the symmetric root(C_x) C_y root(C_x).
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covs[1] @ root), 0.0)).sum()
    return float(
        100.0
        * (np.sum((means[0] - means[1]) ** 2) + np.trace(covs[0]) + np.trace(covs[1]) - 2.0 * cross)
    )


def precision_and_recall(
    generated: np.ndarray, real: np.ndarray, real_radii: np.ndarray
) -> tuple[float, float]:
    """Parts of the one set that lie within the distance of some point of the other to its third neighbour."""
    across = np.sqrt(_square_distances(generated, real))
    precision = np.mean((across <= real_radii[None, :]).any(axis=1))
    recall = np.mean((across <= neighbour_distances(generated)[:, None]).any(axis=0))
    return float(precision), float(recall)


def neighbour_distances(x: np.ndarray) -> np.ndarray:
    """[n], from each point to its third neighbour, itself not counted."""
    return np.sqrt(np.partition(_square_distances(x, x), NEIGHBOURS, axis=1)[:, NEIGHBOURS])


def nearest_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[n], from each row of x to the nearest of y."""
    return np.sqrt(_square_distances(x, y).min(axis=1))


def _square_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[n m] in float32, of points around their mean, which keeps the digits that a common offset would take."""
    center = y.mean(axis=0)
    x, y = ((part - center).astype(np.float32) for part in (x, y))
    squares = x @ y.T
    squares *= -2.0
    squares += np.sum(x**2, axis=1)[:, None]
    squares += np.sum(y**2, axis=1)[None, :]
    return np.maximum(squares, 0.0, out=squares)


def _root(cov: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(cov)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _sw_impl(key, x, y, num_projections):
    return swjko.sliced_wasserstein_estimate(key, x, y, num_projections, control_variate=True)


def _max_sw_impl(key, x, y, num_iterations):
    return swjko.max_sliced_wasserstein(
        key, x, y, num_iterations=num_iterations, num_starts=2
    ).value


_sw = jax.jit(_sw_impl, static_argnames=("num_projections",))
_max_sw = jax.jit(_max_sw_impl, static_argnames=("num_iterations",))
