"""What a distance and its gradient cost on many devices: the model of ``docs/scaling.md``.

Of n points against n in dimension d along L directions, on D devices that share the directions,
one update takes

    sorting  = c 2 n log2(n) ceil(L / D)
    exchange = 2 (D - 1) / D (4 n d + 4) / bandwidth + 2 ceil(log2 D) latency
    bytes    = 12 n d + b n min(ceil(L / D), block)

where the bytes on each device are two clouds, a gradient and the temporaries of a block. The
constants come from ``kernel.json``: c, seconds for each point of both clouds, direction and level
of its sort, and b, bytes for each point and direction. Flows exchange nothing: F flows on D devices
take ceil(F / D) times as long as one, at the rate of ``scaling.json``.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.markdown import Region, Result, fill, provenance, region, table
from benchmarks.speed_tables import equal_clouds

POINTS, DIRECTIONS, FLOWS = 10**9, 10**6, 10**4
_DEVICE_COUNTS = (1, 8, 64, 512, 4096)


class Model(NamedTuple):
    """Constants of the model: seconds is c, bytes is b; the network is assumed, not measured.

    The default bandwidth is 200 Gbit/s in and out of each device.
    """

    seconds: float
    bytes: float
    bandwidth: float = 25e9
    latency: float = 20e-6

    def sorting(self, n: int, directions: int, devices: int = 1) -> float:
        """Seconds of one update without the exchange."""
        return self.seconds * 2 * n * math.log2(n) * math.ceil(directions / devices)

    def exchange(self, n: int, dim: int, devices: int) -> float:
        """Seconds of one ring all-reduce of value and gradient."""
        sent = 2 * (devices - 1) / devices * reduced_bytes(n, dim)
        return sent / self.bandwidth + 2 * math.ceil(math.log2(devices)) * self.latency

    def memory(self, n: int, dim: int, directions: int, devices: int, block: int) -> float:
        """Bytes on each device."""
        return 12 * n * dim + self.bytes * n * min(math.ceil(directions / devices), block)


def reduced_bytes(n: int, dim: int) -> int:
    """Bytes of one value and gradient in float32."""
    return 4 * (n * dim + 1)


def planned(kernel: Result) -> Model:
    """The model with the seconds of the case with most points, and the most bytes of all cases."""
    rows = equal_clouds(kernel)
    largest = max(rows, key=lambda row: row["shape"]["n"])
    return Model(_nanoseconds(largest) / 1e9, max(row["temporary_bytes"] for row in rows))


def _nanoseconds(row: Result) -> float:
    unit = Model(1.0, 0.0).sorting(row["shape"]["n"], row["shape"]["directions"])
    return 1e9 * row["median_seconds"]["swjko"] / unit


def _constants_table(kernel: Result) -> list[str]:
    cases = [row | {"c": _nanoseconds(row)} for row in equal_clouds(kernel)]
    peaks = []
    for row in kernel["peaks"]:
        sizes = (row["points"], row["directions"])
        cost = 1e9 * row["seconds"] / Model(1.0, 0.0).sorting(*sizes)
        peaks.append(row | {"c": cost, "model": planned(kernel).sorting(*sizes)})
    head = "points in each cloud | directions | measured | c | b"
    lines = table(
        head,
        "{shape[n]:,} in d = {shape[dim]} | {shape[directions]} | {median_seconds[swjko]:ms} | "
        "{c:.2f} ns | {temporary_bytes:.1f} B",
        cases,
    )
    lines += table(
        head,
        "{points:,} in d = 2, with compilation | {directions} | {seconds:.3g} s, by the model "
        "{model:.3g} s | {c:.2f} ns | in blocks",
        peaks,
    )[2:]
    return lines + provenance(kernel)


def _plan_region(n: int, dim: int, directions: int, block: int, devices: tuple[int, ...]) -> Region:
    def row(model: Model, count: int) -> Result:
        sorting, exchange = model.sorting(n, directions, count), model.exchange(n, dim, count)
        found = {"devices": count, "own": math.ceil(directions / count), "sorting": sorting}
        found |= {"exchange": exchange, "total": sorting + exchange}
        found |= {"memory": model.memory(n, dim, directions, count, block) / 2**30}
        return found | {"efficiency": model.sorting(n, directions) / (count * found["total"])}

    return region(
        "kernel",
        lambda kernel: [row(planned(kernel), count) for count in devices],
        "devices | directions on each | memory of each | sorting | exchange | one update | "
        "efficiency",
        "{devices:,} | {own:,} | {memory:.2g} GiB | {sorting:duration} | {exchange:duration} | "
        "{total:duration} | {efficiency:.0%}",
        note=False,
    )


def _all_at_once(kernel: Result) -> list[str]:
    years = FLOWS * planned(kernel).sorting(POINTS, DIRECTIONS) / (365.25 * 86400.0)
    return [
        f"{FLOWS:,} flows of {POINTS:,} points along {DIRECTIONS:,} directions "
        f"would take {years:.1e} device-years for one update."
    ]


def _flows_table(scaling: Result) -> list[str]:
    """Flows on many devices, at the best rate that was measured on one device."""
    rate = max(row["flows_per_second"]["run_many"] for row in scaling["flows"])
    shares = {devices: math.ceil(FLOWS / devices) for devices in _DEVICE_COUNTS}
    rows = [
        {"devices": devices, "own": own, "all": own / rate, "efficiency": FLOWS / (devices * own)}
        for devices, own in shares.items()
    ]
    cells = "{devices:,} | {own:,} | 0 B | {all:duration} | {efficiency:.0%}"
    note = (
        f"*{FLOWS:,} flows of n = {{base[num_samples]}}, L = {{base[num_projections]}}, "
        "d = {base[dim]}, {base[num_steps]} steps of {num_inner_steps} updates, "
        f"at {rate:.3g} flows a second on one device (`scaling.json`).*"
    )
    lines = table("devices | flows on each | exchange | all flows | efficiency", cells, rows)
    return [*lines, "", fill(note, scaling["plan"])]


def _drilled(drill: str, write: Callable[[Any], list[str]]) -> Region:
    """A region from the numbers of one drill; a note if it has not been run."""

    def region(reliability: Result) -> list[str]:
        if drill in reliability["rows"]:
            return write(reliability["rows"][drill]["measured"])
        return [f"*Not measured yet: `reliability.json` lacks the drill `{drill}`.*"]

    return ("reliability",), region


def _exchange_table(found: Result) -> list[str]:
    """What the compiled programs exchange."""
    sizes = found["sizes"]
    formulas = {
        "flows": "none",
        "directions": f"4 (n d + 1) = {reduced_bytes(sizes['points'], sizes['dim']):,}",
        "points": "grows with n L",
    }
    rows = []
    for axis, formula in formulas.items():
        counts = found[axis]["collectives"].items()
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts) or "none"
        rows.append(found[axis] | {"axis": axis, "kinds": kinds, "formula": formula})
    note = (
        "*`reliability.json`: {devices} devices, n = {points:,} points in d = {dim}, "
        "L = {directions} directions.*"
    )
    head = "sharded | collectives in one update | bytes on each device | formula"
    return [*table(head, "{axis} | {kinds} | {bytes:,} | {formula}", rows), "", fill(note, sizes)]


def _devices_table(found: Result) -> list[str]:
    """Differences of results on many host devices from those on one."""
    rows = [
        row | {"kind": kind, "draws": "the same bits" if row["same_draws"] else "**differ**"}
        for kind, rows in found.items()
        for row in rows
    ]
    head = " | devices | flows | largest relative difference | draws"
    return table(head, "{kind} | {devices} | {flows} | {difference:.1e} | {draws}", rows)


def _saving(found: dict[str, Any]) -> list[str]:
    text = (
        "one save of {mebibytes:.2g} MiB took {one_save_seconds:duration}, and checkpoints "
        "{spent_on_checkpoints:.2%} of a run of {run_seconds_with_checkpoints:.0f} s "
        "with {saves} saves."
    )
    return [fill(text, found | {"mebibytes": found["state_bytes"] / 2**20})]


TABLES: dict[str, Region] = {
    "scaling-plan-constants": (("kernel",), _constants_table),
    "scaling-plan-directions": _plan_region(10**5, 16, DIRECTIONS, 64, _DEVICE_COUNTS),
    "scaling-plan-points": _plan_region(POINTS, 2, 128, 1, (1, 8, 64, 128)),
    "scaling-plan-all": (("kernel",), _all_at_once),
    "scaling-plan-flows": (("scaling",), _flows_table),
    "scaling-plan-exchange": _drilled("collectives", _exchange_table),
    "scaling-plan-devices": _drilled("R16", _devices_table),
    "scaling-plan-saving": _drilled("checkpoints", _saving),
}
