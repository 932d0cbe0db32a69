"""Means over seeds, and comparisons of methods, from what the JSON holds of each seed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.images.metrics import Metrics


def summarise(seeds: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """Means and standard deviations over the seeds, and comparisons of all their methods."""
    rows = []
    for name in names:
        runs = [seed["methods"][name] for seed in seeds]
        row = {"method": name, **_over_seeds([run["metrics"] for run in runs])}
        row |= {key: runs[0][key] for key in ("updates", "compile_seconds")}
        rows.append(row | {"run_seconds": np.mean([run["run_seconds"] for run in runs])})
    references = {
        name: _over_seeds([seed["references"][name] for seed in seeds])
        for name in seeds[0]["references"]
    }
    return {"rows": rows, "references": references, "comparisons": _comparisons(seeds)}


def _over_seeds(metrics: Sequence[Any]) -> dict[str, Any]:
    """Mean and deviation of each metric, and the standard error of the mean of sw."""
    found: dict[str, Any] = {}
    for name in Metrics._fields:
        values = [one[name]["value"] if name in ("sw", "max_sw") else one[name] for one in metrics]
        found[name] = {"mean": np.mean(values), "deviation": _deviation(values)}
    errors = [one["sw"]["standard_error"] for one in metrics]
    found["sw"]["standard_error"] = _error(errors, found["sw"]["deviation"], len(metrics))
    return found


def _comparisons(seeds: Sequence[Any]) -> dict[str, Any]:
    """Ratios of Frechet distances and differences of sliced distances."""
    found: dict[str, Any] = {}
    methods = list(seeds[0]["methods"])
    metrics = {name: [seed["methods"][name]["metrics"] for seed in seeds] for name in methods}
    floors = {
        name: [seed["references"][name] for seed in seeds]
        for name in ("autoencoder, held-out", "autoencoder, training")
    }

    def add_ratio(above: str, over: Sequence[Any], below: str, under: Sequence[Any]) -> None:
        each = [x["frechet"] / y["frechet"] for x, y in zip(over, under, strict=True)]
        found[f"Frechet of {above} over that of {below}"] = {"mean": np.mean(each), "each": each}

    for other in [name for name in methods if "sliced_flow" in name]:
        for name in [name for name in methods if name.startswith(f"{other.split()[0]} sw_jko")]:
            add_ratio(other, metrics[other], name, metrics[name])
            pairs = list(zip(metrics[other], metrics[name], strict=True))
            gaps = [x["sw"]["value"] - y["sw"]["value"] for x, y in pairs]
            errors = [one["sw"]["standard_error"] for pair in pairs for one in pair]
            error = _error(errors, _deviation(gaps), len(seeds))
            gap = {"mean": np.mean(gaps), "standard_error": error, "each": gaps}
            found[f"SW of {other} minus that of {name}"] = gap
    for name in [name for name in methods if name.startswith("latent")]:
        for floor, values in floors.items():
            add_ratio(name, metrics[name], floor, values)
    return found


def _error(errors: Sequence[float], deviation: float | None, num: int) -> float:
    """Standard error of a mean over seeds: that of the directions and that of the seeds."""
    of_directions = np.sqrt(np.sum(np.square(errors))) / num
    return float(np.hypot(of_directions, (deviation or 0.0) / np.sqrt(num)))


def _deviation(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
