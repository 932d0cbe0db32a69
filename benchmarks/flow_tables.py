"""Tables of the benchmarks of flows and images, by region of the pages."""

from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.markdown import Region, Result, across, fill, provenance, region, table

_PARTICLES = "Euler-Maruyama, 50000"
# Of a run at the defaults of the code of Bonet et al. (2022).
PUBLISHED_UPDATES = 16_200


def _stationary(result: Result) -> list[Any]:
    """Rows with the published particles, quartiles, and the means of other own runs."""
    published = result["published"][_PARTICLES]
    rows = []
    for row in result["stationary"]["rows"]:
        own, frozen = row["euler_maruyama_log10"].get("1000"), row.get("frozen_affine_log10")
        found = [run["log10"] for run in row["runs"]]
        first, median, third = np.quantile(found, (0.25, 0.5, 0.75))
        rows.append(
            row
            | {"first": first, "median": median, "third": third}
            | {"own": fmean(own) if own else None, "frozen": fmean(frozen) if frozen else None}
            | {"published": published.get(str(row["dim"]))}
        )
    return rows


def _readme_fidelity(result: Result) -> list[str]:
    rows = [row for row in _stationary(result) if row["published_log10"] is not None]
    lines = {
        "swjko": "{mean_log10:.2f}",
        "published SW-JKO": "{published_log10:.2f}",
        "50,000 particles, published": "{published:.2f}",
        "swjko, seconds": "{mean_seconds:seconds}",
    }
    return across("log10 SymKL to the stationary law", "d = {dim}", lines, rows)


def _whole_run(result: Result) -> list[str]:
    """A paragraph, for a place within a line too."""
    run = result["speed"]
    here = "measured here, distance and gradient alone"
    text = (
        "in d = {dim} a run to {mean_log10:.2f}, published: {published_log10:.2f}, takes "
        "{mean_seconds:.1f} s with compilation and {run_seconds:.1f} s without, in the mean of "
        "{runs:count} problems: {updates} updates of {settings[num_samples]} points and "
        "{settings[num_projections]} directions."
    )
    settings = run["settings"]
    updates = settings["num_steps"] * settings["num_inner_steps"]
    seconds = fmean(one["run_seconds"] for one in run["runs"])
    values = run | {"updates": updates, "run_seconds": seconds}
    if here in run["published_seconds"]:
        whole = run["published_seconds"][here]
        per_update = whole / PUBLISHED_UPDATES
        values |= {
            "published": PUBLISHED_UPDATES,
            "per_update": 1000 * per_update,
            "own_update": 1000 * seconds / updates,
            "ratio_of_updates": per_update * updates / seconds,
            "whole": whole,
            "with_compilation": whole / run["mean_seconds"],
            "without": whole / seconds,
        }
        text += (
            " The published configuration makes {published} updates of 1024 points and 1000 "
            "directions. Their distances and gradients alone come to {whole:.0f} s in torch on "
            "this machine, from the time of one: {with_compilation:.0f} times the whole run, "
            "{without:.0f} times without its compilation. Most of that is fewer and smaller "
            "updates: {per_update:.0f} ms against {own_update:.1f} ms for a whole update of ours, "
            "{ratio_of_updates:.0f} times, and {fewer:.0f} times as many."
        )
        values["fewer"] = PUBLISHED_UPDATES / updates
    return [fill(text, values)]


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
    published = result["published"].items()
    return [
        row | {name: values.get(str(row["dim"])) for name, values in published}
        for row in sorted(result["rows"], key=lambda row: (row["dim"], row["mean"]))
    ]


def _aggregation(result: Result) -> list[Any]:
    """A row for each problem and family, from all its runs."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for run in result["runs"]:
        groups.setdefault((run["problem"], run["family"]), []).append(run)
    return [
        runs[0]
        | {
            "runs": runs,
            "energy": fmean(run["energy"] for run in runs),
            "worst": 100 * max(abs(run["relative_error"]) for run in runs),
            "published": result["published"][problem] if family == "mlp" else None,
            "seconds": fmean(run["run_seconds"] + run["compile_seconds"] for run in runs),
        }
        for (problem, family), runs in groups.items()
    ]


def _ablation(result: Result) -> list[str]:
    """Change of log10 SymKL by each choice; a choice may be missing in some dimensions."""
    names = dict.fromkeys(name for case in result["rows"] for name in case["difference"])
    standard = "{standard_log10[mean]:.2f}{standard_log10[standard_error]:±.2f}"
    change = "{{difference[{0}][mean]:+.2f}}{{difference[{0}][standard_error]:±.2f}}"
    lines = {"**standard, $\\log_{10}$ SymKL**": standard}
    lines |= {name: change.format(name) for name in names}
    return across("changed", "{measure}, d = {dim}", lines, result["rows"]) + provenance(result)


def _schemes_trajectory(result: Result) -> list[Any]:
    """A row for each dimension and time."""
    names = ("sw_jko_own_step", "icnn_jko_own_step", "sw_jko_law", "icnn_jko_law", "langevin_law")
    keys = [f"{name}_median" for name in (*names, "exact_sw_flow_to_law")]
    rows = []
    for row in result["trajectory"]["rows"]:
        published = row["published_jko_icnn_law"] or [None] * len(row["times"])
        for index, time in enumerate(row["times"]):
            found = {key: row[key][index] for key in keys}
            rows.append(row | found | {"time": time, "published": published[index]})
    return rows


def _schemes_long(result: Result) -> list[str]:
    found = result["long"]["rows"]
    labels = {"sw_jko": "SW-JKO", "icnn_jko": "JKO-ICNN"}
    rows = [
        row[name] | {"dim": row["dim"], "label": labels[name]} for row in found for name in labels
    ]
    times = found[0]["times"]
    heads = " | ".join(f"time {time:g}" for time in times)
    cells = " | ".join(f"{{own_step[{index}]:.2f}}" for index in range(len(times)))
    head = f"d | scheme, to its own exact step | {heads} | seconds"
    return table(head, f"{{dim}} | {{label}} | {cells} | {{run_seconds:seconds}}", rows)


def _schemes_stationary(result: Result) -> list[str]:
    found = result["stationary"]
    return table(
        f"problem, d = {found['dim']} | level, $\\log_{{10}}$ SymKL | SW-JKO, s | JKO-ICNN, s",
        "{seed} | {level_log10:.2f} | {sw_jko[seconds_to_level]:.1f} | "
        "{icnn_jko[seconds_to_level]:.1f}",
        found["runs"],
    )


def _images(result: Result) -> list[Any]:
    """Reference images, then methods."""
    rows = [row | {"method": f"*{name}*"} for name, row in result["references"].items()]
    for row in result["rows"]:
        name = f"Frechet of {row['method']} over that of autoencoder, training"
        found = {"over": result["comparisons"].get(name) or {}}
        rows.append(row | found | {"seconds": row["run_seconds"] + row["compile_seconds"]})
    return rows


def _images_region(name: str) -> Region:
    return region(
        name,
        _images,
        "images | Frechet, % of variance | $SW_2^2$ in pixels | precision | recall | "
        "memorisation | Frechet over *autoencoder, training* | seconds",
        "{method} | {frechet[mean]:.3g}{frechet[deviation]:±.2g} | "
        "{sw[mean]:.3g}{sw[deviation]:±.2g} | {precision[mean]:.2f} | {recall[mean]:.2f} | "
        "{memorisation[mean]:.2f} | {over[mean]:.2f} | {seconds:seconds}",
    )


def _above_noise(generated: Result, rows: str) -> list[Result]:
    """Rows with their distance above that of the training images, which is the noise."""
    (noise,) = (
        row["frechet"]["mean"]
        for row in generated["references"]
        if row["reference"] == "training images"
    )
    return [row | {"above": row["frechet"]["mean"] - noise} for row in generated[rows]]


TABLES: dict[str, Region] = {
    "readme-fidelity": (("fokker_planck",), _readme_fidelity),
    "whole-run": (("fokker_planck",), _whole_run),
    "fokker-planck-stationary": region(
        "fokker_planck",
        _stationary,
        "d | problems | swjko, mean | median | quartiles | its worst | affine layer frozen, mean | "
        "SW-JKO, published | 1000 particles, ours | 50,000 particles, published | swjko, s",
        "{dim} | {runs:count} | {mean_log10:.2f} | {median:.2f} | {first:.2f} to {third:.2f} | "
        "{worst_log10:.2f} | {frozen:.2f} | {published_log10:.2f} | {own:.2f} | {published:.2f} | "
        "{mean_seconds:seconds}",
    ),
    "fokker-planck-trajectory": region(
        "fokker_planck",
        _trajectory,
        "d | Wasserstein time | problems | swjko to the exact SW-JKO iterate | "
        "exact SW flow to Ornstein-Uhlenbeck",
        "{dim} | {time:.2g} | {runs:count} | {own:.2f} | {exact:.2f}",
        note=False,
    ),
    "fokker-planck-gaussian": region(
        "fokker_planck",
        lambda result: result["gaussian"]["rows"],
        "d | largest error of a mean, in standard deviations | "
        "largest relative error of a covariance",
        "{dim} | {worst_relative_error[mean_in_standard_deviations]:.1e} | "
        "{worst_relative_error[covariance]:.1e}",
        note=False,
    ),
    "mixtures": region(
        "mixtures",
        _mixtures,
        "d | family | problems | SymKL | its worst | JKO-ICNN, published | "
        "50,000 particles, published | $\\log_{10}$, mean | SW-JKO, published | seconds",
        "{dim} | `{family}` | {runs:count} | {mean:.3f}{standard_error:±.3f} | {worst:.3f} | "
        "{JKO-ICNN:g} | {Euler-Maruyama, 50000:g} | {mean_log10:.2f} | {SW-JKO, log10:.2f} | "
        "{mean_seconds:seconds}",
    ),
    "aggregation": region(
        "aggregation",
        _aggregation,
        "equilibrium | family | runs | energy | exact | largest error | network, published | "
        "seconds",
        "{problem} | `{family}` | {runs:count} | {energy:.5f} | {exact:.5f} | {worst:.2g} % | "
        "{published:g} | {seconds:seconds}",
    ),
    "generators": region(
        "generators",
        lambda result: result["rows"],
        "target | scheme | $SW_2^2$ to held-out data | in equal seconds | of the start | "
        "of the training data | seconds",
        "{target} | `{method}` | {sw[mean]:.3g}{sw[deviation]:±.2g} | {sw_in_time[mean]:.3g}"
        "{sw_in_time[deviation]:±.2g} | {start:.3g} | {floor:.3g} | {seconds:seconds}",
    ),
    "generate": region(
        "generate",
        lambda result: _above_noise(result, "rows"),
        "space | generator | slices | told beside noise | Frechet | above the training images | "
        "of its start | over the codes through the autoencoder | seconds",
        "{space} | {generator} | {slices} | {told} | {frechet[mean]:.3g}"
        "{frechet[deviation]:±.2g} | {above:.2f} | {start[mean]:.3g} | "
        "{over_autoencoder[mean]:.2f} | {seconds[mean]:.0f}",
    ),
    "generate-references": region(
        "generate",
        lambda result: _above_noise(result, "references"),
        "reference | Frechet | above the training images",
        "{reference} | {frechet[mean]:.3g}{frechet[deviation]:±.2g} | {above:.2f}",
        note=False,
    ),
    "ablation": (("ablation",), _ablation),
    "schemes-trajectory": region(
        "ornstein_uhlenbeck",
        _schemes_trajectory,
        "d | time | problems | SW-JKO, own step | JKO-ICNN, own step | SW-JKO, law | "
        "JKO-ICNN, law | Langevin, law | exact SW flow, law | JKO-ICNN, law, published",
        "{dim} | {time} | {runs[sw_jko]:count} | {sw_jko_own_step_median:.2f} | "
        "{icnn_jko_own_step_median:.2f} | {sw_jko_law_median:.2f} | {icnn_jko_law_median:.2f} | "
        "{langevin_law_median:.2f} | {exact_sw_flow_to_law_median:.2f} | {published:.2f}",
    ),
    "schemes-long": (("ornstein_uhlenbeck",), _schemes_long),
    "schemes-stationary": (("ornstein_uhlenbeck",), _schemes_stationary),
    **{
        f"images-{data}": _images_region(f"images_{data}")
        for data in ("digits", "mnist", "fashion")
    },
}
