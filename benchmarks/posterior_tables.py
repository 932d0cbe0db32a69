"""Tables of the benchmarks of samplers and posteriors, by region of the pages."""

from benchmarks.markdown import Region, Result, fill, provenance, region, table


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


def _proximity(result: Result) -> list[Result]:
    """Rows with the fewest and the most modes of a seed, where modes are counted."""
    return [
        row | {"range": fill("{least_modes} to {most_modes}", row) if row["num_modes"] else None}
        for row in result["rows"]
    ]


TABLES: dict[str, Region] = {
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
        _proximity,
        "target | method | modes held, mean | least to most | of | \\|log Z error\\| | ELBO",
        "{target} | {method} | {modes:.1f} | {range} | {num_modes} | "
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
        lambda result: [row for row in result["rows"] if row["problem"] == "eight_schools"],
        "compilation | import to draws, s | import | from_numpyro | laplace | scheme | solve | "
        "of it compiling | draws | then importance and verdict, s",
        "{kind} | {total:.1f} | {phases[import][seconds]:.1f} | "
        "{phases[from_numpyro][seconds]:.1f} | {phases[laplace][seconds]:.1f} | "
        "{phases[scheme][seconds]:.1f} | {phases[solve][seconds]:.1f} | "
        "{phases[solve][compile]:.1f} | {phases[draws][seconds]:.1f} | "
        "{phases[verdict][seconds]:.1f}",
    ),
    "short-run": region(
        "first_draw",
        lambda result: [row for row in result["rows"] if row["problem"] == "gaussian"],
        "compilation | import to the end, s | import | target | scheme | solve | trace | lower | "
        "compile",
        "{kind} | {total:.1f} | {phases[import][seconds]:.1f} | {phases[target][seconds]:.2f} | "
        "{phases[scheme][seconds]:.1f} | {phases[solve][seconds]:.1f} | "
        "{phases[solve][trace]:.1f} | {phases[solve][lower]:.1f} | {phases[solve][compile]:.1f}",
        note=False,
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
    "logistic-regression": (("logistic_regression",), _logistic_regression),
}
