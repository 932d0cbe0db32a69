"""Many Fokker-Planck flows from the command line, alone and in several processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import free_port, run_cli

from swjko.cli import many
from swjko.cli.fokker_planck import fokker_planck
from swjko.cli.main import main
from swjko.cli.settings import FOKKER_PLANCK

_TINY = ["--dim", "1", "--steps", "2", "--inner-steps", "2", "--samples", "16"]
_TINY += ["--projections", "4", "--no-progress"]


def report_in(directory):
    return json.loads((directory / "fokker-planck" / "report.json").read_text())


@pytest.mark.slow
def test_each_flow_is_the_run_of_its_seed(tmp_path, capsys):
    assert (
        run_cli(
            f"fokker-planck --flows 8 --seed 3 --out {tmp_path} --checkpoint-dir {tmp_path / 'c'}",
            *_TINY,
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "8 of 8 flows OK on 8 devices of 1 processes" in printed
    found = report_in(tmp_path)
    assert [flow["seed"] for flow in found["flows"]] == list(range(3, 11))
    assert {flow["result"] for flow in found["flows"]} == {"OK"}
    settings = FOKKER_PLANCK._replace(steps=2, inner_steps=2, samples=16, projections=4)
    alone = fokker_planck(settings, seed=5, dim=1, progress=False)
    of_seed = found["flows"][2]
    for name in ("energy_start", "energy_end"):
        assert of_seed[name] == pytest.approx(getattr(alone, name)._asdict(), rel=1e-5)
    assert of_seed["reference"] == pytest.approx(alone.reference)
    assert of_seed["verdict"]["fit"] == alone.verdict.fit
    assert of_seed["verdict"]["rule"] == alone.verdict.rule
    divergence = found["spread"]["SymKL"]
    assert divergence["least"] <= alone.figures["SymKL against the exact SW-JKO step"].value
    num_good = sum(flow["verdict"]["fit"] == "good" for flow in found["flows"])
    assert f"{num_good} of 8 fits good (good if SymKL against " in printed
    errors = [flow["energy_end"]["value"] - flow["reference"] for flow in found["flows"]]
    assert [flow["error"] for flow in found["flows"]] == pytest.approx(errors)
    assert found["spread"]["error"]["standard_deviation"] == pytest.approx(np.std(errors, ddof=1))
    assert np.shape(found["history"]["energy"]) == (8, 2)
    # Once more, from the checkpoints of the finished run.
    assert (
        run_cli(
            f"fokker-planck --flows 8 --seed 3 --out {tmp_path}/o --checkpoint-dir {tmp_path}/c",
            *_TINY,
        )
        == 0
    )
    assert report_in(tmp_path / "o")["flows"] == found["flows"]


@pytest.mark.slow
def test_a_failed_flow_is_told_and_is_code_1(tmp_path, capsys):
    assert run_cli(f"fokker-planck --flows 8 --step-size 1e-37 --out {tmp_path}", *_TINY) == 1
    assert "0 of 8 flows OK" in capsys.readouterr().out
    assert all(
        flow["result"] in ("DIVERGED", "NON_FINITE") for flow in report_in(tmp_path)["flows"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--flows", "0"], "--flows: must be a whole number from 1"),
        (["--flows", "2", "--seed", str(2**32 - 1)], "must be at most 4294967295"),
        (["--flows", "2", "--process-id", "0"], "--process-id needs --distributed"),
        (["--process-id", "0"], "--process-id needs --distributed"),
        (["--num-processes", "2"], "--num-processes needs --distributed"),
        (["--coordinator", "node0:1234"], "--coordinator needs --distributed"),
        (["--initialization-timeout", "9"], "--initialization-timeout needs --distributed"),
        (["--flows", "2", "--heartbeat-timeout", "9"], "--heartbeat-timeout needs --distributed"),
        (["--checkpoint-dir", "c"], "--checkpoint-dir needs --flows N"),
        (["--distributed", "--process-id", "-1"], "--process-id: must be a whole number from 0"),
        (
            ["--distributed", "--heartbeat-timeout", "0"],
            "--heartbeat-timeout: must be a positive number",
        ),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fokker-planck", *_TINY, *arguments]) == 2
    assert re.fullmatch(rf"swjko: error: .*{re.escape(message)}.*\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_spread_is_over_finite_values():
    assert many.spread(np.array([1.0, np.nan, 3.0])) == {
        "mean": 2.0,
        "standard_deviation": np.sqrt(2),
        "least": 1.0,
        "largest": 3.0,
    }
    assert many.spread(np.array([np.inf])) == {}


def started(arguments, **options):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {
        "JAX_PLATFORMS": "cpu"
    }
    command = [sys.executable, "-m", "swjko", "fokker-planck", *_TINY, *arguments]
    return subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.slow
def test_a_peer_that_does_not_come_is_one_line_and_code_2(tmp_path):
    arguments = [
        "--distributed",
        "--num-processes",
        "2",
        "--process-id",
        "0",
        "--initialization-timeout",
        "0.5",
    ]
    process = started(
        [*arguments, "--coordinator", f"localhost:{free_port()}", "--out", str(tmp_path / "runs")]
    )
    out, error = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, "")
    assert re.fullmatch(
        r"swjko: error: process 1 of 2 did not come to localhost:\d+ within 0\.5 seconds\..*\n",
        error,
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_write_what_one_does(tmp_path):
    common = ["--flows", "4", "--seed", "3"]
    alone = started([*common, "--out", str(tmp_path / "one")])
    alone.communicate(timeout=600)
    assert alone.returncode == 0
    coordinator = f"localhost:{free_port()}"
    shared = [
        "--distributed",
        "--coordinator",
        coordinator,
        "--num-processes",
        "2",
        "--checkpoint-dir",
        str(tmp_path / "c"),
    ]
    pair = [
        started([*common, *shared, "--out", str(tmp_path / "two"), "--process-id", str(process)])
        for process in (0, 1)
    ]
    (out, error), (silent, _) = (process.communicate(timeout=600) for process in pair)
    assert [process.returncode for process in pair] == [0, 0], error
    assert "4 of 4 flows OK on 2 devices of 2 processes" in out
    assert "flows OK" not in silent
    one, two = report_in(tmp_path / "one"), report_in(tmp_path / "two")
    for single, paired in zip(one["flows"], two["flows"], strict=True):
        assert paired["energy_end"]["value"] == pytest.approx(
            single["energy_end"]["value"], rel=1e-6
        )
        assert paired["seed"] == single["seed"]
    assert (tmp_path / "c" / "step-0000000002.arrays").is_dir()
