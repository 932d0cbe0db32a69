"""Drills of what may go wrong: NaNs, kills, damage, full disks, signals, other devices, dead peers; and memory, imports, installation.

Each row of the table is one promise, drilled as often as it says. In the JSON: ``required`` and ``measured`` in words and numbers, ``met``,
the seconds that the drill took, and its date and the load of the machine, since rows can be measured one by one (``--only``).
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

import swjko
from benchmarks import common
from benchmarks import reliability_processes as processes
from benchmarks.reliability_child import contents
from swjko.checkpoints import store as checkpoints


class Plan(NamedTuple):
    """How often, and how large."""

    injections: int
    step_sizes: int
    random_kills: int
    write_kills: int
    corruptions: int
    points: int
    nums_directions: tuple[int, int]
    device_counts: tuple[int, ...]
    heartbeat: float
    seeds: int
    nums_projections: tuple[int, ...]
    imports: int
    overhead_steps: int
    overhead_seconds: float


FULL = Plan(
    20,
    10,
    40,
    10,
    1000,
    1_000_000,
    (32, 256),
    (1, 2, 4, 8),
    10.0,
    1000,
    (16, 32, 64, 128, 256, 512),
    9,
    1000,
    30.0,
)
QUICK = Plan(2, 4, 1, 1, 50, 100_000, (8, 16), (1, 2), 4.0, 200, (16, 64), 3, 50, 1.0)


class Row(NamedTuple):
    """A drill: what it is called and what it has to show; ``run(plan)`` measures, ``judge(measured, plan)`` says whether that is enough."""

    what: str
    required: str
    run: Callable[[Plan], Any]
    judge: Callable[[Any, Plan], bool]


# In this process.


def towards(center, x):
    return -jnp.sum((x - center) ** 2) / 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Poisoned:
    """A scheme whose functional holds NaNs at one step: at ``at``, or never where that is negative."""

    one: Any
    at: Any

    @property
    def family(self):
        return self.one.family

    def init(self, key):
        return self.one.init(key)

    def step(self, key, state):
        poisoned = jax.tree.map(
            lambda leaf: jnp.where(state.step == self.at, jnp.nan, leaf), self.one.functional
        )
        return dataclasses.replace(self.one, functional=poisoned).step(key, state)


def nans(injections: int) -> dict[str, int]:
    """R6. 16 flows of 10 steps, a NaN in one of them at a random step: how many codes and how many other flows were wrong."""
    energy = swjko.kl_divergence(Partial(towards, jnp.zeros(())))
    one = swjko.sw_jko(
        swjko.gaussian(2, init_mean=1.0),
        energy,
        optax.adam(1e-2),
        step_size=0.1,
        num_inner_steps=5,
        num_samples=32,
        num_projections=8,
    )
    keys, rng = jax.random.split(jax.random.key(0), 16), np.random.default_rng(6)
    axes = dataclasses.replace(
        jax.tree.map(lambda leaf: None, Poisoned(one, jnp.asarray(-1))), at=0
    )
    solved = functools.partial(swjko.run_many, keys, num_steps=10, axes=axes)
    clean = jax.device_get(solved(Poisoned(one, jnp.full(16, -1))))
    found = {
        "injections": injections,
        "wrong_codes": 0,
        "others_changed": 0,
        "not_at_the_last_good_state": 0,
    }
    for _ in range(injections):
        flow, at = int(rng.integers(16)), int(rng.integers(10))
        states, infos = jax.device_get(solved(Poisoned(one, jnp.full(16, -1).at[flow].set(at))))
        expected = np.where(
            (np.arange(16) == flow)[:, None] & (np.arange(10) >= at),
            int(swjko.Result.NON_FINITE),
            0,
        )
        found["wrong_codes"] += (
            not np.array_equal(infos.result, expected) or states.step[flow] != at
        )
        others = np.arange(16) != flow
        found["others_changed"] += not _same(
            (states, infos), clean, lambda leaf, others=others: leaf[others]
        )
        finite = all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(states.params))
        before = _same(infos, clean[1], lambda leaf, flow=flow, at=at: leaf[flow, :at])
        found["not_at_the_last_good_state"] += not (finite and before)
    return found


def _same(found: Any, expected: Any, part: Callable[[Any], Any]) -> bool:
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return all(part(one).tobytes() == part(other).tobytes() for one, other in pairs)


def divergences(num: int, chunk_size: int = 5) -> list[dict[str, Any]]:
    """R7. Langevin in a quadratic bowl, stable below a step size of 2, at step sizes from 10 to 1000."""
    points = jax.random.normal(jax.random.key(0), (64, 2))
    found = []
    for step_size in np.geomspace(10.0, 1000.0, num):
        scheme = swjko.langevin(points, Partial(towards, jnp.zeros(())), step_size=float(step_size))
        solution = swjko.solve(
            jax.random.key(1),
            scheme,
            20 * chunk_size,
            chunk_size=chunk_size,
            progress=False,
            throw=False,
        )
        steps = int(solution.state.step)
        finite = bool(np.all(np.isfinite(solution.state.params)))
        found.append(
            {
                "step_size": float(step_size),
                "code": solution.result.name,
                "chunks": steps // chunk_size + 1,
                "finite": finite,
            }
        )
    return found


def corruptions(number: int) -> dict[str, int]:
    """R9. Bits flipped, ends cut off, bytes appended: in the newest checkpoint, in both (every second case) or in the history."""
    rng, found = (
        np.random.default_rng(9),
        {"corrupted": number, "silent": 0, "path_not_named": 0, "fell_back": 0, "refused": 0},
    )
    start = swjko.State(
        jnp.arange(8.0), jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    )
    info: Any = swjko.Info(*[jnp.zeros(1)] * 6)
    opened = functools.partial(
        checkpoints.opened,
        run={},
        start=start,
        recorded=info,
        resume=True,
        every_seconds=1e9,
        every_steps=1,
    )
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with opened(directory) as store:
            for step in (1, 2):
                store.append(step, info, info)
                store.save(step, start._replace(step=start.step + step))
        good = contents(directory)
        for index in range(number):
            both = index % 2 == 1
            touched = ["step-0000000002.ckpt", *(["step-0000000001.ckpt"] if both else [])]
            if index % 4 == 2:
                touched = ["history.bin"]
            for part in touched:
                (directory / part).write_bytes(
                    _damaged(
                        good[part], ("bit", "cut", "longer")[index % 3], rng, part == "history.bin"
                    )
                )
            _tell(opened, directory, touched, found)
            for path in directory.iterdir():
                path.unlink()
            for part, content in good.items():
                (directory / part).write_bytes(content)
    return found


def _damaged(content: bytes, how: str, rng: np.random.Generator, is_history: bool) -> bytes:
    changed = bytearray(content)
    if how == "bit":
        # Of a history, its second half: what belongs to the newest checkpoint alone.
        at = rng.integers(len(changed) // 2 if is_history else 0, len(changed))
        changed[at] ^= 1 << rng.integers(8)
    elif how == "cut" or is_history:  # what stands beyond its end belongs to no checkpoint
        del changed[rng.integers(len(changed) // 2 if is_history else 0, len(changed)) :]
    else:
        changed += rng.bytes(int(1 + rng.integers(64)))
    return bytes(changed)


def _tell(
    opened: Callable[..., Any], directory: Path, touched: Sequence[str], found: dict[str, int]
) -> None:
    """Counts how the damage was met: by a warning and the checkpoint before, or by an error; in both the path must be named."""
    told, step = "", None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with opened(directory) as store:
                step = store.saved.step
        except swjko.CheckpointError as error:
            told = str(error)
    told += " ".join(str(warning.message) for warning in caught)
    found["silent"] += step == 2 or not told
    found["fell_back"] += step == 1
    found["refused"] += step is None
    found["path_not_named"] += not all(str(directory / part) in told for part in touched)


def estimates(seeds: int, nums_projections: tuple[int, ...]) -> dict[str, Any]:
    """R20. SW_2^2 of two clouds in the plane against equal angles: coverage of value +- 1.96 errors, and the slope of the error in L."""
    x = jax.random.normal(jax.random.key(0), (200, 2))
    y = jax.random.normal(jax.random.key(1), (300, 2)) * jnp.asarray([[2.0, 0.5]]) + 1.0
    with jax.enable_x64(True):
        x64, y64 = (jnp.asarray(np.asarray(cloud), jnp.float64) for cloud in (x, y))
        exact = float(
            swjko.sliced_wasserstein_pow(
                x64, y64, swjko.quasi_directions(jax.random.key(2), 20_000, 2)
            )
        )
    keys = jax.random.split(jax.random.key(3), seeds)
    estimate = jax.jit(
        lambda keys, num: jax.lax.map(
            lambda key: swjko.sliced_wasserstein_estimate(key, x, y, num), keys
        ),
        static_argnums=1,
    )
    rows = []
    for num in nums_projections:
        value, error = jax.device_get(estimate(keys, num))
        covered = np.abs(np.asarray(value, np.float64) - exact) <= 1.96 * error
        rows.append(
            {
                "directions": num,
                "coverage": float(np.mean(covered)),
                "error": float(np.sqrt(np.mean((value - exact) ** 2))),
            }
        )
    slope = np.polyfit(
        np.log([row["directions"] for row in rows]), np.log([row["error"] for row in rows]), 1
    )[0]
    return {"seeds": seeds, "rows": rows, "slope": float(slope)}


def installation() -> dict[str, Any]:
    """R26. sdist and wheel, built and installed into clean environments: seconds, MB, and the exit codes of the README's two commands."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        root = Path(__file__).parents[1]
        _command(
            found,
            "build",
            [sys.executable, "-m", "build", "--outdir", str(place / "dist"), str(root)],
            place,
        )
        (wheel,), (sdist,) = (
            list((place / "dist").glob(pattern)) for pattern in ("*.whl", "*.tar.gz")
        )
        found |= {"wheel_bytes": wheel.stat().st_size, "sdist_bytes": sdist.stat().st_size}
        for label, target in (("wheel", f"{wheel}[cli]"), ("sdist", f"{sdist}[cli]")):
            python = place / label / "bin" / "python"
            _command(
                found,
                f"environment of the {label}",
                [sys.executable, "-m", "venv", str(place / label)],
                place,
            )
            _command(
                found,
                f"install the {label}",
                [str(python), "-m", "pip", "install", "-q", target],
                place,
            )
            found[f"{label}_environment_bytes"] = _tree_bytes(place / label)
            _command(
                found,
                f"python -m swjko of the {label}",
                [str(python), "-m", "swjko", "--no-progress"],
                place / label,
            )
        with tarfile.open(sdist) as archive:
            archive.extractall(place / "source", filter="data")
        (source,) = (place / "source").iterdir()
        python = place / "sdist" / "bin" / "python"
        _command(
            found,
            "install the tests' packages",
            [str(python), "-m", "pip", "install", "-q", "-e", ".[test]"],
            source,
        )
        _command(
            found,
            "python -m pytest",
            [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider"],
            source,
        )
    return found


def _command(found: dict[str, Any], label: str, command: Sequence[str], place: Path) -> None:
    start = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=place,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    lines = (done.stdout + done.stderr).strip().splitlines()
    found[label] = {
        "code": done.returncode,
        "seconds": time.perf_counter() - start,
        "last_line": lines[-1] if lines else "",
    }


def _tree_bytes(path: Path) -> int:
    return sum(
        file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink()
    )


def _installs(measured: dict[str, Any], plan: Plan) -> bool:
    del plan
    commands = {name: value for name, value in measured.items() if isinstance(value, dict)}
    run = sum(value["seconds"] for name, value in commands.items() if "wheel" in name)
    return (
        all(value["code"] == 0 for value in commands.values())
        and run <= 300
        and measured["wheel_environment_bytes"] <= 1.3e9
    )


ROWS = {
    "R6": Row(
        "a NaN in 1 of 16 flows at a random step",
        "code NON_FINITE at that step, the other 15 bitwise as without it",
        lambda plan: nans(plan.injections),
        lambda measured, plan: (
            not any(value for name, value in measured.items() if name != "injections")
        ),
    ),
    "R7": Row(
        "step sizes far too large",
        "code DIVERGED within two chunks, the last state finite",
        lambda plan: divergences(plan.step_sizes),
        lambda measured, plan: all(
            row["code"] == "DIVERGED" and row["chunks"] <= 2 and row["finite"] for row in measured
        ),
    ),
    "R8": Row(
        "kill -9 at random times, and while a checkpoint is written",
        "no damaged load, each resumed run bit for bit as one never killed",
        lambda plan: processes.kills(plan.random_kills, plan.write_kills),
        lambda measured, plan: (
            not (measured["differing_ends"] or measured["damaged_loads"])
            and measured["kills_while_writing"] >= plan.write_kills
        ),
    ),
    "R9": Row(
        "corrupted checkpoints",
        "none accepted in silence, each error or warning names the path",
        lambda plan: corruptions(plan.corruptions),
        lambda measured, plan: not (measured["silent"] or measured["path_not_named"]),
    ),
    "R10 disks": Row(
        "a full disk; a read-only one",
        "exit code 1 and an error, what was saved goes on to the same end",
        lambda plan: processes.disks(),
        lambda measured, plan: all(
            row["code"] == 1 and row["same_end"] and "CheckpointError" in row["told"]
            for row in measured.values()
        ),
    ),
    "R10 signals": Row(
        "SIGTERM; Ctrl-C",
        "saved, exit codes 143 and 130, the same end when run again",
        lambda plan: processes.signals(),
        lambda measured, plan: (
            (measured["SIGTERM"]["code"], measured["SIGINT"]["code"]) == (143, 130)
            and all(row["same_end"] for row in measured.values())
        ),
    ),
    "R11": Row(
        "resumed with another configuration, dtype or version",
        "refused with the difference named, nothing changed",
        lambda plan: processes.refusals(),
        lambda measured, plan: not measured["let_in"],
    ),
    "R12": Row(
        "a million points in the plane, value and gradient",
        "peak of at most 600 MiB, flat in the directions",
        lambda plan: processes.memory(plan.points, plan.nums_directions),
        lambda measured, plan: (
            max(row["peak_mib"] for row in measured) <= 600
            and abs(measured[0]["peak_mib"] - measured[1]["peak_mib"]) < 60
        ),
    ),
    "R16": Row(
        "1 to 8 devices against one, float64",
        "values to 1e-12, draws bitwise",
        lambda plan: processes.devices(plan.device_counts),
        lambda measured, plan: all(
            row["difference"] <= 1e-12 and row["same_draws"]
            for rows in measured.values()
            for row in rows
        ),
    ),
    "collectives": Row(
        "what devices exchange, by the compiled programs",
        "flows nothing; sharded directions one all-reduce of value and gradient",
        lambda plan: processes.collectives(max(plan.device_counts)),
        lambda measured, plan: (
            measured["flows"] == {"collectives": {}, "bytes": 0}
            and measured["directions"]
            == {
                "collectives": {"all-reduce": 1},
                "bytes": 4 + 4 * measured["sizes"]["points"] * measured["sizes"]["dim"],
            }
        ),
    ),
    "R17": Row(
        "two processes against one; one of them killed",
        "values to 1e-6, draws bitwise; the other leaves within the heartbeat and 5 s, and the run goes on to the same end",
        lambda plan: processes.peers(plan.heartbeat),
        lambda measured, plan: (
            measured["against_one"]["difference"] <= 1e-6
            and measured["against_one"]["same_draws"]
            and all(
                row["survivor_code"] != 0
                and row["survivor_seconds"] <= plan.heartbeat + 5
                and row["same_end"]
                for name, row in measured.items()
                if name != "against_one"
            )
        ),
    ),
    "R20": Row(
        "intervals and error of the estimated distance",
        "95 % intervals cover 93-97 % from 64 directions on, error slope in the directions -0.5 +- 0.05",
        lambda plan: estimates(plan.seeds, plan.nums_projections),
        lambda measured, plan: (
            abs(measured["slope"] + 0.5) <= 0.05
            and all(
                0.93 <= row["coverage"] <= 0.97
                for row in measured["rows"]
                if row["directions"] >= 64
            )
        ),
    ),
    "R25": Row(
        "import swjko",
        "at most 1.2 s, no heavy module, works without distrax",
        lambda plan: processes.imports(plan.imports),
        lambda measured, plan: (
            measured["seconds"] <= 1.2
            and not measured["heavy"]
            and measured["works_without_distrax"]
        ),
    ),
    "checkpoints": Row(
        "checkpoints each 30 s in a run of a minute or more",
        "under 2 % of the run's seconds",
        lambda plan: processes.checkpoint_cost(plan.overhead_steps, plan.overhead_seconds),
        lambda measured, plan: measured["spent_on_checkpoints"] < 0.02,
    ),
    "R26": Row(
        "sdist and wheel in clean environments, and the README's two commands",
        "all exit with 0; the wheel from environment to report within 300 s and 1.3 GB",
        lambda plan: installation(),
        _installs,
    ),
}
_DOWNLOADS = {"R26"}
# Many processes one after another.
_LONG = {"R8", "R10 disks", "R10 signals", "R16", "R17", "checkpoints"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quick",
        action="store_true",
        help="the short drills a few times, under a minute; to runs/benchmarks",
    )
    parser.add_argument(
        "--full", action="store_true", help="R26 too, which downloads packages and runs all tests"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(ROWS),
        metavar="ROW",
        help="these rows alone, beside those that the JSON has",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="directory for the JSON (default benchmarks/results)"
    )


def main(args: argparse.Namespace) -> int:
    plan = QUICK if args.quick else FULL
    directory = Path(args.out or (Path("runs/benchmarks") if args.quick else common.RESULTS))
    left_out = (set() if args.full else _DOWNLOADS) | (_LONG if args.quick else set())
    names = args.only or [name for name in ROWS if name not in left_out]
    rows: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError):
        rows = json.loads((directory / "reliability.json").read_text())["rows"]
    for name in names:
        rows[name] = drilled(ROWS[name], plan)
        print(line(name, rows[name]), flush=True)
        rows = {known: rows[known] for known in ROWS if known in rows}
        common.write_results(
            "reliability", {"quick": args.quick, "plan": plan, "rows": rows}, directory
        )
    print(f"\n{table(rows)}\n{directory / 'reliability.json'}")
    return 0 if all(rows[name]["met"] for name in names) else 1


def drilled(row: Row, plan: Plan) -> dict[str, Any]:
    start, load = time.perf_counter(), os.getloadavg()[0]
    measured = row.run(plan)
    seconds, date = time.perf_counter() - start, time.strftime("%Y-%m-%d", time.gmtime())
    met = bool(row.judge(measured, plan))
    return {
        "what": row.what,
        "required": row.required,
        "measured": measured,
        "met": met,
        "seconds": seconds,
        "date": date,
        "load": load,
    }


def line(name: str, row: dict[str, Any]) -> str:
    return f"{name:12} {'met' if row['met'] else 'NOT MET':8} {row['seconds']:>6.0f} s  {row['what']}: {summary(row['measured'])}"


def summary(measured: Any) -> str:
    """The measured numbers in a few words."""
    if isinstance(measured, dict):
        return ", ".join(
            f"{name} {summary(value)}"
            for name, value in measured.items()
            if not isinstance(value, str) and name != "told"
        )
    if isinstance(measured, list):
        return "; ".join(summary(value) for value in measured)
    return f"{measured:.3g}" if isinstance(measured, float) else str(measured)


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'row':12} {'met':4} required"]
    lines += [
        f"{name:12} {'yes' if row['met'] else 'NO':4} {row['what']}: {row['required']}"
        for name, row in rows.items()
    ]
    return "\n".join(lines)
