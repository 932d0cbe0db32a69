"""Drills in processes of their own: kills, full disks, signals, devices and lost peers."""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import free_port

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
NUM_STEPS = 400


def child(name, *, devices=None, limit=0, **arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_ENABLE_X64", None)
    count = f"--xla_force_host_platform_device_count={devices}"
    environment["XLA_FLAGS"] = "" if devices is None else count
    script = [str(Path(__file__).with_name("child.py")), name, json.dumps(arguments), str(limit)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *script], cwd=ROOT, env=environment, **pipes)


def answer(process):
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error[-2000:]
    return json.loads(out.splitlines()[-1])


def flow(directory, limit=0, **arguments):
    arguments = {"num_steps": NUM_STEPS} | arguments
    return child("flow", directory=directory and str(directory), limit=limit, **arguments)


@functools.cache
def uninterrupted(**arguments):
    return answer(flow(None, **arguments))["digest"]


def size(path):
    return path.stat().st_size if path.exists() else 0


def wait_for_a_step(process, directory, pause=0.002):
    """Wait until the history has grown, or the process has ended."""
    before = size(directory / "history.jsonl")
    while process.poll() is None and size(directory / "history.jsonl") <= before:
        time.sleep(pause)


def kill_and_resume(number, directory, moment, only_while_writing=False, **arguments):
    """Kill a run this often, and count what its last end differs in."""
    found = {"kills": 0, "damaged_loads": 0, "half_written": 0}
    left = number
    while True:
        process = flow(directory, **arguments)
        if left:
            wait_for_a_step(process, directory)
            moment(process)
            process.kill()
        out, error = process.communicate(timeout=600)
        found["damaged_loads"] += "is damaged" in error
        if process.returncode == 0:
            end = json.loads(out.splitlines()[-1])["digest"]
            found["differing_ends"] = int(end != uninterrupted(**arguments))
            found["kills_left"] = left
            return found
        assert process.returncode == -signal.SIGKILL, error[-2000:]
        half_written = bool(list(directory.glob("*.tmp")))
        found["kills"] += 1
        found["half_written"] += half_written
        left -= half_written or not only_while_writing


def test_killed_runs_resume(drill, tmp_path):
    rng = np.random.default_rng(8)

    def until_written(process):
        while process.poll() is None and not list((tmp_path / "cloud").glob("step-*.tmp")):
            time.sleep(0.0005)
        time.sleep(rng.uniform(0.0, 0.005))

    def at_random(process):
        time.sleep(rng.uniform(0.0, 0.5))

    small = kill_and_resume(8, tmp_path / "small", at_random)
    cloud = {"num_points": 500_000, "num_steps": 30}
    writes = kill_and_resume(3, tmp_path / "cloud", until_written, True, **cloud)
    measured = {name: small[name] + writes[name] for name in small}
    drill(
        "R8",
        "kill -9 at random times, and while a checkpoint is written",
        "no damaged load, each resumed run bit for bit as one never killed",
        measured | {"runs": 2, "kills_while_writing": writes["half_written"]},
        not (measured["damaged_loads"] or measured["differing_ends"] or measured["kills_left"]),
    )


def test_signals_save(drill, tmp_path):
    measured = {}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        directory = tmp_path / number.name
        process = flow(directory)
        wait_for_a_step(process, directory)
        process.send_signal(number)
        process.communicate(timeout=600)
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        steps = max(int(path.stem.split("-")[1]) for path in directory.glob("*.ckpt"))
        same = answer(flow(directory))["digest"] == uninterrupted()
        measured[number.name] = {"code": code, "saved_after_step": steps, "same_end": same}
    drill(
        "R10 signals",
        "SIGTERM; Ctrl-C; SIGHUP",
        "saved, exit codes 143, 130 and 129, the same end when run again",
        measured,
        [row["code"] for row in measured.values()] == [143, 130, 129]
        and all(row["same_end"] for row in measured.values()),
    )


def mount(*arguments):
    with contextlib.suppress(OSError):
        return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0
    return False


@contextlib.contextmanager
def small_disk(disk, num_bytes):
    """A tmpfs of this size, where one can be mounted; else a directory, and a limit of files."""
    disk.mkdir()
    mounted = mount("-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(disk))
    try:
        yield "tmpfs" if mounted else "limit of file size"
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)


def failed(process):
    """The exit code and the last line of an error."""
    error = process.communicate(timeout=600)[1]
    lines = [line for line in error.strip().splitlines() if not line.startswith(" ")]
    return {"code": process.returncode, "told": lines[-1] if lines else ""}


def test_full_and_read_only_disks_lose_nothing(drill, tmp_path):
    num_bytes, measured = 96 * 1024, {}
    with small_disk(tmp_path / "full", num_bytes) as kind:
        limit = 0 if kind == "tmpfs" else num_bytes // 2
        run = tmp_path / "full" / "run"
        measured["full disk"] = {"by": kind, **failed(flow(run, limit, num_steps=200))}
        shutil.copytree(run, tmp_path / "copy")
        end = answer(flow(tmp_path / "copy", num_steps=200))["digest"]
        measured["full disk"]["same_end"] = end == uninterrupted(num_steps=200)
    with small_disk(tmp_path / "locked", 64 * num_bytes) as kind:
        run = tmp_path / "locked" / "run"
        process = flow(run)
        wait_for_a_step(process, run)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=600)
        before = {path.name: path.read_bytes() for path in run.iterdir()}
        if kind == "tmpfs":
            mount("-o", "remount,ro", str(run.parent))
        else:
            run.chmod(0o500)
        row = {"by": kind, **failed(flow(run))}
        row["unchanged"] = {path.name: path.read_bytes() for path in run.iterdir()} == before
        if kind == "tmpfs":
            mount("-o", "remount,rw", str(run.parent))
        else:
            run.chmod(0o700)
        row["same_end"] = answer(flow(run))["digest"] == uninterrupted()
        measured["read-only"] = row
    drill(
        "R10 disks",
        "a full disk; a read-only one",
        "exit code 1 and an error, what was saved goes on to the same end",
        measured,
        measured["read-only"]["unchanged"]
        and all(
            row["code"] == 1 and row["same_end"] and "CheckpointError" in row["told"]
            for row in measured.values()
        ),
    )


def compared(found, expected):
    """The largest relative difference of a value, and whether the draws are the same bits."""
    differences = [
        float(np.max(np.abs(found[name] - expected[name])) / np.max(np.abs(expected[name])))
        for name in found
        if name.startswith("value")
    ]
    draws = [name for name in found if name.startswith("draw")]
    same = all(found[name].tobytes() == expected[name].tobytes() for name in draws)
    return {"difference": max(differences), "same_draws": same}


def test_devices_do_not_change_results(drill, tmp_path):
    @functools.cache
    def arrays(devices, num_flows):
        path = str(tmp_path / f"{devices}-{num_flows}.npz")
        answer(child("on_devices", devices=devices, path=path, num_flows=num_flows))
        return np.load(path)

    counts = (1, 2, 4, 8)
    flows = {"strong": lambda count: 8, "weak": lambda count: 2 * count}
    measured = {
        kind: [
            {"devices": count, "flows": number(count)}
            | compared(arrays(count, number(count)), arrays(1, number(count)))
            for count in counts
        ]
        for kind, number in flows.items()
    }
    drill(
        "R16",
        "1 to 8 devices against one, float64",
        "values to 1e-12, draws bitwise",
        measured,
        all(
            row["difference"] <= 1e-12 and row["same_draws"]
            for rows in measured.values()
            for row in rows
        ),
    )


def test_flows_exchange_nothing(drill):
    sizes = {"num_points": 4096, "dim": 3, "num_directions": 64}
    measured = answer(child("collectives", devices=8, **sizes))
    once = {"collectives": {"all-reduce": 1}, "bytes": 4 + 4 * 4096 * 3}
    drill(
        "collectives",
        "what devices exchange, by the compiled programs",
        "flows nothing; sharded directions one all-reduce of value and gradient",
        measured,
        measured["flows"] == {"collectives": {}, "bytes": 0} and measured["directions"] == once,
    )


def pair(directory, path=None, **sizes):
    """Two processes that run eight flows together."""
    common = {
        "coordinator": f"localhost:{free_port()}",
        "processes": 2,
        "directory": str(directory),
    }
    common |= {"path": path, "devices": 1, **sizes}
    return [child("peer", process=process, **common) for process in (0, 1)]


def wait_for_a_chunk(processes, directory):
    while not size(directory / "history.jsonl"):
        assert all(process.poll() is None for process in processes), "a peer ended early"
        time.sleep(0.02)


def test_a_signal_to_one_of_two_processes_ends_both(drill, tmp_path):
    sizes = {"heartbeat": 10.0, "num_steps": 100_000, "num_inner_steps": 50, "chunk_size": 10}
    measured = {}
    for signalled in (0, 1):
        directory = tmp_path / f"to {signalled}"
        processes = pair(directory, **sizes)
        wait_for_a_chunk(processes, directory)
        start = time.monotonic()
        processes[signalled].send_signal(signal.SIGTERM)
        codes = [failed(process)["code"] for process in processes]
        saved = [int(path.stem.split("-")[1]) for path in directory.glob("step-*.ckpt")]
        steps = len((directory / "history.jsonl").read_text().splitlines())
        measured[f"SIGTERM to process {signalled}"] = {
            "codes": codes,
            "seconds": time.monotonic() - start,
            "all_steps_saved": max(saved) == steps,
        }
    drill(
        "R10 of two",
        "SIGTERM to one of two processes, chunks of ten steps",
        "both end within 5 s with exit code 143, with their last step saved",
        measured,
        all(
            row["codes"] == [143, 143] and row["seconds"] <= 5 and row["all_steps_saved"]
            for row in measured.values()
        ),
    )


def test_a_lost_peer_ends_the_run_and_it_resumes(drill, tmp_path):
    heartbeat = 10.0
    sizes = {"heartbeat": heartbeat, "num_steps": 12, "num_inner_steps": 50}

    alone = {"coordinator": "", "processes": 1, "process": 0, "directory": None}
    one, two = str(tmp_path / "one.npz"), str(tmp_path / "two.npz")
    expected = answer(child("peer", devices=2, path=one, **alone, **sizes))["digest"]
    for process in pair(tmp_path / "whole", two, **sizes):
        answer(process)
    measured = {"against_one": compared(np.load(two), np.load(one))}
    for killed in (1, 0):
        directory = tmp_path / f"without {killed}"
        processes = pair(directory, **sizes)
        while not (directory / "step-0000000003.ckpt").exists():
            assert all(process.poll() is None for process in processes), "a peer ended early"
            time.sleep(0.02)
        start = time.monotonic()
        processes[killed].kill()
        code = failed(processes[1 - killed])["code"]
        row = {"survivor_code": code, "survivor_seconds": time.monotonic() - start}
        processes[killed].communicate()
        ends = [answer(process)["digest"] for process in pair(directory, **sizes)]
        measured[f"process {killed} killed"] = row | {"same_end": ends == [expected, expected]}
    rows = [row for name, row in measured.items() if name != "against_one"]
    drill(
        "R17",
        "two processes against one; one of them killed",
        "values to 1e-6, draws bitwise; the other leaves within the heartbeat and 5 s, "
        "and the run goes on to the same end",
        measured,
        measured["against_one"]["difference"] <= 1e-6
        and measured["against_one"]["same_draws"]
        and all(row["survivor_code"] and row["same_end"] for row in rows)
        and all(row["survivor_seconds"] <= heartbeat + 5 for row in rows),
    )


def test_checkpoints_cost_little(drill, tmp_path):
    sizes = {"num_steps": 1000, "seconds": 30.0}
    plain = answer(child("cost", directory=None, **sizes))
    saved = answer(child("cost", directory=str(tmp_path / "run"), **sizes))
    total = saved["run_seconds"] + saved["spent"]
    measured = {
        "run_seconds": plain["run_seconds"],
        "run_seconds_with_checkpoints": total,
        "ratio": total / plain["run_seconds"],
        "spent_on_checkpoints": saved["spent"] / total,
        "saves": saved["saves"],
        "one_save_seconds": saved["one_save"],
        "state_bytes": saved["bytes"],
        "one_save_over_30_seconds": saved["one_save"] / 30.0,
    }
    drill(
        "checkpoints",
        "checkpoints each 30 s in a run of a minute or more",
        "under 2 % of the run's seconds",
        measured,
        measured["spent_on_checkpoints"] < 0.02,
    )
