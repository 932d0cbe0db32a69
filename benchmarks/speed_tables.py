"""Tables of oracles, speed, directions, scaling and reliability, by region of the pages."""

import itertools
from collections.abc import Mapping
from typing import Any

from benchmarks import markdown
from benchmarks.markdown import (
    Region,
    Result,
    milliseconds,
    number,
    power,
    provenance,
    ratio,
    region,
    table,
)

_PEERS = {
    "POT torch": "POT (torch)",
    "POT NumPy, value": "POT (NumPy, value alone)",
    "OTT-JAX": "OTT-JAX",
    "torch.sort": "`torch.sort`",
}


def equal_clouds(kernel: Result) -> list[Any]:
    """The cases with clouds of equal sizes and without weights."""
    rows = [(row, row["shape"]) for row in kernel["runs"]]
    return [row for row, shape in rows if shape["n"] == shape["m"] and not shape["weighted"]]


def _clouds(row: Result) -> str:
    """Sizes of a case of the kernel."""
    shape = row["shape"]
    m = "" if shape["n"] == shape["m"] else f", m = {shape['m']:,}"
    weighted = ", weighted" if shape["weighted"] else ""
    return f"n = {shape['n']:,}{m}, d = {shape['dim']}, {shape['directions']} directions{weighted}"


def _own_time(row: Result) -> str:
    return milliseconds(row["median_seconds"]["swjko"])


def _ratios(*names: str) -> dict[str, Any]:
    """A column for each peer: its seconds over those of swjko."""
    return {_PEERS[name]: lambda row, name=name: ratio(row["ratio"].get(name)) for name in names}


def _counted(row: Result) -> str:
    found = row["measured"]
    found = found if isinstance(found, Mapping) else {"cases": len(found)}
    return ", ".join(
        f"{name.replace('_', ' ')} {value if isinstance(value, int) else f'{value:.3g}'}"
        for name, value in found.items()
        if isinstance(value, int | float)
    )


def _sizes(scaling: Result) -> list[Result]:
    """First and last row of each size that was varied, with the exponents of its cost."""
    return [
        {"name": name, "ends": (rows[0], rows[-1]), **scaling["exponents"][name]}
        for name, rows in scaling["sizes"].items()
    ]


def _oracles(flows: Result, equilibria: Result, kernel: Result) -> list[str]:
    """What the package computes beside exact values."""
    rows = []
    for row in flows["gaussian"]["rows"]:
        error = f"largest relative error {100 * row['worst_relative_error']['covariance']:.2g} %"
        what = f"covariances of {row['settings']['num_steps']} steps, d = {row['dim']}"
        rows.append((what, "`gaussian_sw_jko_step`", "", error))
    for run in equilibria["runs"]:
        if (run["family"], run["seed"]) == ("particles", 0):
            energies = (number(run[key], "{:.6f}") for key in ("exact", "energy"))
            what, oracle = (
                f"energy of the {run['problem']}, particles",
                f"problems.{run['problem']}",
            )
            rows.append((what, f"`{oracle}`", *energies))
    for row in equal_clouds(kernel):
        if row["relative_error"]:
            error = f"relative error {power(row['relative_error']['value'])} in float32"
            rows.append((f"$SW_2^2$, {_clouds(row)}", "NumPy, float64", "", error))
    notes = itertools.chain(*map(provenance, (flows, equilibria, kernel)))
    return [*table(("quantity", "oracle", "exact", "measured"), rows), *notes]


TABLES: dict[str, Region] = {
    "oracles": (("fokker_planck", "aggregation", "kernel"), _oracles),
    "readme-speed": region(
        "kernel",
        equal_clouds,
        {"points, dimension, directions": "case", "swjko": _own_time}
        | _ratios("POT torch", "OTT-JAX", "torch.sort"),
        across=lambda row: "{n:,} / {dim} / {directions}".format(**row["shape"]),
        note=False,
    ),
    "kernel": region(
        "kernel",
        equal_clouds,
        {"clouds": _clouds, "swjko": _own_time}
        | _ratios(*_PEERS)
        | {
            "`jnp.sort`, autodiff": lambda row: ratio(row["ratio"].get("jnp.sort")),
            "no sort at all": lambda row: ratio(row["ratio"].get("no sort")),
            "directions on two devices": lambda row: ratio(row["sharded"]["speedup"]),
        },
    ),
    "kernel-unequal": region(
        "kernel",
        lambda kernel: [row for row in kernel["runs"] if row not in equal_clouds(kernel)],
        {"clouds": _clouds, "swjko": _own_time}
        | _ratios("POT torch", "POT NumPy, value", "OTT-JAX"),
        note=False,
    ),
    "kernel-accuracy": region(
        "kernel",
        lambda kernel: [row for row in kernel["runs"] if row["relative_error"]],
        {
            "clouds": _clouds,
            "relative error of the value": lambda row: power(row["relative_error"]["value"]),
            "of the gradient": lambda row: power(row["relative_error"]["gradient"]),
        },
        note=False,
    ),
    "kernel-memory": region(
        "kernel",
        lambda kernel: kernel["peaks"],
        {
            "points in each cloud": lambda row: f"{row['points']:,}",
            "directions": "directions",
            "peak of the process": lambda row: f"{row['peak_mib']:.0f} MiB",
            "seconds": lambda row: markdown.seconds(row["seconds"]),
        },
        note=False,
    ),
    "directions": region(
        "directions",
        lambda directions: directions["winners"],
        {
            "d": "dim",
            "orthogonal / uniform": lambda row: f"{row['error_over_uniform']['orthogonal']:.2g}",
            "quasi / uniform": lambda row: f"{row['error_over_uniform']['quasi']:.2g}",
            "least error": "winner",
            "in so many settings": lambda row: (
                f"{row['wins'][row['winner']]} of {sum(row['wins'].values())}"
            ),
        },
    ),
    "reliability": region(
        "reliability",
        lambda reliability: reliability["rows"].values(),
        {
            "drill": "what",
            "required": "required",
            "met": lambda row: "yes" if row["met"] else "**no**",
            "counted": _counted,
            "seconds": lambda row: markdown.seconds(row["seconds"]),
            "date": "date",
        },
    ),
    "scaling-flows": region(
        "scaling",
        lambda scaling: scaling["flows"],
        {
            "flows": "num_flows",
            "`run_many`, flows per second": lambda row: (
                f"{row['flows_per_second']['run_many']:.3g}"
            ),
            "a loop": lambda row: f"{row['flows_per_second']['loop']:.3g}",
            "ratio": lambda row: f"{row['ratio']:.2f}",
        },
    ),
    "scaling-sizes": region(
        "scaling",
        _sizes,
        {
            "varied": lambda row: f"`{row['name']}`",
            "from, to": lambda row: " to ".join(str(end[row["name"]]) for end in row["ends"]),
            "one flow": lambda row: " to ".join(
                milliseconds(end["seconds"]) for end in row["ends"]
            ),
            "exponent of seconds": lambda row: number(row["seconds"], "{:.2f}"),
            "of temporary bytes": lambda row: number(row["temporary_bytes"], "{:.2f}"),
        },
        note=False,
    ),
}
