"""Means over seeds and the comparisons that the images benchmark is about, from what its JSON holds of each seed."""

from typing import Any

import numpy as np

from benchmarks.image_metrics import Metrics


def summarise(seeds: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """Means and standard deviations over the seeds, and the comparisons that all of their methods are there for."""
    rows, references = [], {}
    for name in names:
        runs = [seed["methods"][name] for seed in seeds]
        row = {"method": name, **_over_seeds([run["metrics"] for run in runs])}
        row |= {
            "updates": runs[0]["updates"],
            "run_seconds": np.mean([run["run_seconds"] for run in runs]),
        }
        rows.append(row | {"compile_seconds": runs[0]["compile_seconds"]})
    for name in seeds[0]["references"]:
        references[name] = _over_seeds([seed["references"][name] for seed in seeds])
    return {"rows": rows, "references": references, "comparisons": _comparisons(seeds)}


def _over_seeds(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """{metric: {mean, deviation}}; the error of sw is that of its mean: of the directions, and of the seeds where there are several."""
    values = {name: np.array([_number(one[name]) for one in metrics]) for name in Metrics._fields}
    found: dict[str, Any] = {
        name: {"mean": part.mean(), "deviation": _deviation(part)} for name, part in values.items()
    }
    of_directions = np.sqrt(np.sum([one["sw"]["standard_error"] ** 2 for one in metrics])) / len(
        metrics
    )
    found["sw"]["standard_error"] = np.hypot(
        of_directions, (_deviation(values["sw"]) or 0.0) / np.sqrt(len(metrics))
    )
    return found


def _comparisons(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    methods = list(seeds[0]["methods"])
    for other in [name for name in methods if "sliced_flow" in name]:
        for name in [name for name in methods if name.startswith(f"{other.split()[0]} sw_jko")]:
            ratios = np.array(
                [_of(seed, other)["frechet"] / _of(seed, name)["frechet"] for seed in seeds]
            )
            found[f"Frechet of {other} over that of {name}"] = {
                "mean": ratios.mean(),
                "each": ratios,
            }
            gaps = np.array(
                [_of(seed, other)["sw"]["value"] - _of(seed, name)["sw"]["value"] for seed in seeds]
            )
            errors = [
                _of(seed, one)["sw"]["standard_error"] for one in (name, other) for seed in seeds
            ]
            error = np.hypot(
                np.sqrt(np.sum(np.square(errors))) / len(seeds),
                (_deviation(gaps) or 0.0) / np.sqrt(len(seeds)),
            )
            found[f"SW of {other} minus that of {name}"] = {
                "mean": gaps.mean(),
                "standard_error": error,
                "each": gaps,
            }
    for name in [name for name in methods if name.startswith("latent")]:
        for floor in ("autoencoder, held-out", "autoencoder, training"):
            ratios = np.array(
                [
                    _of(seed, name)["frechet"] / seed["references"][floor]["frechet"]
                    for seed in seeds
                ]
            )
            found[f"Frechet of {name} over that of {floor}"] = {
                "mean": ratios.mean(),
                "each": ratios,
            }
    return found


def _of(seed: dict[str, Any], name: str) -> dict[str, Any]:
    return seed["methods"][name]["metrics"]


def _number(value: Any) -> float:
    return float(value["value"] if isinstance(value, dict) else value)


def _deviation(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None
