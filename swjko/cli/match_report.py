"""How far the draws of ``match`` are from the points, and the verdict on them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

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


class Comparison(NamedTuple):
    """Draws beside the points.

    Attributes:
      shifts: For each column, the difference of means in standard deviations.
      ratios: For each column, the ratio of standard deviations.
      components: The same ratio along each principal component.
      moved: SW_2^2/2 of draws to held-out points, repeatedly.
      floor: SW_2^2/2 of as many points of the target to them.
    """

    shifts: np.ndarray
    ratios: np.ndarray
    components: np.ndarray
    moved: np.ndarray
    floor: np.ndarray

    def figures(self, measured: int) -> dict[str, Any]:
        """Return the figures of the report, of distances between ``measured`` points."""
        _, ratios, components, moved, floor = self
        return {
            f"SW_2^2/2 of {measured} draws to held-out points, scaled": float(moved.mean()),
            f"SW_2^2/2 of {measured} points of the target to them": float(floor.mean()),
            "standard deviation of the last number": float(floor.std(ddof=1)),
            "largest difference of a column's mean, in standard deviations": float(
                self.shifts.max()
            ),
            "ratio of a column's standard deviation to the data's": [
                float(ratios.min()),
                float(ratios.max()),
            ],
            "the same along principal components": [
                float(components.min(initial=1.0)),
                float(components.max(initial=1.0)),
            ],
        }


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


def verdict(names: Sequence[str], comparison: Comparison, advice: str) -> Verdict:
    """Return the verdict of ``match``."""
    shifts, ratios, components, moved, floor = comparison
    at, wrong = int(np.argmax(shifts)), int(np.argmax(np.abs(np.log(np.maximum(ratios, 1e-9)))))
    ratio = float(ratios[wrong])
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
