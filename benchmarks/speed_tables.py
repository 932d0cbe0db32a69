"""Tables of oracles, speed, directions, scaling and reliability, by region of the pages."""

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import Region, Result, fill, provenance, region, table


def equal_clouds(kernel: Result) -> list[Any]:
    """The cases with clouds of equal sizes and without weights."""
    rows = [(row, row["shape"]) for row in kernel["runs"]]
    return [row for row, shape in rows if shape["n"] == shape["m"] and not shape["weighted"]]


def _with_clouds(rows: list[Any]) -> list[Any]:
    """Rows of the kernel with a field that describes their clouds."""
    found = []
    for row in rows:
        shape = row["shape"]
        text = "n = {n:,}, m = {m:,}, " if shape["n"] != shape["m"] else "n = {n:,}, "
        text += "d = {dim}, {directions} directions" + ", weighted" * shape["weighted"]
        found.append(row | {"clouds": fill(text, shape)})
    return found


def _unequal(kernel: Result) -> list[Any]:
    return _with_clouds([row for row in kernel["runs"] if row not in equal_clouds(kernel)])


def _native(native: Result) -> list[Any]:
    """Rows with a field that says what was timed; what was not timed is None."""
    clouds = "n = {n:,}, d = {dim}, {num_directions} directions"
    found = []
    for kind, text in (
        ("distances", "distance, " + clouds),
        ("updates", "{num_updates} updates: {name}"),
        ("particles", "five steps of particles, " + clouds),
    ):
        for row in native[kind]:
            what = fill(text + ", weighted" * row["case"].get("weighted", False), row["case"])
            ratio = {"torch.sort": None, "no sort": None} | row["ratio"]
            found.append(row | {"what": what, "ratio": ratio})
    return found


def _with_errors(kernel: Result) -> list[Any]:
    return _with_clouds([row for row in kernel["runs"] if row["relative_error"]])


def _oracles(flows: Result, equilibria: Result, kernel: Result) -> list[str]:
    """What the package computes beside exact values."""
    head = "quantity | oracle | exact | measured"
    lines = table(
        head,
        "covariances of {settings[num_steps]} steps, d = {dim} | `gaussian_sw_jko_step` |  | "
        "largest relative error {worst_relative_error[covariance]:.1e}",
        flows["gaussian"]["rows"],
    )
    runs = [run for run in equilibria["runs"] if run["family"] == "particles" and not run["seed"]]
    cells = "energy of the {problem}, particles | `problems.{problem}` | {exact:.6f} | {energy:.6f}"
    lines += table(head, cells, runs)[2:]
    cells = "$SW_2^2$, {clouds} | NumPy, float64 |  | relative error {relative_error[value]:power}"
    lines += table(head, cells, _with_errors(kernel))[2:]
    return lines + [line for result in (flows, equilibria, kernel) for line in provenance(result)]


def _drills(reliability: Result) -> list[Any]:
    """Rows with what was counted in words."""
    rows = []
    for row in reliability["rows"].values():
        found = row["measured"]
        found = found if isinstance(found, Mapping) else {"cases": len(found)}
        counted = ", ".join(
            f"{name.replace('_', ' ')} {value if isinstance(value, int) else f'{value:.3g}'}"
            for name, value in found.items()
            if isinstance(value, int | float)
        )
        rows.append(row | {"met": "yes" if row["met"] else "**no**", "counted": counted})
    return rows


def _winners(directions: Result) -> list[Any]:
    rows = directions["winners"]
    return [
        row | {"won": row["wins"][row["winner"]], "settings": sum(row["wins"].values())}
        for row in rows
    ]


def _plans(variants: Result) -> list[Any]:
    """Rows of the plans, with the seconds that the costs need at least."""
    return [
        row
        | {"passes": row["shape"]["directions"] * row["median_seconds"]["one pass of the costs"]}
        for row in variants["rows"]
        if row["variant"].endswith("plan")
    ]


def _unbalanced(variants: Result) -> list[Any]:
    """Rows of the distances, with the ratio of seconds to values that are as near."""
    rows = []
    for row in variants["rows"]:
        if row["variant"].endswith("OT"):
            medians = row["median_seconds"]
            pair = medians.get("POT torch, as near"), medians.get("swjko, as near")
            rows.append(row | {"near": pair[0] / pair[1] if all(pair) else None})
    return rows


def _sizes(scaling: Result) -> list[Result]:
    """First and last row of each size that was varied, with the exponents of its cost."""
    return [
        {"name": name, "from": rows[0][name], "to": rows[-1][name], "first": rows[0]}
        | {"last": rows[-1], "exponents": scaling["exponents"][name]}
        for name, rows in scaling["sizes"].items()
    ]


def _points(scaling: Result) -> list[Result]:
    """The costs of a flow of free particles, one row for each size."""
    return [
        run | cost | {"exponents": run["exponents"]}
        for run in scaling["points"]
        for cost in run["costs"]
    ]


TABLES: dict[str, Region] = {
    "oracles": (("fokker_planck", "aggregation", "kernel"), _oracles),
    "readme-speed": region(
        "kernel",
        equal_clouds,
        "points, dimension, directions | swjko | POT (torch) | OTT-JAX | `torch.sort`",
        "{shape[n]:,} / {shape[dim]} / {shape[directions]} | {median_seconds[swjko]:ms} | "
        "{ratio[POT torch]:ratio} | {ratio[OTT-JAX]:ratio} | {ratio[torch.sort]:ratio}",
        note=False,
    ),
    "kernel": region(
        "kernel",
        lambda kernel: _with_clouds(equal_clouds(kernel)),
        "clouds | swjko | POT (torch) | POT (NumPy, value alone) | OTT-JAX | `torch.sort` | "
        "`jnp.sort`, autodiff | no sort at all | directions on two devices",
        "{clouds} | {median_seconds[swjko]:ms} | {ratio[POT torch]:ratio} | "
        "{ratio[POT NumPy, value]:ratio} | {ratio[OTT-JAX]:ratio} | {ratio[torch.sort]:ratio} | "
        "{ratio[jnp.sort]:ratio} | {ratio[no sort]:ratio} | {sharded[speedup]:ratio}",
    ),
    "kernel-unequal": region(
        "kernel",
        _unequal,
        "clouds | swjko | POT (torch) | POT (NumPy, value alone) | OTT-JAX",
        "{clouds} | {median_seconds[swjko]:ms} | {ratio[POT torch]:ratio} | "
        "{ratio[POT NumPy, value]:ratio} | {ratio[OTT-JAX]:ratio}",
        note=False,
    ),
    "kernel-accuracy": region(
        "kernel",
        _with_errors,
        "clouds | relative error of the value | of the gradient",
        "{clouds} | {relative_error[value]:power} | {relative_error[gradient]:power}",
        note=False,
    ),
    "kernel-memory": region(
        "kernel",
        lambda kernel: kernel["peaks"],
        "points in each cloud | directions | peak of the process | seconds",
        "{points:,} | {directions} | {peak_mib:.0f} MiB | {seconds:seconds}",
        note=False,
    ),
    "directions": region(
        "directions",
        _winners,
        "d | orthogonal / uniform | quasi / uniform | least error | number of settings",
        "{dim} | {error_over_uniform[orthogonal]:.2g} | {error_over_uniform[quasi]:.2g} | "
        "{winner} | {won} of {settings}",
    ),
    "reliability": region(
        "reliability",
        _drills,
        "drill | required | met | counted | seconds | date",
        "{what} | {required} | {met} | {counted} | {seconds:seconds} | {date}",
    ),
    "spheres": region(
        "spheres",
        lambda spheres: spheres["rows"],
        "points, dimension, great circles | swjko | POT (torch) | POT (NumPy, value alone) | "
        "largest difference of the gradient",
        "{case[points]:,} / {case[dim]} / {case[slices]} | {median_seconds[swjko]:ms} | "
        "{ratio[POT torch]:ratio} | {ratio[POT NumPy, value]:ratio} | "
        "{agreement[POT torch][gradient]:power}",
    ),
    "variants": region(
        "variants",
        _unbalanced,
        "distance | points, dimension, directions | swjko, with gradient | "
        "POT (torch, value alone) | value of swjko | of POT | swjko, within 1e-4 of the optimum | "
        "POT, within 1e-4",
        "{variant} | {shape[n]:,} / {shape[dim]} / {shape[directions]} | "
        "{median_seconds[swjko]:ms} | {ratio[POT torch]:ratio} | {values[swjko]:.4f} | "
        "{values[POT torch]:.4f} | {median_seconds[swjko, as near]:ms} | {near:ratio}",
    ),
    "plans": region(
        "variants",
        _plans,
        "plan | points, dimension, directions | swjko | POT (torch) | POT (NumPy) | "
        "projection alone | sort alone | all costs at one pass each",
        "{variant} | {shape[n]:,} / {shape[dim]} / {shape[directions]} | "
        "{median_seconds[swjko]:ms} | {ratio[POT torch]:ratio} | {ratio[POT NumPy]:ratio} | "
        "{median_seconds[projection alone]:ms} | {median_seconds[sort alone]:ms} | {passes:ms}",
        note=False,
    ),
    "update": region(
        "update",
        lambda update: update["rows"],
        "setting | d, couplings x width, points, directions | ms of an update | before | ratio | "
        "seconds to compile | before",
        "{name} | {dim}, {num_layers} x {width}, {num_samples}, {num_projections} | "
        "{now[ms_per_update]:.3g} | {before[ms_per_update]:.3g} | {speedup:.2f} | "
        "{now[compile_seconds]:.3g} | {before[compile_seconds]:.3g}",
    ),
    "update-torch": region(
        "update",
        lambda update: update["rows"],
        "setting | JAX alone, ms | with swjko-native, ms | eager torch with sorts, ms | ratios | "
        "eager torch with quantiles, ms | ratios",
        "{name} | {now[ms_per_update]:.3g} | {native[ms_per_update]:.3g} | "
        "{torch[sorts][best]:.3g} | {torch[sorts][ratio][now]:.1f}, "
        "{torch[sorts][ratio][native]:.1f} | {torch[quantiles][best]:.3g} | "
        "{torch[quantiles][ratio][now]:.1f}, {torch[quantiles][ratio][native]:.1f}",
        note=False,
    ),
    "native": region(
        "native",
        _native,
        "what | swjko-native | JAX alone | torch.sort | no sort | relative difference",
        "{what} | {median_seconds[swjko-native]:ms} | {ratio[JAX alone]:ratio} | "
        "{ratio[torch.sort]:ratio} | {ratio[no sort]:ratio} | {difference:power}",
    ),
    "gpu-programs": region(
        "gpu_programs",
        lambda programs: programs["rows"],
        "program | launches | temporaries | bytes moved, at most | roofline estimate | radix sorts",
        "{program} | {launches} | {temporaries_mib:.3g} MiB | {gigabytes:.2g} GB | "
        "{roofline_ms:.2g} ms | {radix_sorts}",
    ),
    "scaling-flows": region(
        "scaling",
        lambda scaling: scaling["flows"],
        "flows | `run_many`, flows per second | a loop | ratio",
        "{num_flows} | {flows_per_second[run_many]:.3g} | {flows_per_second[loop]:.3g} | "
        "{ratio:.2f}",
    ),
    "scaling-sizes": region(
        "scaling",
        _sizes,
        "varied | from, to | one flow | exponent of seconds | of temporary bytes",
        "`{name}` | {from} to {to} | {first[seconds]:ms} to {last[seconds]:ms} | "
        "{exponents[seconds]:.2f} | {exponents[temporary_bytes]:.2f}",
        note=False,
    ),
    "scaling-points": region(
        "scaling",
        _points,
        "towards a | devices | particles | one update | a step of one update, with its report | "
        "temporaries | peak of the process | before it | exponents: update, step, temporaries",
        "{functional} | {devices} | {points:,} | {update_seconds:duration} | "
        "{step_seconds:duration} | {temporary_mib:.0f} MiB | {peak_mib:.0f} MiB | "
        "{peak_before_mib:.0f} MiB | {exponents[update_seconds]:.2f}, "
        "{exponents[step_seconds]:.2f}, {exponents[temporary_mib]:.2f}",
        note=False,
    ),
}
