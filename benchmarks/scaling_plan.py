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
from collections.abc import Iterable
from typing import Any, NamedTuple

from benchmarks.markdown import Region, Result, duration, provenance, table
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


def constants(row: Result) -> Constants:
    """Constants of the model from one measured case with clouds of equal sizes."""
    shape, seconds = row["shape"], row["median_seconds"]["swjko"]
    return Constants(
        seconds / sort_seconds(Constants(1.0, 0.0), shape["n"], shape["directions"]),
        row["temporary_bytes"],
    )


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
    rows = []
    for row in equal_clouds(kernel):
        shape, found = row["shape"], constants(row)
        what = f"{shape['n']:,} in d = {shape['dim']}"
        measured = f"{1e3 * row['median_seconds']['swjko']:.3g} ms"
        cost = (f"{1e9 * found.seconds:.2f} ns", f"{found.bytes:.1f} B")
        rows.append((what, shape["directions"], measured, *cost))
    for row in kernel["peaks"]:
        points, directions, seconds = row["points"], row["directions"], row["seconds"]
        model = sort_seconds(planned(kernel), points, directions)
        unit = seconds / sort_seconds(Constants(1.0, 0.0), points, directions)
        measured = f"{seconds:.3g} s, by the model {model:.3g} s"
        what = f"{points:,} in d = 2, with compilation"
        rows.append((what, directions, measured, f"{1e9 * unit:.2f} ns", "in blocks"))
    head = ("points in each cloud", "directions", "measured", "c", "b")
    return table(head, rows) + provenance(kernel)


def _exchange_table(reliability: Result) -> list[str]:
    """What the compiled programs exchange."""
    if (found := _measured(reliability, "collectives")) is None:
        return _not_measured("collectives")
    sizes = found["sizes"]
    n, d, directions = sizes["points"], sizes["dim"], sizes["directions"]
    formulas = {
        "flows": "none",
        "directions": f"4 (n d + 1) = {reduced_bytes(n, d):,}",
        "points": "grows with n L",
    }
    rows = []
    for axis, formula in formulas.items():
        counts = found[axis]["collectives"].items()
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts) or "none"
        rows.append((axis, kinds, f"{found[axis]['bytes']:,}", formula))
    clouds = f"n = {n:,} points in d = {d}, L = {directions} directions"
    note = f"*`reliability.json`: {sizes['devices']} devices, {clouds}.*"
    head = ("sharded", "collectives in one update", "bytes on each device", "formula")
    return [*table(head, rows), "", note]


def _devices_table(reliability: Result) -> list[str]:
    """Differences of results on many host devices from those on one."""
    if (measured := _measured(reliability, "R16")) is None:
        return _not_measured("R16")
    rows = []
    for kind, found in measured.items():
        for row in found:
            draws = "the same bits" if row["same_draws"] else "**differ**"
            rows.append((kind, row["devices"], row["flows"], f"{row['difference']:.1e}", draws))
    return table(("", "devices", "flows", "largest relative difference", "draws"), rows)


def _directions_table(kernel: Result) -> list[str]:
    return _plan_table(planned(kernel), 10**5, 16, DIRECTIONS, _DEVICE_COUNTS, block=64)


def _points_table(kernel: Result) -> list[str]:
    return _plan_table(planned(kernel), POINTS, 2, 128, (1, 8, 64, 128), block=1)


def _plan_table(
    found: Constants, n: int, dim: int, directions: int, counts: Iterable[int], block: int
) -> list[str]:
    alone = sort_seconds(found, n, directions)
    rows: list[tuple[Any, ...]] = []
    for devices in counts:
        sorting = sort_seconds(found, n, directions, devices)
        exchange = exchange_seconds(n, dim, devices)
        memory = device_bytes(found, n, dim, directions, devices, block) / 2**30
        efficiency = alone / (devices * (sorting + exchange))
        sizes = (f"{devices:,}", f"{math.ceil(directions / devices):,}", f"{memory:.2g} GiB")
        times = map(duration, (sorting, exchange, sorting + exchange))
        rows.append((*sizes, *times, f"{efficiency:.0%}"))
    head = ("devices", "directions on each", "memory of each", "sorting", "exchange")
    return table((*head, "one update", "efficiency"), rows)


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
    base = scaling["plan"]["base"]
    rows = []
    for devices in _DEVICE_COUNTS:
        own = math.ceil(FLOWS / devices)
        efficiency = f"{FLOWS / (devices * own):.0%}"
        rows.append((f"{devices:,}", f"{own:,}", "0 B", duration(own / rate), efficiency))
    note = (
        f"*{FLOWS:,} flows of n = {base['num_samples']}, L = {base['num_projections']}, "
        f"d = {base['dim']}, {base['num_steps']} steps of {scaling['plan']['num_inner_steps']} "
        f"updates, at {rate:.3g} flows a second on one device (`scaling.json`).*"
    )
    return [
        *table(("devices", "flows on each", "exchange", "all flows", "efficiency"), rows),
        "",
        note,
    ]


def _saving(reliability: Result) -> list[str]:
    """A sentence."""
    if (found := _measured(reliability, "checkpoints")) is None:
        return _not_measured("checkpoints")
    return [
        f"one save of {found['state_bytes'] / 2**20:.2g} MiB took "
        f"{duration(found['one_save_seconds'])}, and checkpoints "
        f"{found['spent_on_checkpoints']:.2%} of a run of "
        f"{found['run_seconds_with_checkpoints']:.0f} s with {found['saves']} saves."
    ]


def _measured(reliability: Result, drill: str) -> Any:
    """The numbers of a drill; None if it has not been run."""
    return reliability["rows"][drill]["measured"] if drill in reliability["rows"] else None


def _not_measured(drill: str) -> list[str]:
    return [f"*Not measured yet: `reliability.json` lacks the drill `{drill}`.*"]


TABLES: dict[str, Region] = {
    "scaling-plan-constants": (("kernel",), _constants_table),
    "scaling-plan-exchange": (("reliability",), _exchange_table),
    "scaling-plan-devices": (("reliability",), _devices_table),
    "scaling-plan-directions": (("kernel",), _directions_table),
    "scaling-plan-points": (("kernel",), _points_table),
    "scaling-plan-flows": (("scaling",), _flows_table),
    "scaling-plan-all": (("kernel",), _all_at_once),
    "scaling-plan-saving": (("reliability",), _saving),
}
