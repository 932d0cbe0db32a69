"""Two real processes on one machine: signals, disagreements and deaths."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pair(*own, **common):
    """Start two processes of one run; ``own`` are the arguments that only one of them has."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        common["coordinator"] = f"localhost:{probe.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    environment.pop("JAX_ENABLE_X64", None)
    command = [sys.executable, str(ROOT / "tests" / "drills" / "child.py"), "together"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(
            [*command, json.dumps({**common, "process": process, **arguments}), "0"],
            cwd=ROOT,
            env=environment,
            **pipes,
        )
        for process, arguments in enumerate(own or ({}, {}))
    ]


def ended(processes):
    """The exit code and stderr of each process; none outlives the test."""
    try:
        errors = [process.communicate(timeout=60)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], errors


def wait_for_steps(processes, directory):
    history = directory / "history.jsonl"
    while not (history.exists() and history.stat().st_size):
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "process"), [("SIGTERM", 1), ("SIGHUP", 0), ("SIGINT", 1)])
def test_a_signal_to_one_process_ends_both_after_the_same_saved_step(number, process, tmp_path):
    number, directory = getattr(signal, number), tmp_path / "run"
    processes = pair(checkpoint_dir=str(directory))
    wait_for_steps(processes, directory)
    processes[process].send_signal(number)
    codes, errors = ended(processes)
    # Python ends by the signal itself if nobody catches KeyboardInterrupt.
    expected = {signal.SIGINT: -signal.SIGINT}.get(number, 128 + number)
    assert codes[process] == expected, errors
    assert codes[1 - process] == 143, errors
    steps = len((directory / "history.jsonl").read_text().splitlines())
    assert steps % 10 == 0
    assert (directory / f"step-{steps:010d}.ckpt").exists()
    assert f"stopped after step {steps}, which is saved in {directory}" in errors[0]
