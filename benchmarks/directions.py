"""Error of SW_2^2 between fixed clouds against the number of directions, for each kind of them.

There are two pairs of clouds of n points: Gaussians of different means and anisotropic covariances,
and two noisy half circles (Gaussian beyond the first two coordinates) against a mixture of four
Gaussians. Per dimension and pair, in ``runs`` of the JSON:

- rms_relative_error: sqrt(mean (estimate - reference)^2) / reference over the keys, per kind and
  number of directions. With K keys its own relative error is about 1 / sqrt(2 K).
- reference: from many directions of the kind that scatters least at the largest number, averaged
  over other keys. Errors below its relative standard error mean nothing.
- slope: of log error against log number.

``winners`` compares, per dimension, the geometric means over pairs and numbers of the errors
relative to ``uniform``.
"""

import argparse
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import swjko
from benchmarks import common

KINDS = {
    "uniform": swjko.uniform_directions,
    "orthogonal": swjko.orthogonal_directions,
    "quasi": swjko.quasi_directions,
}
PAIRS = ("gaussian", "moons to mixture")


class Sizes(NamedTuple):
    """nums: numbers of directions; reference: number of keys and of directions."""

    dims: tuple[int, ...]
    nums: tuple[int, ...]
    num_points: int
    num_keys: int
    reference: tuple[int, int]


DEFAULT = Sizes(
    dims=(2, 3, 10, 50, 784),
    nums=tuple(2**power for power in range(4, 12)),
    num_points=500,
    num_keys=50,
    reference=(16, 16384),
)
QUICK = Sizes(dims=(2, 10), nums=(16, 64), num_points=64, num_keys=8, reference=(4, 1024))
FLAGS = common.Flags(quick="two dimensions at reduced size")


def main(args: argparse.Namespace) -> None:
    sizes = QUICK if args.quick else DEFAULT
    rows = []
    for dim in sizes.dims:
        for pair in PAIRS:
            rows.append(measure(pair, dim, sizes))
            common.show(f"d = {dim}, {pair}", rows[-1]["reference"])
    content = {"quick": args.quick, "sizes": sizes, "winners": winners(rows), "runs": rows}
    common.finish(args, content, ("", _figure(rows)))


def measure(pair: str, dim: int, sizes: Sizes) -> dict[str, Any]:
    """Errors of all kinds for one pair of clouds."""
    x, y = (jnp.asarray(cloud, jnp.float32) for cloud in clouds(pair, dim, sizes.num_points))
    error_key, reference_key = jax.random.split(jax.random.key(0))
    keys = jax.random.split(error_key, sizes.num_keys)
    values = {
        kind: np.stack([_estimates(keys, x, y, kind, num) for num in sizes.nums]) for kind in KINDS
    }  # each [numbers keys]
    # The scatter needs no reference, so the kind with the least scatter makes the reference.
    best = min(KINDS, key=lambda kind: values[kind][-1].std())
    num_keys, num = sizes.reference
    draws = _estimates(jax.random.split(reference_key, num_keys), x, y, best, num)
    reference = draws.mean()
    errors = {
        kind: np.sqrt(np.mean((value - reference) ** 2, axis=1)) / reference
        for kind, value in values.items()
    }
    log_nums = np.log(sizes.nums)
    noise = draws.std(ddof=1) / np.sqrt(num_keys) / reference
    source = {"kind": best, "directions": num, "keys": num_keys}
    return {
        "pair": pair,
        "dim": dim,
        "nums": sizes.nums,
        "reference": {"value": reference, "relative_standard_error": noise, **source},
        "rms_relative_error": errors,
        "slope": {
            kind: np.polyfit(log_nums, np.log(error), 1)[0] for kind, error in errors.items()
        },
    }


def _estimates(keys, x, y, kind: str, num: int) -> np.ndarray:
    """SW_2^2 for each key.

    One key at a time needs the memory of one estimate, and compiles the sorts once for all kinds.
    """
    dim = x.shape[1]
    values = [_sliced_pow(x, y, _directions(key, kind=kind, num=num, dim=dim)) for key in keys]
    return np.array(values, np.float64)


_sliced_pow = jax.jit(swjko.sliced_wasserstein_pow)


@functools.partial(jax.jit, static_argnames=("kind", "num", "dim"))
def _directions(key, kind, num, dim):
    return KINDS[kind](key, num, dim)


def clouds(pair: str, dim: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Two clouds [num dim], the same at each call."""
    rng = np.random.default_rng((PAIRS.index(pair), dim))
    if pair == "gaussian":
        return _anisotropic_gaussian(rng, dim, num), _anisotropic_gaussian(rng, dim, num)
    angle, upper = rng.uniform(0.0, np.pi, num), rng.random(num) < 0.5
    moons = rng.normal(0.0, 0.1, (num, dim))
    moons[:, 0] += np.where(upper, np.cos(angle), 1.0 - np.cos(angle))
    moons[:, 1] += np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    centers = rng.normal(0.0, 1.5, (4, dim))
    return moons, centers[rng.integers(4, size=num)] + rng.normal(0.0, 0.3, (num, dim))


def _anisotropic_gaussian(rng: np.random.Generator, dim: int, num: int) -> np.ndarray:
    """Draw with a random rotation, standard deviations from 0.2 to 2, and mean ~ N(0, I / d)."""
    rotation, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    mean = rng.standard_normal(dim) / np.sqrt(dim)
    return mean + (rng.standard_normal((num, dim)) * np.geomspace(0.2, 2.0, dim)) @ rotation.T


def winners(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Error of each kind over that of uniform, the least error, and the wins, per dimension."""
    found = []
    for dim in dict.fromkeys(row["dim"] for row in rows):
        own = [row["rms_relative_error"] for row in rows if row["dim"] == dim]
        errors = {kind: np.concatenate([row[kind] for row in own]) for kind in KINDS}
        relative = {
            kind: float(np.exp(np.mean(np.log(error / errors["uniform"]))))
            for kind, error in errors.items()
        }
        winner = min(relative, key=lambda kind: relative[kind])
        best = np.argmin(np.stack(list(errors.values())), axis=0)
        wins = {kind: int(np.sum(best == index)) for index, kind in enumerate(KINDS)}
        found.append({"dim": dim, "winner": winner, "error_over_uniform": relative, "wins": wins})
    return found


def _figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Error against number, a panel per dimension; solid and dashed lines for the two pairs."""
    dims = list(dict.fromkeys(row["dim"] for row in rows))
    figure, axes = common.new_figure(2.7 * len(dims) + 0.5, 3.6, columns=len(dims), sharex=True)
    for row in rows:
        axis, style = axes[0, dims.index(row["dim"])], ("o-", "o--")[PAIRS.index(row["pair"])]
        for kind, error in row["rms_relative_error"].items():
            label = f"{kind}, {row['pair']}" if axis is axes[0, 0] else None
            color = f"C{list(KINDS).index(kind)}"
            axis.loglog(row["nums"], error, style, color=color, markersize=3, label=label)
    for axis, dim in zip(axes[0], dims, strict=True):
        common.log2_axis(axis, title=f"d = {dim}", xlabel="directions")
        axis.tick_params(labelsize=7, which="both")
    axes[0, 0].set_ylabel("relative error of $SW_2^2$ (rms)")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure
