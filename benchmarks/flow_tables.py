"""Tables of the benchmarks of flows and posteriors, by region of the pages."""

from collections.abc import Callable
from statistics import fmean
from typing import Any

from benchmarks.markdown import (
    Region,
    Result,
    log10,
    number,
    provenance,
    region,
    seconds,
    table,
    with_error,
)

_PARTICLES = "Euler-Maruyama, 50000"


def _stationary(result: Result) -> list[Any]:
    """Rows with the published particles and the mean of the own ones."""
    published = result["published"][_PARTICLES]
    rows = []
    for row in result["stationary"]["rows"]:
        own = row["euler_maruyama_log10"].get("1000")
        own_mean = fmean(own) if own else None
        rows.append(row | {"particles": own_mean, "published": published.get(str(row["dim"]))})
    return rows


def _whole_run(result: Result) -> list[str]:
    """A sentence, for a place within a line too."""
    run = result["speed"]
    here = "measured here, distance and gradient alone"
    text = (
        f"in d = {run['dim']} a run to {log10(run['mean_log10'])}, "
        f"published: {log10(run['published_log10'])}, takes {run['mean_seconds']:.0f} s "
        f"with compilation, in the mean of {len(run['runs'])} problems."
    )
    if here in run["published_seconds"]:
        text += (
            " The distances and gradients alone of all updates of the published configuration "
            f"come to {run['published_seconds'][here]:.0f} s in torch on the same machine, "
            f"{run['ratio'][here]:.0f} times as long, from the time of one."
        )
    return [text]


def _trajectory(result: Result) -> list[Any]:
    """A row for each dimension and time."""
    exact = "exact_sw_flow_to_ornstein_uhlenbeck_log10"
    return [
        row | {"time": time, "own": row["mean"]["log10"][index], "exact": row["mean"][exact][index]}
        for row in result["trajectory"]["rows"]
        for index, time in enumerate(row["wasserstein_times"])
    ]


def _mixtures(result: Result) -> list[Any]:
    """Rows by dimension and distance, with the published numbers of each dimension."""
    names = ("JKO-ICNN", _PARTICLES, "SW-JKO, log10")
    return [
        row | {name: result["published"][name].get(str(row["dim"])) for name in names}
        for row in sorted(result["rows"], key=lambda row: (row["dim"], row["mean"]))
    ]


def _aggregation(result: Result) -> list[Any]:
    """A row for each problem and family, from all its runs."""
    runs = result["runs"]
    rows = []
    for problem, family in dict.fromkeys((run["problem"], run["family"]) for run in runs):
        found = [run for run in runs if (run["problem"], run["family"]) == (problem, family)]
        rows.append(
            found[0]
            | {
                "runs": len(found),
                "energy": fmean(run["energy"] for run in found),
                "worst": max(abs(run["relative_error"]) for run in found),
                "published": result["published"][problem] if family == "mlp" else None,
                "seconds": fmean(run["run_seconds"] + run["compile_seconds"] for run in found),
            }
        )
    return rows


def _ablation(result: Result) -> list[str]:
    """Change of log10 SymKL by each choice; a choice may be missing in some dimensions."""
    cases = result["rows"]
    standard = (with_error(case["standard_log10"]) for case in cases)
    rows = [("**standard, $\\log_{10}$ SymKL**", *standard)]
    for name in dict.fromkeys(name for case in cases for name in case["difference"]):
        rows.append(
            (name, *(with_error(case["difference"].get(name), "{:+.2f}") for case in cases))
        )
    head = ("changed", *(f"{case['measure']}, d = {case['dim']}" for case in cases))
    return table(head, rows) + provenance(result)


def _schemes_trajectory(result: Result) -> list[str]:
    names = {
        "SW-JKO, own step": "sw_jko_own_step",
        "JKO-ICNN, own step": "icnn_jko_own_step",
        "SW-JKO, law": "sw_jko_law",
        "JKO-ICNN, law": "icnn_jko_law",
        "Langevin, law": "langevin_law",
        "exact SW flow, law": "exact_sw_flow_to_law",
    }
    rows = []
    for row in result["trajectory"]["rows"]:
        published = row["published_jko_icnn_law"] or [None] * len(row["times"])
        for index, time in enumerate(row["times"]):
            found = [row[f"{name}_median"][index] for name in names.values()] + [published[index]]
            rows.append((row["dim"], time, len(row["runs"]["sw_jko"]), *map(log10, found)))
    head = ("d", "time", "problems", *names, "JKO-ICNN, law, published")
    return table(head, rows) + provenance(result)


def _schemes_long(result: Result) -> list[str]:
    found = result["long"]["rows"]
    rows = [
        (row["dim"], label, *map(log10, row[name]["own_step"]), seconds(row[name]["run_seconds"]))
        for row in found
        for name, label in (("sw_jko", "SW-JKO"), ("icnn_jko", "JKO-ICNN"))
    ]
    times = (f"time {time:g}" for time in found[0]["times"])
    return table(("d", "scheme, to its own exact step", *times, "seconds"), rows)


def _schemes_stationary(result: Result) -> list[str]:
    found = result["stationary"]
    rows = []
    for run in found["runs"]:
        spent = [run[name]["seconds_to_level"] for name in ("sw_jko", "icnn_jko")]
        spent = (number(value, "{:.1f}") for value in spent)
        rows.append((run["seed"], log10(run["level_log10"]), *spent))
    head = (f"problem, d = {found['dim']}", "level, $\\log_{10}$ SymKL", "SW-JKO, s", "JKO-ICNN, s")
    return table(head, rows)


def _logistic_regression(result: Result) -> list[str]:
    """Posteriors beside those of NUTS.

    Where rows are separable the posterior has no variance, so its medians and the widths of its
    central 68 % are compared.
    """
    labels = {"sw_jko": "SW-JKO", "icnn_jko": "JKO-ICNN"}
    rows, unsure = [], []
    for name, entry in result["summary"].items():
        methods, own = dict(entry["methods"]), entry["methods"]
        location, spread = ("median", "width") if entry["separable"] else ("mean", "ratio")
        data = f"{name} (separable)" if entry["separable"] else name
        if entry["separable"]:
            methods["NUTS, two chains against two"] = entry["two_chains_against_two"]
        for method, found in methods.items():
            row = [data, labels.get(method, method), f"{found[location]:.3f}"]
            row += ["{:.2f} to {:.2f}".format(*found[spread])]
            row += [number(found["log_likelihood"], "{:+.5f}" if method in own else "±{:.5f}")]
            row += [f"{found['held-out accuracy']:.3f}" if method in own else ""]
            row += [seconds(found["seconds"]) if method in own else ""]
            rows.append(row)
        unsure += [f"{name}, split {seed}" for seed in entry["splits_without_reference"]]
    head = (
        *("data", "method", "means off by, in deviations", "ratios of deviations"),
        *("log-likelihood less that of NUTS", "accuracy", "seconds"),
    )
    lines = table(head, rows)
    if unsure:
        lines += ["", f"The chains of NUTS do not agree to an R-hat of 1.01: {'; '.join(unsure)}."]
    if result["missing"]:
        lines += ["", f"Not found and left out: {', '.join(result['missing'])}."]
    return lines + provenance(result)


def _images(result: Result) -> list[Any]:
    """Reference images, then methods."""
    rows = [row | {"method": f"*{name}*"} for name, row in result["references"].items()]
    for row in result["rows"]:
        name = f"Frechet of {row['method']} over that of autoencoder, training"
        spent = seconds(row["run_seconds"] + row["compile_seconds"])
        rows.append(row | {"over": result["comparisons"].get(name), "seconds": spent})
    return rows


def _spread(name: str) -> Callable[[Result], str]:
    return lambda row: f"{row[name]['mean']:.3g}" + number(row[name]["deviation"], " ± {:.2g}")


def _images_region(name: str) -> Region:
    return region(
        name,
        _images,
        {
            "images": "method",
            "Frechet, % of variance": _spread("frechet"),
            "$SW_2^2$ in pixels": _spread("sw"),
            "precision": lambda row: f"{row['precision']['mean']:.2f}",
            "recall": lambda row: f"{row['recall']['mean']:.2f}",
            "memorisation": lambda row: f"{row['memorisation']['mean']:.2f}",
            "Frechet over *autoencoder, training*": lambda row: (
                f"{row['over']['mean']:.2f}" if row.get("over") else ""
            ),
            "seconds": lambda row: row.get("seconds", ""),
        },
    )


TABLES: dict[str, Region] = {
    "readme-fidelity": region(
        "fokker_planck",
        lambda result: [row for row in _stationary(result) if row["published_log10"] is not None],
        {
            "$\\log_{10}$ SymKL to the stationary law": "dim",
            "swjko": lambda row: log10(row["mean_log10"]),
            "published SW-JKO": lambda row: log10(row["published_log10"]),
            "50,000 particles, published": lambda row: log10(row["published"]),
            "swjko, seconds": lambda row: seconds(row["mean_seconds"]),
        },
        across=lambda row: f"d = {row['dim']}",
        note=False,
    ),
    "whole-run": (("fokker_planck",), _whole_run),
    "fokker-planck-stationary": region(
        "fokker_planck",
        _stationary,
        {
            "d": "dim",
            "problems": lambda row: len(row["runs"]),
            "swjko": lambda row: log10(row["mean_log10"]),
            "its worst": lambda row: log10(row["worst_log10"]),
            "SW-JKO, published": lambda row: log10(row["published_log10"]),
            "1000 particles, ours": lambda row: log10(row["particles"]),
            "50,000 particles, published": lambda row: log10(row["published"]),
            "swjko, s": lambda row: seconds(row["mean_seconds"]),
        },
    ),
    "fokker-planck-trajectory": region(
        "fokker_planck",
        _trajectory,
        {
            "d": "dim",
            "Wasserstein time": lambda row: f"{row['time']:.2g}",
            "problems": lambda row: len(row["runs"]),
            "swjko to the exact SW-JKO iterate": lambda row: log10(row["own"]),
            "exact SW flow to Ornstein-Uhlenbeck": lambda row: log10(row["exact"]),
        },
        note=False,
    ),
    "fokker-planck-gaussian": region(
        "fokker_planck",
        lambda result: [row | row["worst_relative_error"] for row in result["gaussian"]["rows"]],
        {
            "d": "dim",
            "largest error of a mean, in standard deviations": lambda row: (
                f"{row['mean_in_standard_deviations']:.1e}"
            ),
            "largest relative error of a covariance": lambda row: f"{row['covariance']:.1e}",
        },
        note=False,
    ),
    "mixtures": region(
        "mixtures",
        _mixtures,
        {
            "d": "dim",
            "family": lambda row: f"`{row['family']}`",
            "problems": lambda row: len(row["runs"]),
            "SymKL": lambda row: f"{row['mean']:.3f}" + number(row["standard_error"], " ± {:.3f}"),
            "its worst": lambda row: f"{row['worst']:.3f}",
            "JKO-ICNN, published": lambda row: number(row["JKO-ICNN"]),
            "50,000 particles, published": lambda row: number(row[_PARTICLES]),
            "$\\log_{10}$, mean": lambda row: log10(row["mean_log10"]),
            "SW-JKO, published": lambda row: log10(row["SW-JKO, log10"]),
            "seconds": lambda row: seconds(row["mean_seconds"]),
        },
    ),
    "aggregation": region(
        "aggregation",
        _aggregation,
        {
            "equilibrium": "problem",
            "family": lambda row: f"`{row['family']}`",
            "runs": "runs",
            "energy": lambda row: number(row["energy"], "{:.5f}"),
            "exact": lambda row: number(row["exact"], "{:.5f}"),
            "largest error": lambda row: f"{100 * row['worst']:.2g} %",
            "network, published": lambda row: number(row["published"]),
            "seconds": lambda row: seconds(row["seconds"]),
        },
    ),
    "ablation": (("ablation",), _ablation),
    "schemes-trajectory": (("ornstein_uhlenbeck",), _schemes_trajectory),
    "schemes-long": (("ornstein_uhlenbeck",), _schemes_long),
    "schemes-stationary": (("ornstein_uhlenbeck",), _schemes_stationary),
    "logistic-regression": (("logistic_regression",), _logistic_regression),
    **{
        f"images-{data}": _images_region(f"images_{data}")
        for data in ("digits", "mnist", "fashion")
    },
}
