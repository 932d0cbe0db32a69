"""What a distance and its gradient cost on many devices: the model of ``docs/scaling.md``.

Of n points against n in dimension d along L directions, on D devices that share the directions,
one update takes

    seconds = c 2 n log2(n) ceil(L / D) + 2 (D - 1) / D (4 n d + 4) / bandwidth
              + 2 ceil(log2 D) latency
    bytes   = 12 n d + b n min(ceil(L / D), block)

where the bytes on each device are two clouds, a gradient and the temporaries of a block. The
constants come from ``kernel.json``: c, seconds for each point of both clouds, direction and level
of its sort, and b, bytes for each point and direction. Flows exchange nothing: F flows on D devices
take ceil(F / D) times as long as one, at the rate of ``scaling.json``.
"""

import math
from typing import NamedTuple

from benchmarks.markdown import Region, Result, fill, provenance, region, table
from benchmarks.speed_tables import equal_clouds


class Network(NamedTuple):
    """bandwidth: bytes per second in and out of each device; latency: seconds of one message."""

    bandwidth: float
    latency: float


class Constants(NamedTuple):
    """seconds: c of the model; bytes: b of the model."""

    seconds: float
    bytes: float


# Assumed, not measured: 200 Gbit/s for each device.
NETWORK = Network(bandwidth=25e9, latency=20e-6)
POINTS, DIRECTIONS, FLOWS = 10**9, 10**6, 10**4
_DEVICE_COUNTS = (1, 8, 64, 512, 4096)
_UNIT = Constants(seconds=1.0, bytes=0.0)


def constants(row: Result) -> Constants:
    """Constants of the model from one measured case with clouds of equal sizes."""
    shape, seconds = row["shape"], row["median_seconds"]["swjko"]
    unit = sort_seconds(_UNIT, shape["n"], shape["directions"])
    return Constants(seconds / unit, row["temporary_bytes"])


def planned(kernel: Result) -> Constants:
    """Seconds of the case with most points, and bytes of the case with most bytes.

    The latter has all directions in one block.
    """
    rows = equal_clouds(kernel)
    largest = constants(max(rows, key=lambda row: row["shape"]["n"]))
    return largest._replace(bytes=max(constants(row).bytes for row in rows))


def sort_seconds(found: Constants, n: int, directions: int, devices: int = 1) -> float:
    """Seconds of one update without the exchange."""
    return found.seconds * 2 * n * math.log2(n) * math.ceil(directions / devices)


def exchange_seconds(n: int, dim: int, devices: int, network: Network = NETWORK) -> float:
    """Seconds of one ring all-reduce of value and gradient."""
    sent = 2 * (devices - 1) / devices * reduced_bytes(n, dim)
    return sent / network.bandwidth + 2 * math.ceil(math.log2(devices)) * network.latency


def reduced_bytes(n: int, dim: int) -> int:
    """Bytes of one value and gradient in float32."""
    return 4 * (n * dim + 1)


def device_bytes(
    found: Constants, n: int, dim: int, directions: int, devices: int, block: int
) -> float:
    """Bytes on each device."""
    return 12 * n * dim + found.bytes * n * min(math.ceil(directions / devices), block)


def _constants_table(kernel: Result) -> list[str]:
    rows = [
        row | {"ns": 1e9 * constants(row).seconds, "b": f"{constants(row).bytes:.1f} B"}
        for row in equal_clouds(kernel)
    ]
    for row in kernel["peaks"]:
        unit = row["seconds"] / sort_seconds(_UNIT, row["points"], row["directions"])
        model = sort_seconds(planned(kernel), row["points"], row["directions"])
        rows.append(row | {"ns": 1e9 * unit, "model": model, "b": "in blocks"})
    head = "points in each cloud | directions | measured | c | b"
    measured = "{shape[n]:,} in d = {shape[dim]} | {shape[directions]} | {median_seconds[swjko]:ms}"
    peaks = (
        "{points:,} in d = 2, with compilation | {directions} | "
        "{seconds:.3g} s, by the model {model:.3g} s"
    )
    number = len(equal_clouds(kernel))
    lines = table(head, f"{measured} | {{ns:.2f}} ns | {{b}}", rows[:number])
    lines += table(head, f"{peaks} | {{ns:.2f}} ns | {{b}}", rows[number:])[2:]
    return lines + provenance(kernel)


def _exchange_table(reliability: Result) -> list[str]:
    """What the compiled programs exchange."""
    if "collectives" not in reliability["rows"]:
        return _not_measured("collectives")
    found = reliability["rows"]["collectives"]["measured"]
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


def _devices_table(reliability: Result) -> list[str]:
    """Differences of results on many host devices from those on one."""
    if "R16" not in reliability["rows"]:
        return _not_measured("R16")
    measured = reliability["rows"]["R16"]["measured"]
    rows = [
        row | {"kind": kind, "draws": "the same bits" if row["same_draws"] else "**differ**"}
        for kind, found in measured.items()
        for row in found
    ]
    head = " | devices | flows | largest relative difference | draws"
    return table(head, "{kind} | {devices} | {flows} | {difference:.1e} | {draws}", rows)


def _saving(reliability: Result) -> list[str]:
    """A sentence."""
    if "checkpoints" not in reliability["rows"]:
        return _not_measured("checkpoints")
    found = reliability["rows"]["checkpoints"]["measured"]
    text = (
        "one save of {mebibytes:.2g} MiB took {one_save_seconds:duration}, and checkpoints "
        "{spent_on_checkpoints:.2%} of a run of {run_seconds_with_checkpoints:.0f} s "
        "with {saves} saves."
    )
    return [fill(text, found | {"mebibytes": found["state_bytes"] / 2**20})]


def _not_measured(drill: str) -> list[str]:
    return [f"*Not measured yet: `reliability.json` lacks the drill `{drill}`.*"]


def _plan_region(n: int, dim: int, directions: int, block: int, devices: tuple[int, ...]) -> Region:
    return region(
        "kernel",
        lambda kernel: [
            _plan_row(planned(kernel), n, dim, directions, count, block) for count in devices
        ],
        "devices | directions on each | memory of each | sorting | exchange | one update | "
        "efficiency",
        "{devices:,} | {own:,} | {memory:.2g} GiB | {sorting:duration} | {exchange:duration} | "
        "{total:duration} | {efficiency:.0%}",
        note=False,
    )


def _plan_row(
    found: Constants, n: int, dim: int, directions: int, devices: int, block: int
) -> Result:
    sorting = sort_seconds(found, n, directions, devices)
    exchange = exchange_seconds(n, dim, devices)
    return {
        "devices": devices,
        "own": math.ceil(directions / devices),
        "memory": device_bytes(found, n, dim, directions, devices, block) / 2**30,
        "sorting": sorting,
        "exchange": exchange,
        "total": sorting + exchange,
        "efficiency": sort_seconds(found, n, directions) / (devices * (sorting + exchange)),
    }


def _all_at_once(kernel: Result) -> list[str]:
    """A sentence."""
    years = FLOWS * sort_seconds(planned(kernel), POINTS, DIRECTIONS) / (365.25 * 86400.0)
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


TABLES: dict[str, Region] = {
    "scaling-plan-constants": (("kernel",), _constants_table),
    "scaling-plan-exchange": (("reliability",), _exchange_table),
    "scaling-plan-devices": (("reliability",), _devices_table),
    "scaling-plan-directions": _plan_region(10**5, 16, DIRECTIONS, 64, _DEVICE_COUNTS),
    "scaling-plan-points": _plan_region(POINTS, 2, 128, 1, (1, 8, 64, 128)),
    "scaling-plan-flows": (("scaling",), _flows_table),
    "scaling-plan-all": (("kernel",), _all_at_once),
    "scaling-plan-saving": (("reliability",), _saving),
}
