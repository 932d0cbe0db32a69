"""How far the draws of ``match`` are from the points, and the verdict on them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from swjko.cli import scores
from swjko.cli.settings import Settings
from swjko.cli.verdict import Check, Verdict, judge
from swjko.functionals.targets import sw_to_target
from swjko.types import Cloud

# Distances are measured between so many points at most.
MEASURED_POINTS = 2000
_REPEATS = 32
_LARGEST_SHIFT, _LARGEST_RATIO, _STANDARD_ERRORS = 0.1, 0.1, 3.0


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


def excess_over_halves(seed: int, settings: Settings, draws, points) -> float:
    """Return by how much draws are farther from half of the points than the other half is.

    All points are used, and the excess is in standard deviations of the distance between one
    sample of their number and the law, so that it sees what a fifth of the points cannot. The flow
    was fitted to most of them: a fit that is too close shows in the points that are held out.
    """
    rng = np.random.default_rng([seed, 1])
    num = min(len(points), len(draws), 2 * MEASURED_POINTS)
    half = num // 2
    if half < 2:
        return float("nan")
    keys = jax.random.split(jax.random.key(seed + 1), _REPEATS)
    halves = np.stack([rng.choice(points, 2 * half, replace=False) for _ in range(_REPEATS)])
    chosen = np.stack([rng.choice(draws, half, replace=False) for _ in range(_REPEATS)])
    moved, floor = (
        np.asarray(_paired_distances(keys, *pair, settings.projections), np.float64)
        for pair in ((chosen, halves[:, half:]), (halves[:, :half], halves[:, half:]))
    )
    # Both samples of a pair add to the deviation, which falls as one over their size.
    deviation = floor.std(ddof=1) / 2 * half / min(num, MEASURED_POINTS)
    return float((moved.mean() - floor.mean()) / deviation) if deviation > 0 else float("nan")


@functools.partial(jax.jit, static_argnames="num_projections")
def _paired_distances(keys, first, second, num_projections):
    """Return SW_2^2/2 of each of k pairs of clouds [k n d]."""

    def distance(pair):
        key, x, y = pair
        return sw_to_target(y, num_projections)(key, Cloud(x))

    return jax.lax.map(distance, (keys, first.astype(float), second.astype(float)))


def moments(draws: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each column the difference of means, standardised, and the ratio of deviations."""
    deviation = values.std(axis=0)
    shifts = np.abs(draws.mean(axis=0) - values.mean(axis=0)) / deviation
    return shifts, draws.std(axis=0) / deviation


def verdict(names, shifts, ratios, distances, excess, advice) -> Verdict:
    """Return the verdict of `match` from its figures."""
    at, wrong = int(np.argmax(shifts)), int(np.argmax(np.abs(np.log(np.maximum(ratios, 1e-9)))))
    ratio = float(ratios[wrong])
    moved, floor = distances
    noise = float(floor.std(ddof=1))
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
        _distance_check(float(held_out), "held-out points", "target points are"),
        _distance_check(float(excess), "half of the points", "the other half is"),
    ]
    return judge(checks, advice)


def _distance_check(excess: float, others: str, theirs: str) -> Check:
    if np.isnan(excess):
        return Check(None, _distance_rule(others, theirs), "too few points for a comparison")
    finding = f"draws are farther from {others} than {theirs}, by {excess:.2g} standard deviations"
    return Check(bool(excess <= _STANDARD_ERRORS), _distance_rule(others, theirs), finding)


def _distance_rule(others: str, theirs: str) -> str:
    return (
        f"draws are no farther from {others} than {theirs}, within {_STANDARD_ERRORS:g} "
        "standard deviations"
    )
