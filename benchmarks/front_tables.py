"""The findings of the README and of the page that chooses a method, by region of the pages."""

import textwrap
from statistics import median
from typing import Any

from benchmarks.markdown import Region, Result, fill, provenance, table
from benchmarks.speed_tables import equal_clouds

# Columns of a page.
_WIDTH = 100
# The order within a cell.
_METHODS = ("corrected SW-JKO, mixture", "SW-JKO, coupling", "direct minimisation, coupling")


def _bullets(
    sampling: Result, flows: Result, images: Result, kernel: Result, drills: Result
) -> list[str]:
    """One finding for each use of the package, wrapped to the width of a page."""
    cases = equal_clouds(kernel)
    ratios = {
        name: [min(found), max(found)]
        for name in ("POT torch", "OTT-JAX")
        for found in [[row["ratio"][name] for row in cases]]
    }
    drill = drills["rows"]["R8"]["measured"]
    fields = {
        "modes": _held(sampling),
        "flow": next(row for row in flows["stationary"]["rows"] if row["dim"] == 10),
        "latent": images["comparisons"][
            "Frechet of latent sw_jko particles over that of autoencoder, training"
        ],
        "ratios": ratios,
        "drill": drill | {"same": drill["runs"] - drill["differing_ends"]},
    }
    bullets = (
        "**Sample and infer**, with densities and evidence: a "
        "[corrected](docs/howto/posteriors.md) flow holds {modes[modes]} of {modes[num_modes]} "
        "modes of {modes[target]} in the worst of {modes[seeds]} seeds, with log Z off by "
        "{modes[mean_absolute_error]:.1g}, in {modes[seconds]:.0f} s.",
        "**Simulate** Fokker-Planck, porous medium and aggregation equations: in ten dimensions "
        "the flow ends at a log10 SymKL of {flow[mean_log10]:.1f} to its stationary law, the "
        "published one at {flow[published_log10]:.1f}.",
        "**Fit data**: particles in the codes of an autoencoder draw MNIST digits at "
        "{latent[mean]:.2f} times the Fréchet distance of the autoencoder alone.",
        "**Measure**: the exact sliced distance with its gradient is {ratios[POT torch][0]:.1f} to "
        "{ratios[POT torch][1]:.1f} times as fast as in POT, and {ratios[OTT-JAX][0]:.1f} to "
        "{ratios[OTT-JAX][1]:.1f} times as fast as in OTT-JAX.",
        "**Run many, and resume**: schemes are pytrees for `jit`, `vmap` and meshes. After "
        "{drill[kills]} kills at random times, {drill[same]} of {drill[runs]} runs ended bit for "
        "bit as if never killed.",
    )
    return [
        line
        for bullet in bullets
        for line in textwrap.wrap(
            f"- {fill(bullet, fields)}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False
        )
    ]


def _held(sampling: Result) -> Any:
    """The corrected row of the target with the most modes, which are the fewest of its seeds."""
    rows = [row for row in sampling["rows"] if row["method"] == _METHODS[0] and row["num_modes"]]
    most = max(rows, key=lambda row: row["num_modes"])
    return most | {"seeds": len(most["runs"])}


def _samplers(sampling: Result) -> list[str]:
    """A row for each target; a cell holds the values of all methods, in order."""
    cells = {"modes": "{}", "mean_absolute_error": "{:.3f}", "effective_fraction": "{:.2f}"}
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for row in sampling["rows"]:
        found.setdefault((row["target"], row["dim"]), {})[row["method"]] = row
    rows = []
    for (target, dim), methods in found.items():
        if any(method not in methods for method in _METHODS):
            continue
        own = [methods[method] for method in _METHODS]
        row = {"target": target, "dim": dim}
        for name, form in (cells | {"seconds": "{:.0f}"}).items():
            known = all(one[name] is not None for one in own)
            row[name] = " / ".join(form.format(one[name]) for one in own) if known else ""
        rows.append(row)
    head = "target | d | modes | \\|log Z error\\| | effective draws | seconds"
    template = (
        "{target} | {dim} | {modes} | {mean_absolute_error} | {effective_fraction} | {seconds}"
    )
    return table(head, template, rows) + provenance(sampling)


def _posteriors(result: Result) -> list[str]:
    """Medians over the data sets whose rows are not separable; over all if none is such a set."""
    sets = list(result["summary"].values())
    entries = [entry for entry in sets if not entry["separable"]] or sets
    labels = {"sw_jko": "SW-JKO", "icnn_jko": "JKO-ICNN"}
    rows = []
    for method in entries[0]["methods"] if entries else ():
        found = [entry["methods"][method] for entry in entries]
        row = {name: median(one[name] for one in found) for name in ("mean", "seconds")}
        worst = max(abs(one["log_likelihood"]) for one in found)
        rows.append(row | {"method": labels.get(method, method), "worst": worst})
    return table(
        "method | means off by, in deviations | log-likelihood off by at most | seconds",
        "{method} | {mean:.3f} | {worst:.5f} | {seconds:seconds}",
        rows,
    )


TABLES: dict[str, Region] = {
    "readme-bullets": (
        ("sampling", "fokker_planck", "images_mnist", "kernel", "reliability"),
        _bullets,
    ),
    "choose-samplers": (("sampling",), _samplers),
    "choose-posteriors": (("logistic_regression",), _posteriors),
}
