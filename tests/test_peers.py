"""Two real processes on one machine: signals, disagreements and deaths."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import free_port

ROOT = Path(__file__).resolve().parents[1]


def pair(*own, **common):
    """Start two processes of one run; ``own`` are the arguments that only one of them has."""
    common["coordinator"] = f"localhost:{free_port()}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    environment.pop("JAX_ENABLE_X64", None)
    command = [sys.executable, str(ROOT / "tests" / "drills" / "child.py"), "together"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(
            [*command, json.dumps(common | {"process": process} | arguments), "0"],
            cwd=ROOT,
            env=environment,
            **pipes,
        )
        for process, arguments in enumerate(own or ({}, {}))
    ]


def ended(processes):
    """Exit codes, stderr and last lines of the processes; none outlives the test."""
    try:
        texts = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    answers = [out.splitlines()[-1:] for out, _ in texts]
    return codes, [error for _, error in texts], answers


def wait_for_steps(processes, directory):
    history = directory / "history.jsonl"
    while not (history.exists() and history.stat().st_size):
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.02)


@pytest.mark.slow_except_first
@pytest.mark.parametrize(("number", "process"), [("SIGTERM", 1), ("SIGHUP", 0), ("SIGINT", 1)])
def test_a_signal_to_one_process_ends_both_after_the_same_saved_step_and_they_resume(
    number, process, tmp_path
):
    number, directory = getattr(signal, number), tmp_path / "run"
    processes = pair(runs=[{"checkpoint_dir": str(directory)}])
    wait_for_steps(processes, directory)
    processes[process].send_signal(number)
    codes, errors, _ = ended(processes)
    # Python ends by the signal itself if nobody catches KeyboardInterrupt.
    expected = {signal.SIGINT: -signal.SIGINT}.get(number, 128 + number)
    assert codes[process] == expected, errors
    assert codes[1 - process] == 143, errors
    steps = len((directory / "history.jsonl").read_text().splitlines())
    assert steps % 10 == 0
    assert (directory / f"step-{steps:010d}.ckpt").exists()
    assert f"stopped after step {steps}, which is saved in {directory}" in errors[0]
    # Both go on from the saved step.
    processes = pair(runs=[{"checkpoint_dir": str(directory), "num_steps": steps + 20}])
    codes, errors, _ = ended(processes)
    assert codes == [0, 0], errors
    assert len((directory / "history.jsonl").read_text().splitlines()) == steps + 20


@pytest.mark.slow
def test_processes_that_differ_are_told_before_they_compile(tmp_path):
    directory, other = str(tmp_path / "one"), str(tmp_path / "two")
    where = "%s on process 0, %s on process 1"
    differences = [
        ({"num_inner_steps": 3}, "scheme.num_inner_steps: " + where % (2, 3)),
        ({"num_inner_steps": 3, "many": True}, "scheme.num_inner_steps: " + where % (2, 3)),
        ({"num_steps": 5}, "num_steps: " + where % (4, 5)),
        ({"chunk_size": 5}, "chunk_size: " + where % (10, 5)),
        ({"checkpoint_dir": directory}, "checkpoint_dir: " + where % (None, directory)),
        ({"chunk_size": 0}, "process 1 has failed: ValueError: chunk_size must be at least 1"),
    ]
    common = {"num_steps": 4, "num_inner_steps": 2}
    runs = [[common | {"many": "many" in own} for own, _ in differences]]
    runs += [[common | own for own, _ in differences]]
    for own, directories in zip(runs, (other, directory), strict=True):
        own += [common | {"checkpoint_dir": directories}, {}]
    differences.append(({}, "checkpoint_dir: " + where % (other, directory)))
    processes = pair(*({"runs": own} for own in runs))
    codes, errors, answers = ended(processes)
    assert codes == [0, 0], errors
    told = zip(differences, *(json.loads(line) for (line,) in answers), strict=True)
    for (own, message), first, second in told:
        assert first.startswith("DistributedError: "), own
        assert message in first
        assert message.removeprefix("process 1 has failed: ") in second
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_fails_alone_ends_the_other_with_its_reason(process, tmp_path):
    directory = tmp_path / "run"
    run = {"fails": process, "checkpoint_dir": str(directory), "checkpoint_steps": 10}
    codes, errors, _ = ended(pair(runs=[run]))
    assert codes == [1, 1], errors
    assert errors[process].splitlines()[-1] == "ZeroDivisionError: only here"
    reason = f"process {process} has failed: ZeroDivisionError: only here. What was saved in"
    assert f"{reason} {directory} is intact" in errors[1 - process]
    assert "Check failure stack trace" not in errors[1 - process]
    # The step at which it failed was not saved.
    assert max(directory.glob("step-*.ckpt")).name == "step-0000000010.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_with_an_error_of_the_package(killed, tmp_path):
    directory = tmp_path / "run"
    processes = pair(runs=[{"checkpoint_dir": str(directory), "checkpoint_steps": 10}])
    wait_for_steps(processes, directory)
    processes[killed].kill()
    start = time.monotonic()
    codes, errors, _ = ended(processes)
    assert time.monotonic() - start < 5
    assert codes[killed] == -signal.SIGKILL
    error = errors[1 - killed]
    assert codes[1 - killed] == 1, error
    last = error.splitlines()[-1]
    assert f"process {killed} has ended or cannot be reached. What was saved in" in last
    assert f"{directory} is intact. Start all processes again." in last
    # The traces of C++.
    assert "coordination" not in error
