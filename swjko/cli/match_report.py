"""How far the draws of ``match`` are from the points, and the verdict on them."""

import jax
import jax.numpy as jnp
import numpy as np

from swjko.cli import scores
from swjko.cli.verdict import Check, Verdict, judge
from swjko.functionals.targets import sw_to_target
from swjko.types import Cloud

# Largest number of points between which distances are measured.
MEASURED_POINTS = 2000
_REPEATS = 32
_LARGEST_SHIFT, _LARGEST_RATIO, _STANDARD_ERRORS = 0.1, 0.1, 3.0
# Of principal components: the least deviation that counts, and the largest factor of it.
_LEAST_DEVIATION, _LARGEST_FACTOR = 0.1, 1.5


def distances(seed, settings, draws, target, held_out) -> tuple[np.ndarray, np.ndarray]:
    """Return SW_2^2/2 to held-out points of draws and of target points, of as many, repeatedly."""
    rng = np.random.default_rng(seed)
    num = min(MEASURED_POINTS, len(held_out))
    against = sw_to_target(held_out[:num], settings.projections)
    keys = jax.random.split(jax.random.key(seed), _REPEATS)

    def of(points):
        chosen = np.stack([rng.choice(points, num, replace=False) for _ in range(_REPEATS)])
        return np.asarray(scores.energies(keys, against, Cloud(jnp.asarray(chosen, float))))

    return of(draws), of(np.asarray(target))


def moments(draws: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each column the difference of means, standardised, and the ratio of deviations."""
    deviation = values.std(axis=0)
    shifts = np.abs(draws.mean(axis=0) - values.mean(axis=0)) / deviation
    return shifts, draws.std(axis=0) / deviation


def component_ratios(draws: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the deviation of draws along each principal component over that of the points.

    Columns may be right one by one where their correlations are not. Components along which the
    points deviate by less than a tenth of a column are left out; arrays are scaled, [n k].
    """
    variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(points, rowvar=False, ddof=0)))
    kept = variances > _LEAST_DEVIATION**2
    along = np.std(np.asarray(draws, np.float64) @ axes[:, kept], axis=0)
    return along / np.sqrt(variances[kept])


def verdict(names, shifts, ratios, components, distances, advice) -> Verdict:
    """Return the verdict of ``match`` from its figures."""
    at, wrong = int(np.argmax(shifts)), int(np.argmax(np.abs(np.log(np.maximum(ratios, 1e-9)))))
    ratio = float(ratios[wrong])
    moved, floor = distances
    noise = float(floor.std(ddof=1))
    factors = np.maximum(components, 1 / np.maximum(components, 1e-9))
    factor = float(np.max(factors, initial=1.0))
    held_out = (moved.mean() - floor.mean()) / noise if noise > 0 else np.nan
    checks = [
        Check(
            bool(shifts[at] <= _LARGEST_SHIFT),
            f"every column's mean is within {_LARGEST_SHIFT} standard deviations of the data's",
            f"the mean of {names[at]!r} is off by {shifts[at]:.2g} standard deviations",
        ),
        Check(
            bool(np.all(np.abs(ratios - 1) <= _LARGEST_RATIO)),
            f"its standard deviation within {100 * _LARGEST_RATIO:g} %",
            f"the standard deviation of {names[wrong]!r} is {ratio:.3g} times the data's",
        ),
        Check(
            factor <= _LARGEST_FACTOR,
            f"the deviation along each principal component within a factor of {_LARGEST_FACTOR:g}",
            f"the deviation along a principal component is wrong by a factor of {factor:.2g}: "
            "correlations of columns are not those of the data",
        ),
        Check(
            None if np.isnan(held_out) else bool(held_out <= _STANDARD_ERRORS),
            f"draws are no farther from held-out points than target points are, within "
            f"{_STANDARD_ERRORS:g} standard deviations",
            "too few points are held out for a comparison"
            if np.isnan(held_out)
            else "draws are farther from held-out points than target points are, by "
            f"{held_out:.2g} standard deviations",
        ),
    ]
    return judge(checks, advice)
