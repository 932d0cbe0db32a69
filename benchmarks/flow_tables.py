"""Tables of the benchmarks of flows and posteriors, by region of the pages."""

from statistics import fmean
from typing import Any

from benchmarks.markdown import Region, Result, across, fill, provenance, region, table

_PARTICLES = "Euler-Maruyama, 50000"
# Of a run at the defaults of the code of Bonet et al. (2022).
PUBLISHED_UPDATES = 16_200


def _stationary(result: Result) -> list[Any]:
    """Rows with the published particles and the mean of the own ones."""
    published = result["published"][_PARTICLES]
    rows = []
    for row in result["stationary"]["rows"]:
        own = row["euler_maruyama_log10"].get("1000")
        own_mean = fmean(own) if own else None
        rows.append(row | {"own": own_mean, "published": published.get(str(row["dim"]))})
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


def _logistic_regression(result: Result) -> list[str]:
    """Posteriors beside those of NUTS.

    Where rows are separable the posterior has no variance, so its medians and the widths of its
    central 68 % are compared.
    """
    labels = {"sw_jko": "SW-JKO", "icnn_jko": "JKO-ICNN"}
    rows, unsure = [], []
    for name, entry in result["summary"].items():
        methods = {labels.get(method, method): row for method, row in entry["methods"].items()}
        location, spread, data = "mean", "ratio", name
        if entry["separable"]:
            location, spread, data = "median", "width", f"{name} (separable)"
            itself = entry["two_chains_against_two"]
            kept = {key: itself[key] for key in (location, spread)}
            own = kept | {"likelihood": fill("±{log_likelihood:.5f}", itself)}
            methods["NUTS, two chains against two"] = own
        for method, row in methods.items():
            found = {"data": data, "likelihood": fill("{log_likelihood:+.5f}", row)} | row
            found |= {"location": row[location], "spread": row[spread]}
            rows.append(found | {"method": method})
        unsure += [f"{name}, split {seed}" for seed in entry["splits_without_reference"]]
    lines = table(
        "data | method | means off by, in deviations | ratios of deviations | "
        "log-likelihood less that of NUTS | accuracy | seconds",
        "{data} | {method} | {location:.3f} | {spread[0]:.2f} to {spread[1]:.2f} | {likelihood} | "
        "{held-out accuracy:.3f} | {seconds:seconds}",
        rows,
    )
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


TABLES: dict[str, Region] = {
    "readme-fidelity": (("fokker_planck",), _readme_fidelity),
    "whole-run": (("fokker_planck",), _whole_run),
    "fokker-planck-stationary": region(
        "fokker_planck",
        _stationary,
        "d | problems | swjko | its worst | SW-JKO, published | 1000 particles, ours | "
        "50,000 particles, published | swjko, s",
        "{dim} | {runs:count} | {mean_log10:.2f} | {worst_log10:.2f} | {published_log10:.2f} | "
        "{own:.2f} | {published:.2f} | {mean_seconds:seconds}",
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
    "sampling": region(
        "sampling",
        lambda result: result["rows"],
        "target | d | method | ELBO | EUBO | log Z, true | \\|log Z error\\| | effective | k-hat | "
        "modes | energy distance | of weighted draws | floor | wrong, of runs | not flagged | "
        "seconds | published",
        "{target} | {dim} | {method} | {elbo:.2f} | {eubo:.2f} | {log_evidence_true:.2f} | "
        "{mean_absolute_error:.3f} | {effective_fraction:.2f} | {pareto_k:.2f} | {modes} | "
        "{energy_distance:.1e} | {energy_distance_weighted:.1e} | {energy_distance_floor:.1e} | "
        "{wrong} of {runs:count} | {silent} | {seconds:seconds} | {published}",
    ),
    "proximity": region(
        "proximity",
        lambda result: result["rows"],
        "target | method | modes held, mean | least to most | of | \\|log Z error\\| | ELBO",
        "{target} | {method} | {modes:.1f} | {least_modes} to {most_modes} | {num_modes} | "
        "{mean_absolute_error:.2f} | {elbo:.2f}",
    ),
    **{
        region_name: region(
            name,
            lambda result: result["rows"],
            "simulations | C2ST of swjko | its worst data | C2ST of NPE, published | "
            "held-out log-density | draws inside the box | updates | fit, s",
            "{simulations:,} | {c2st[mean]:.3f}{c2st[standard_error]:±.3f} | {worst:.3f} | "
            "{published:.3f} | {held_out:.2f} | {inside:.4f} | {updates:,} | {run_seconds:seconds}",
        )
        for region_name, name in {"sbi": "sbi", "sbi-slcp": "sbi_slcp"}.items()
    },
    "first-draw": region(
        "first_draw",
        lambda result: result["rows"],
        "compilation | import to draws, s | import | from_numpyro | laplace | scheme | solve | "
        "of it compiling | draws | then importance and verdict, s",
        "{kind} | {total:.1f} | {phases[import][seconds]:.1f} | "
        "{phases[from_numpyro][seconds]:.1f} | {phases[laplace][seconds]:.1f} | "
        "{phases[scheme][seconds]:.1f} | {phases[solve][seconds]:.1f} | "
        "{phases[solve][compile]:.1f} | {phases[draws][seconds]:.1f} | "
        "{phases[verdict][seconds]:.1f}",
    ),
    "user-data-verdicts": region(
        "user_data",
        lambda result: result["verdicts"],
        "problem | runs | good | poor | unknown | truly good | wrong good | wrong poor",
        "{problem} | {runs} | {good} | {poor} | {unknown} | {truly_good} | {wrong_good} | "
        "{wrong_poor}",
        note=False,
    ),
    "user-data-posterior": region(
        "user_data",
        lambda result: [row for row in result["rows"] if row["problem"] == "posterior"],
        "table | seed | rows | held-out log-likelihood | scikit-learn | fresh rows: difference | "
        "largest error of a mean, sd | ratio of deviations | effective draws | fit | seconds",
        "{data} | {seed} | {rows} | {held_out:.3f} | {held_out_sklearn:.3f} | "
        "{truth[log_likelihood_gain]:.4f}{truth[standard_error]:±.4f} | {truth[shift]:.2f} | "
        "{truth[ratio]:.2f} | {effective} | {fit} | {run_seconds:seconds}",
    ),
    "user-data-match": region(
        "user_data",
        lambda result: [row for row in result["rows"] if row["problem"] == "match"],
        "sample | seed | points | d | largest error of a mean, sd | ratio of deviations | "
        "distance to fresh points, sd above the data's | fit | seconds",
        "{data} | {seed} | {rows} | {dim} | {truth[shift]:.3f} | {truth[ratio]:.3f} | "
        "{truth[excess]:.1f} | {fit} | {run_seconds:seconds}",
        note=False,
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
        "target | scheme | $SW_2^2$ to held-out data | of the training data | seconds",
        "{target} | `{method}` | {sw[mean]:.3g}{sw[deviation]:±.2g} | {floor:.3g} | "
        "{seconds:seconds}",
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
    "logistic-regression": (("logistic_regression",), _logistic_regression),
    **{
        f"images-{data}": _images_region(f"images_{data}")
        for data in ("digits", "mnist", "fashion")
    },
}
