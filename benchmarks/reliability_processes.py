"""Reliability drills that need processes of their own: kills, full and read-only disks, signals, devices, peers, memory and imports."""

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import kernel
from benchmarks.reliability_child import contents

_ROOT = Path(__file__).parents[1]
_TIMEOUT = 600.0
_HEAVY = [
    "distrax",
    "sklearn",
    "matplotlib",
    "pandas",
    "flax",
    "diffrax",
    "orbax",
    "rich",
    "ot",
    "tensorflow_probability",
]


def child(
    name: str, *, devices: int | None = None, limit: int | None = None, **arguments: Any
) -> subprocess.Popen[str]:
    """A drill of ``reliability_child``, started. limit: bytes that none of its files may exceed."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("XLA_FLAGS", "JAX_ENABLE_X64")
    } | {"JAX_PLATFORMS": "cpu"}
    if devices is not None:
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"

    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "benchmarks.reliability_child",
            name,
            json.dumps(arguments),
            str(limit or 0),
        ],
        cwd=_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the child prints at its end. Raises RuntimeError with its last words where it fails."""
    out, error = process.communicate(timeout=_TIMEOUT)
    if process.returncode:
        raise RuntimeError(f"a drill ended with code {process.returncode}: {error.strip()[-2000:]}")
    return json.loads(out.splitlines()[-1])


def last_line(error: str) -> str:
    lines = [line for line in error.strip().splitlines() if not line.startswith(" ")]
    return lines[-1] if lines else ""


def kills(
    random_kills: int,
    write_kills: int,
    *,
    num_steps: int = 200,
    num_points: int = 500_000,
    cloud_steps: int = 30,
) -> dict[str, Any]:
    """R8. kill -9 at random times of a run, and at others in the middle of the writing of a checkpoint, until each has had its number."""
    rng = np.random.default_rng(8)
    small, cloud = {"num_steps": num_steps}, {"num_steps": cloud_steps, "num_points": num_points}
    runs = [
        _killed(random_kills, small, lambda directory, alive: _wait(rng.uniform(0.0, 0.5), alive)),
        _killed(write_kills, cloud, _until_written(rng), while_writing=True),
    ]
    return {name: sum(run[name] for run in runs) for name in runs[0]} | {
        "kills_while_writing": runs[1]["half_written"]
    }


def _killed(
    number: int,
    arguments: Mapping[str, Any],
    moment: Callable[[Path, Callable[[], bool]], None],
    *,
    while_writing: bool = False,
) -> dict[str, int]:
    """Counts, over as many runs as the kills take: of resumed runs, how many ended otherwise than one that was never killed.

    ``while_writing``: of the number are only those kills that left a file half written.
    """
    expected = _uninterrupted(**arguments)
    found = {"kills": 0, "runs": 0, "differing_ends": 0, "damaged_loads": 0, "half_written": 0}
    left = number
    while left or not found["runs"]:
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name) / "run"
            while True:
                process = child("flow", directory=str(directory), **arguments)
                lines = _size(directory / "history.jsonl")
                if left:
                    while process.poll() is None and _size(directory / "history.jsonl") <= lines:
                        time.sleep(0.002)
                    moment(directory, lambda process=process: process.poll() is None)
                    process.kill()
                out, error = process.communicate(timeout=_TIMEOUT)
                found["damaged_loads"] += "is damaged" in error
                if process.returncode == 0:
                    found["runs"] += 1
                    found["differing_ends"] += (
                        json.loads(out.splitlines()[-1])["digest"] != expected
                    )
                    break
                if process.returncode != -signal.SIGKILL:
                    raise RuntimeError(
                        f"a run that was killed did not go on: {error.strip()[-2000:]}"
                    )
                half_written = bool(list(directory.glob("*.tmp")))
                found["kills"] += 1
                found["half_written"] += half_written
                left -= half_written or not while_writing
    return found


@functools.cache
def _uninterrupted(**arguments: int) -> str:
    """The digest of a run that nothing befell."""
    return answer(child("flow", directory=None, **arguments))["digest"]


def _until_written(rng: np.random.Generator) -> Callable[[Path, Callable[[], bool]], None]:
    """To some moment at which a temporary file of a checkpoint lies there."""

    def moment(directory: Path, alive: Callable[[], bool]) -> None:
        _wait(rng.uniform(0.0, 0.2), alive)
        while alive() and not list(directory.glob("step-*.tmp")):
            time.sleep(0.0005)
        time.sleep(rng.uniform(0.0, 0.005))

    return moment


def _wait(seconds: float, alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while alive() and time.monotonic() < deadline:
        time.sleep(0.005)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def signals(num_steps: int = 80) -> dict[str, Any]:
    """R10. SIGTERM and Ctrl-C in the middle of a run: exit codes as a shell tells them, and whether the run goes on to the same end."""
    expected = _uninterrupted(num_steps=num_steps)
    found: dict[str, Any] = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name) / "run"
            process = child("flow", directory=str(directory), num_steps=num_steps)
            while process.poll() is None and not _size(directory / "history.jsonl"):
                time.sleep(0.01)
            process.send_signal(number)
            process.communicate(timeout=_TIMEOUT)
            # Python ends of a Ctrl-C as the signal would end it, for which a shell says 130.
            code = process.returncode if process.returncode >= 0 else 128 - process.returncode
            steps = max(int(path.stem.split("-")[1]) for path in directory.glob("*.ckpt"))
            same = (
                answer(child("flow", directory=str(directory), num_steps=num_steps))["digest"]
                == expected
            )
            found[number.name] = {"code": code, "saved_after_step": steps, "same_end": same}
    return found


def disks(num_steps: int = 200, size: int = 128 * 1024) -> dict[str, Any]:
    """R10. A disk that fills up, and one that becomes read-only, under a run: what it says, and whether what was saved goes on."""
    expected = _uninterrupted(num_steps=num_steps)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, _small_disk(Path(name), size) as (disk, kind):
        limit = None if kind == "tmpfs" else size
        process = child("flow", directory=str(disk / "run"), num_steps=num_steps, limit=limit)
        error = process.communicate(timeout=_TIMEOUT)[1]
        found["full disk"] = {
            "by": kind,
            "code": process.returncode,
            "told": last_line(error).replace(name, ""),
        }
        shutil.copytree(disk / "run", Path(name) / "elsewhere")
        found["full disk"]["same_end"] = _ends_in(Path(name) / "elsewhere", num_steps, expected)
    with tempfile.TemporaryDirectory() as name, _small_disk(Path(name), 64 * size) as (disk, kind):
        process = child("flow", directory=str(disk / "run"), num_steps=num_steps)
        while process.poll() is None and not _size(disk / "run" / "history.jsonl"):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=_TIMEOUT)
        before = contents(disk / "run")
        with _read_only(disk, kind) as how:
            process = child("flow", directory=str(disk / "run"), num_steps=num_steps)
            error = process.communicate(timeout=_TIMEOUT)[1]
            unchanged = contents(disk / "run") == before
        same = _ends_in(disk / "run", num_steps, expected)
        told = last_line(error).replace(name, "")
        found["read-only"] = {
            "by": how,
            "code": process.returncode,
            "told": told,
            "unchanged": unchanged,
            "same_end": same,
        }
    return found


def _ends_in(directory: Path, num_steps: int, expected: str) -> bool:
    return (
        answer(child("flow", directory=str(directory), num_steps=num_steps))["digest"] == expected
    )


@contextlib.contextmanager
def _small_disk(parent: Path, size: int) -> Iterator[tuple[Path, str]]:
    """A tmpfs of so many bytes where one may be mounted, and else a directory for whose files ``child`` sets a limit."""
    disk = parent / "disk"
    disk.mkdir()
    mounted = _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk))
    try:
        yield disk, "tmpfs" if mounted else "limit of file size"
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)


@contextlib.contextmanager
def _read_only(disk: Path, kind: str) -> Iterator[str]:
    if kind == "tmpfs":
        _mount("-o", "remount,ro", str(disk))
    else:
        (disk / "run").chmod(0o500)
    try:
        yield "mount" if kind == "tmpfs" else "mode 500"
    finally:
        if kind == "tmpfs":
            _mount("-o", "remount,rw", str(disk))
        else:
            (disk / "run").chmod(0o700)


def _mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0
    except OSError:
        return False


def refusals() -> dict[str, Any]:
    """R11. What a directory says to other runs, and which it lets in."""
    with tempfile.TemporaryDirectory() as name:
        found = answer(child("refusals", directory=f"{name}/run"))
    told = {other: text and text.replace(f"{name}/", "") for other, text in found.items()}
    return {
        "refused": sum(text is not None for text in told.values()),
        "let_in": [o for o, text in told.items() if text is None],
        "told": told,
    }


def memory(points: int, nums_directions: tuple[int, ...]) -> list[dict[str, Any]]:
    """R12. Value and gradient of a million points in the plane: peak MiB of the process."""
    return [kernel.peak_memory(points, number) for number in nums_directions]


def devices(counts: tuple[int, ...] = (1, 2, 4, 8)) -> dict[str, list[dict[str, Any]]]:
    """R16. The same flows on so many devices against one, in float64: as many flows in all (strong), and as many per device (weak)."""
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:

        def arrays(num_devices: int, num_flows: int) -> Mapping[str, np.ndarray]:
            path = Path(name) / f"{num_devices}-{num_flows}.npz"
            if not path.exists():
                answer(
                    child("on_devices", devices=num_devices, path=str(path), num_flows=num_flows)
                )
            return np.load(path)

        for kind, flows_of in (
            ("strong", lambda count: max(counts)),
            ("weak", lambda count: 2 * count),
        ):
            found[kind] = [
                {
                    "devices": count,
                    "flows": flows_of(count),
                    **_compared(arrays(count, flows_of(count)), arrays(1, flows_of(count))),
                }
                for count in counts
            ]
    return found


def collectives(
    num_devices: int, num_points: int = 4096, dim: int = 3, num_directions: int = 64
) -> dict[str, Any]:
    """What is exchanged over so many devices, of flows, directions and points."""
    return answer(
        child(
            "collectives",
            devices=num_devices,
            num_points=num_points,
            dim=dim,
            num_directions=num_directions,
        )
    )


def _compared(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """The largest difference of a value over the largest value, and whether the draws are the same bits."""
    differences = [
        float(np.max(np.abs(found[name] - expected[name])) / np.max(np.abs(expected[name])))
        for name in found
        if name.startswith("value")
    ]
    same = all(
        found[name].tobytes() == expected[name].tobytes()
        for name in found
        if name.startswith("draw")
    )
    return {"difference": max(differences), "same_draws": same}


def peers(heartbeat: float, num_steps: int = 20, num_inner_steps: int = 100) -> dict[str, Any]:
    """R17. Eight flows on two processes of one device each against one process of two; then one of the two is killed, either one."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        sizes = {"heartbeat": heartbeat, "num_steps": num_steps, "num_inner_steps": num_inner_steps}
        alone = child(
            "peer",
            devices=2,
            coordinator="",
            processes=1,
            process=0,
            directory=None,
            path=str(place / "one.npz"),
            **sizes,
        )
        expected = answer(alone)["digest"]
        for process in _pair(place / "whole", str(place / "two.npz"), sizes):
            answer(process)
        found: dict[str, Any] = {
            "against_one": _compared(np.load(place / "two.npz"), np.load(place / "one.npz"))
        }
        for killed in (1, 0):
            directory = place / f"without {killed}"
            pair = _pair(directory, None, sizes)
            while not (directory / "step-0000000003.ckpt").exists():
                time.sleep(0.02)
                if any(process.poll() is not None for process in pair):
                    raise RuntimeError(
                        f"a peer left early: {[process.communicate()[1][-1000:] for process in pair]}"
                    )
            start = time.monotonic()
            pair[killed].kill()
            survivor = pair[1 - killed]
            survivor.communicate(timeout=_TIMEOUT)
            seconds = time.monotonic() - start
            pair[killed].communicate()
            ends = [answer(process)["digest"] for process in _pair(directory, None, sizes)]
            same = ends == [expected, expected]
            found[f"process {killed} killed"] = {
                "survivor_code": survivor.returncode,
                "survivor_seconds": seconds,
                "same_end": same,
            }
    return found


def _pair(
    directory: Path, path: str | None, sizes: Mapping[str, Any]
) -> list[subprocess.Popen[str]]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        coordinator = f"localhost:{probe.getsockname()[1]}"
    common = {
        "coordinator": coordinator,
        "processes": 2,
        "directory": str(directory),
        "path": path,
        **sizes,
    }
    return [child("peer", devices=1, process=process, **common) for process in (0, 1)]


def imports(repeats: int) -> dict[str, Any]:
    """R25. Median seconds of ``import swjko`` in a fresh process, over those of ``import jax`` alone too, and heavy modules it loads."""
    code = "import sys, time; start = time.perf_counter(); import {0}; seconds = time.perf_counter() - start; "
    code += "print(seconds, *[name for name in {1} if name in sys.modules])"

    def fresh(module: str) -> list[str]:
        environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {
            "JAX_PLATFORMS": "cpu"
        }
        command = [sys.executable, "-c", code.format(module, _HEAVY)]
        return subprocess.run(
            command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout.split()

    times: dict[str, list[float]] = {"swjko": [], "jax": []}
    for _ in range(repeats):
        for module, values in times.items():
            values.append(float(fresh(module)[0]))
    seconds = {module: statistics.median(values) for module, values in times.items()}
    absent = "import sys; sys.modules['distrax'] = None; import swjko, swjko.flows"
    works = (
        subprocess.run(
            [sys.executable, "-c", absent], cwd=_ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}
        ).returncode
        == 0
    )
    return {
        "seconds": seconds["swjko"],
        "jax_seconds": seconds["jax"],
        "heavy": fresh("swjko")[1:],
        "works_without_distrax": works,
    }


def checkpoint_cost(num_steps: int, checkpoint_seconds: float) -> dict[str, Any]:
    """A run with checkpoints and one without, alternately: seconds, and the part of a run's seconds that its checkpoints took."""
    found: dict[str, Any] = {}
    for name in ("plain", "saved"):
        with tempfile.TemporaryDirectory() as parent:
            directory = f"{parent}/run" if name == "saved" else None
            arguments = {
                "num_steps": num_steps,
                "checkpoint_seconds": checkpoint_seconds,
                "width": 128,
            }
            found[name] = answer(child("overhead", directory=directory, **arguments))
    saved, plain = found["saved"], found["plain"]
    total = saved["run_seconds"] + saved["spent"]
    return {
        "run_seconds": plain["run_seconds"],
        "run_seconds_with_checkpoints": total,
        "ratio": total / plain["run_seconds"],
        "spent_on_checkpoints": saved["spent"] / total,
        "saves": saved["saves"],
        "one_save_seconds": saved["one_save"],
        "state_bytes": saved["bytes"],
        "one_save_over_30_seconds": saved["one_save"] / 30.0,
    }
