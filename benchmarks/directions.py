"""Error of SW_2^2 between fixed clouds against the number of directions, for each kind of directions and each dimension.

Two pairs of clouds of n points: Gaussians of different means and anisotropic covariances; and two half circles with noise (in the first
two coordinates, Gaussian in the others) against a mixture of four Gaussians. Per dimension and pair, in ``runs`` of the JSON:

- rms_relative_error: sqrt(mean (estimate - reference)^2) / reference over the keys, per kind and number of directions; with K keys its own
  relative error is about 1 / sqrt(2 K);
- reference: by many directions of the kind that scatters least at the largest number, averaged over keys of its own, with its relative
  standard error, below which no error above means anything;
- slope: of log error against log number.

``winners`` compares, per dimension, the geometric means over pairs and numbers of the errors relative to ``uniform``.
"""

import argparse
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import swjko
from benchmarks import common

KINDS = {
    "uniform": swjko.uniform_directions,
    "orthogonal": swjko.orthogonal_directions,
    "quasi": swjko.quasi_directions,
}
PAIRS = ("gaussian", "moons to mixture")


class Sizes(NamedTuple):
    """reference: (keys, directions)."""

    dims: tuple[int, ...]
    nums: tuple[int, ...]
    num_points: int
    num_keys: int
    reference: tuple[int, int]


FULL = Sizes((2, 3, 10, 50, 784), tuple(2**power for power in range(4, 12)), 500, 50, (16, 16384))
QUICK = Sizes((2, 10), (16, 64), 64, 8, (4, 1024))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quick",
        action="store_true",
        help="two dimensions at reduced size, to see that it runs; written to runs/benchmarks",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="directory for JSON and PNG (default benchmarks/results)"
    )


def main(args: argparse.Namespace) -> int:
    sizes = QUICK if args.quick else FULL
    directory = Path(args.out or (Path("runs/benchmarks") if args.quick else common.RESULTS))
    rows = []
    for dim in sizes.dims:
        for pair in PAIRS:
            rows.append(measure(pair, dim, sizes))
            print(f"d = {dim}, {pair}: {common.plain(rows[-1]['reference'])}", flush=True)
    compared = winners(rows)
    print(table(rows, compared))
    print(
        common.write_results(
            "directions",
            {"quick": args.quick, "sizes": sizes, "winners": compared, "runs": rows},
            directory,
        )
    )
    _figure(rows).savefig(directory / "directions.png", dpi=150)
    return 0


def measure(pair: str, dim: int, sizes: Sizes) -> dict[str, Any]:
    """The errors of all kinds for one pair of clouds."""
    x, y = (jnp.asarray(cloud, jnp.float32) for cloud in clouds(pair, dim, sizes.num_points))
    error_key, reference_key = jax.random.split(jax.random.key(0))
    keys = jax.random.split(error_key, sizes.num_keys)
    values = {
        kind: np.stack([_estimates(keys, x, y, kind, num) for num in sizes.nums]) for kind in KINDS
    }  # each [numbers keys]
    # The scatter needs no reference; its winner makes one.
    best = min(KINDS, key=lambda kind: values[kind][-1].std())
    num_keys, num = sizes.reference
    draws = _estimates(jax.random.split(reference_key, num_keys), x, y, best, num)
    reference = draws.mean()
    errors = {
        kind: np.sqrt(np.mean((value - reference) ** 2, axis=1)) / reference
        for kind, value in values.items()
    }
    return {
        "pair": pair,
        "dim": dim,
        "nums": sizes.nums,
        "reference": {
            "value": reference,
            "relative_standard_error": draws.std(ddof=1) / np.sqrt(num_keys) / reference,
            "kind": best,
            "directions": num,
            "keys": num_keys,
        },
        "rms_relative_error": errors,
        "slope": {
            kind: np.polyfit(np.log(sizes.nums), np.log(error), 1)[0]
            for kind, error in errors.items()
        },
    }


def _estimates(keys, x, y, kind: str, num: int) -> np.ndarray:
    """SW_2^2 [keys], one key at a time: memory is that of one estimate, and the sorts are compiled once for all kinds."""
    return np.array(
        [_sliced_pow(x, y, _directions(key, kind=kind, num=num, dim=x.shape[1])) for key in keys],
        np.float64,
    )


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
    """A random rotation of standard deviations spaced evenly in the logarithm from 0.2 to 2, about a mean ~ N(0, I / d)."""
    rotation, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    mean = rng.standard_normal(dim) / np.sqrt(dim)
    return mean + (rng.standard_normal((num, dim)) * np.geomspace(0.2, 2.0, dim)) @ rotation.T


def winners(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per dimension: error of each kind over that of uniform (geometric mean over pairs and numbers), the smallest, and its wins."""
    found = []
    for dim in dict.fromkeys(row["dim"] for row in rows):
        errors = {
            kind: np.concatenate(
                [row["rms_relative_error"][kind] for row in rows if row["dim"] == dim]
            )
            for kind in KINDS
        }
        relative = {
            kind: float(np.exp(np.mean(np.log(error / errors["uniform"]))))
            for kind, error in errors.items()
        }
        winner = min(relative, key=lambda kind: relative[kind])
        best = np.argmin(np.stack(list(errors.values())), axis=0)
        wins = {kind: int(np.sum(best == index)) for index, kind in enumerate(KINDS)}
        found.append({"dim": dim, "winner": winner, "error_over_uniform": relative, "wins": wins})
    return found


def table(rows: Sequence[Mapping[str, Any]], compared: Sequence[Mapping[str, Any]]) -> str:
    """Errors in per cent at the smallest, a middle and the largest number; then the winner of each dimension."""
    nums = rows[0]["nums"]
    shown = sorted({0, len(nums) // 2, len(nums) - 1})
    lines = [
        f"{'d':>4} {'pair':17} {'kind':11}"
        + "".join(f"{f'L = {nums[i]}':>11}" for i in shown)
        + f"{'slope':>8} {'reference':>10}"
    ]
    for row in rows:
        noise = f"{100 * row['reference']['relative_standard_error']:.2g} %"
        for kind, error in row["rms_relative_error"].items():
            values = "".join(f"{f'{100 * error[i]:.3g} %':>11}" for i in shown)
            lines.append(
                f"{row['dim']:>4} {row['pair']:17} {kind:11}{values}{row['slope'][kind]:>8.2f} {noise:>10}"
            )
    for entry in compared:
        ratios = ", ".join(
            f"{kind} {ratio:.2g}" for kind, ratio in entry["error_over_uniform"].items()
        )
        wins = ", ".join(f"{kind} {count}" for kind, count in entry["wins"].items())
        lines.append(
            f"d = {entry['dim']}: {entry['winner']} wins; error over uniform: {ratios}; smallest in: {wins}"
        )
    return "\n".join(lines)


def _figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A panel per dimension: error against number, both logarithmic; solid and dashed for the two pairs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dims = list(dict.fromkeys(row["dim"] for row in rows))
    figure = Figure(figsize=(2.7 * len(dims) + 0.5, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(dims), sharex=True, squeeze=False)[0]
    for axis, dim in zip(axes, dims, strict=True):
        for row in (row for row in rows if row["dim"] == dim):
            style = ("-", "--")[PAIRS.index(row["pair"])]
            for index, (kind, error) in enumerate(row["rms_relative_error"].items()):
                label = f"{kind}, {row['pair']}" if axis is axes[0] else None
                axis.loglog(
                    row["nums"],
                    error,
                    style,
                    color=f"C{index}",
                    marker="o",
                    markersize=3,
                    linewidth=1.2,
                    label=label,
                )
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set(title=f"d = {dim}", xlabel="directions")
        axis.grid(True, which="major", alpha=0.3)
        axis.tick_params(labelsize=7, which="both")
    axes[0].set_ylabel("relative error of $SW_2^2$ (rms)")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure
