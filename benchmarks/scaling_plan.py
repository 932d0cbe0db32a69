"""What a distance and its gradient cost on many devices: the model of ``docs/scaling.md`` and its tables, from measured constants.

Of n points against n in dimension d along L directions, on D devices that share the directions, one update takes

    seconds = c 2 n log2(n) ceil(L / D)  +  2 (D - 1) / D (4 n d + 4) / bandwidth  +  2 ceil(log2 D) latency
    bytes   = 12 n d  +  b n min(ceil(L / D), block)     on each device: two clouds and a gradient, and the temporaries of a block

c, seconds for each point of both clouds, direction and level of its sort, and b, bytes for each point and direction, come from
``kernel.json``. Flows exchange nothing: F of them on D devices take ceil(F / D) times as long as one, at the rate of ``scaling.json``.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from benchmarks.result_tables import Result, _provenance, _table

_FLOAT_BYTES = 4
_GIB = 2.0**30
_YEAR = 365.25 * 86400.0


class Network(NamedTuple):
    """bandwidth: bytes a second in and out of each device; latency: seconds of one message."""

    bandwidth: float
    latency: float


# Assumed, not measured: 200 Gbit/s for each device.
NETWORK = Network(25e9, 20e-6)
POINTS, DIRECTIONS, FLOWS = 10**9, 10**6, 10**4
_DEVICE_COUNTS = (1, 8, 64, 512, 4096)
# Of the plans for many directions and for many points: what the axis that is not large has.
_FEWER_POINTS, _DIM = 10**5, 16
_FEWER_DIRECTIONS, _PLANE = 128, 2


class Constants(NamedTuple):
    """seconds: c of the model; bytes: its b."""

    seconds: float
    bytes: float


def constants(row: Result) -> Constants:
    """Of one measured case, of two clouds of equal sizes."""
    shape = row["shape"]
    n, directions = shape["n"], shape["directions"]
    return Constants(
        row["median_seconds"]["swjko"] / (2 * n * math.log2(n) * directions), row["temporary_bytes"]
    )


def planned(kernel: Result) -> Constants:
    """The seconds of the measured case of most points, and the bytes of the one that takes the most, all directions in one block."""
    rows = _equal(kernel)
    largest = constants(max(rows, key=lambda row: row["shape"]["n"]))
    return largest._replace(bytes=max(constants(row).bytes for row in rows))


def sort_seconds(found: Constants, n: int, directions: int, devices: int = 1) -> float:
    """One update without what is exchanged."""
    return found.seconds * 2 * n * math.log2(n) * math.ceil(directions / devices)


def exchange_seconds(n: int, dim: int, devices: int, network: Network = NETWORK) -> float:
    """One ring all-reduce of value and gradient."""
    sent = 2 * (devices - 1) / devices * reduced_bytes(n, dim)
    return sent / network.bandwidth + 2 * math.ceil(math.log2(devices)) * network.latency


def reduced_bytes(n: int, dim: int) -> int:
    return _FLOAT_BYTES * (n * dim + 1)


def device_bytes(
    found: Constants, n: int, dim: int, directions: int, devices: int, block: int
) -> float:
    return 3 * _FLOAT_BYTES * n * dim + found.bytes * n * min(
        math.ceil(directions / devices), block
    )


# The tables.


def constants_table(kernel: Result) -> list[str]:
    rows = []
    for row in _equal(kernel):
        shape, found = row["shape"], constants(row)
        sizes = f"{shape['n']:,} in d = {shape['dim']}", shape["directions"]
        rows.append(
            (
                *sizes,
                f"{1e3 * row['median_seconds']['swjko']:.3g} ms",
                f"{1e9 * found.seconds:.2f} ns",
                f"{found.bytes:.1f} B",
            )
        )
    found = planned(kernel)
    for row in kernel["peaks"]:
        modelled = sort_seconds(found, row["points"], row["directions"])
        rows.append(
            (
                f"{row['points']:,} in d = 2, with compilation",
                row["directions"],
                f"{row['seconds']:.3g} s, by the model {modelled:.3g} s",
                f"{1e9 * row['seconds'] / (2 * row['points'] * math.log2(row['points']) * row['directions']):.2f} ns",
                "in blocks",
            )
        )
    return [
        *_table(("points in each cloud", "directions", "measured", "c", "b"), rows),
        "",
        _provenance(kernel),
    ]


def exchange_table(reliability: Result) -> list[str]:
    """What the compiled programs exchange."""
    found = _measured(reliability, "collectives")
    if found is None:
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
        kinds = (
            ", ".join(f"{number} {kind}" for kind, number in found[axis]["collectives"].items())
            or "none"
        )
        rows.append((axis, kinds, f"{found[axis]['bytes']:,}", formula))
    note = f"*`reliability.json`: {sizes['devices']} devices, n = {n:,} points in d = {d}, L = {directions} directions.*"
    return [
        *_table(("sharded", "collectives in one update", "bytes on each device", "formula"), rows),
        "",
        note,
    ]


def devices_table(reliability: Result) -> list[str]:
    """Correctness over forced host devices."""
    measured = _measured(reliability, "R16")
    if measured is None:
        return _not_measured("R16")
    rows = [
        (
            kind,
            row["devices"],
            row["flows"],
            f"{row['difference']:.1e}",
            "the same bits" if row["same_draws"] else "**differ**",
        )
        for kind, found in measured.items()
        for row in found
    ]
    return _table(("", "devices", "flows", "largest relative difference", "draws"), rows)


def directions_table(kernel: Result) -> list[str]:
    found = planned(kernel)
    return _table(_HEAD, _plan(found, _FEWER_POINTS, _DIM, DIRECTIONS, _DEVICE_COUNTS, block=64))


def points_table(kernel: Result) -> list[str]:
    found = planned(kernel)
    counts = (1, 8, 64, _FEWER_DIRECTIONS)
    return _table(_HEAD, _plan(found, POINTS, _PLANE, _FEWER_DIRECTIONS, counts, block=1))


def all_at_once(kernel: Result) -> list[str]:
    """A sentence."""
    years = FLOWS * sort_seconds(planned(kernel), POINTS, DIRECTIONS) / _YEAR
    return [
        f"{FLOWS:,} flows of {POINTS:,} points along {DIRECTIONS:,} directions would take {years:.1e} device-years for one update."
    ]


_HEAD = (
    "devices",
    "directions on each",
    "memory of each",
    "sorting",
    "exchange",
    "one update",
    "efficiency",
)


def _plan(
    found: Constants, n: int, dim: int, directions: int, counts: Iterable[int], block: int
) -> list[tuple[Any, ...]]:
    alone = sort_seconds(found, n, directions)
    rows = []
    for devices in counts:
        sorting, exchange = (
            sort_seconds(found, n, directions, devices),
            exchange_seconds(n, dim, devices),
        )
        memory = device_bytes(found, n, dim, directions, devices, block) / _GIB
        total = sorting + exchange
        cells = (
            f"{math.ceil(directions / devices):,}",
            f"{memory:.2g} GiB",
            *map(_duration, (sorting, exchange, total)),
        )
        rows.append((f"{devices:,}", *cells, f"{alone / (devices * total):.0%}"))
    return rows


def flows_table(scaling: Result) -> list[str]:
    """At the best rate that was measured on one device."""
    best = max(scaling["flows"], key=lambda row: row["flows_per_second"]["run_many"])
    rate = best["flows_per_second"]["run_many"]
    base = scaling["plan"]["base"]
    rows = []
    for devices in _DEVICE_COUNTS:
        own = math.ceil(FLOWS / devices)
        rows.append(
            (
                f"{devices:,}",
                f"{own:,}",
                "0 B",
                _duration(own / rate),
                f"{FLOWS / (devices * own):.0%}",
            )
        )
    note = (
        f"*{FLOWS:,} flows of n = {base['num_samples']}, L = {base['num_projections']}, d = {base['dim']}, {base['num_steps']} steps of "
        f"{scaling['plan']['num_inner_steps']} updates, at {rate:.3g} flows a second on one device (`scaling.json`).*"
    )
    return [
        *_table(("devices", "flows on each", "exchange", "all flows", "efficiency"), rows),
        "",
        note,
    ]


def saving(reliability: Result) -> list[str]:
    """A sentence."""
    found = _measured(reliability, "checkpoints")
    if found is None:
        return _not_measured("checkpoints")
    return [
        f"one save of {found['state_bytes'] / 2**20:.2g} MiB took {_duration(found['one_save_seconds'])}, and checkpoints "
        f"{found['spent_on_checkpoints']:.2%} of a run of {found['run_seconds_with_checkpoints']:.0f} s with {found['saves']} saves."
    ]


def _measured(reliability: Result, row: str) -> Any:
    """Rows are drilled one by one; None for one that was not yet."""
    return reliability["rows"][row]["measured"] if row in reliability["rows"] else None


def _not_measured(row: str) -> list[str]:
    return [f"*Not measured yet: `python -m benchmarks reliability --only {row}` measures it.*"]


def _equal(kernel: Result) -> list[Result]:
    return [
        row
        for row in kernel["runs"]
        if row["shape"]["n"] == row["shape"]["m"] and not row["shape"]["weighted"]
    ]


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= 2 * size or (unit == "s" and seconds >= 0.1):
            return f"{seconds / size:.3g} {unit}"
    return (
        f"{1e3 * seconds:.2g} ms"
        if seconds >= 1e-4
        else f"{1e6 * seconds:.2g} µs"
        if seconds
        else "0"
    )
