"""``--config report.json`` repeats a run; ``--completion`` prints a script for the shell."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from swjko.cli.config import with_config
from swjko.cli.main import main
from swjko.cli.options import parser
from swjko.cli.terminal import UsageError

TINY = ["--steps", "1", "--inner-steps", "1", "--samples", "8", "--projections", "2"]
MATCH = {
    "steps": 2,
    "step_size": 0.25,
    "inner_steps": 3,
    "samples": 8,
    "projections": 2,
    "learning_rate": 0.003,
    "seed": 7,
    "data": "points.csv",
    "dim": None,
    "scale": "whiten",
    "family": "mlp",
    "columns": ["a, b", "c"],
    "drop_missing": True,
}


def report(path, problem="match", **config):
    path.write_text(json.dumps({"problem": problem, "config": MATCH | config}))
    return str(path)


def options(*argv):
    return with_config(parser().parse_args(argv))


@pytest.mark.slow
def test_a_report_repeats_its_run(tmp_path):
    points = tmp_path / "points.csv"
    rows = np.random.default_rng(0).normal(size=(30, 2))
    np.savetxt(points, rows, delimiter=",", header="a,b", comments="")
    first = ["match", "--data", str(points), "--seed", "3", "--columns", "b,a", *TINY]
    assert main([*first, "--out", str(tmp_path / "one")]) == 0
    written = tmp_path / "one" / "match" / "report.json"
    assert main(["--config", str(written), "--out", str(tmp_path / "two")]) == 0
    one, two = (
        json.loads((tmp_path / run / "match" / "report.json").read_text()) for run in ("one", "two")
    )
    assert one["config"]["seed"] == 3
    for name in ("problem", "config", "history", "energy_end", "figures"):
        assert one[name] == two[name]


def test_options_that_are_given_count_before_those_of_the_report(tmp_path):
    found = options("match", "--config", report(tmp_path / "r.json"), "--steps", "5", "--seed", "0")
    assert (found.steps, found.seed, found.samples) == (5, 0, 8)
    assert found.columns == ("a, b", "c")
    assert found.drop_missing is True
    assert (found.scale, found.step_size, found.dim) == ("whiten", 0.25, None)
    assert options("--config", report(tmp_path / "r.json")).problem == "match"
    assert options("match").seed == 0


def test_an_intercept_stays_left_out(tmp_path):
    config = {name: MATCH[name] for name in ("steps", "learning_rate", "seed")}
    path = tmp_path / "r.json"
    for intercept in (True, False):
        content = {"problem": "posterior", "config": config | {"intercept": intercept}}
        path.write_text(json.dumps(content))
        assert options("--config", str(path)).intercept is intercept
        assert options("posterior", "--config", str(path), "--no-intercept").intercept is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": -1}, "--steps"),
        ({"scale": "log"}, "--scale"),
        ({"wings": 2}, "wings"),
        ({"learning_rate": 0.1}, "learning rate"),
        ({"problem": "posterior"}, "unknown settings"),
        ({"problem": "tea"}, "report.json of a run"),
    ],
)
def test_a_report_that_cannot_be_used_is_refused(change, message, tmp_path):
    path = report(tmp_path / "r.json", **change)
    with pytest.raises(UsageError, match=message):
        options("--config", path)


def test_other_files_and_other_problems_are_refused(tmp_path):
    path = tmp_path / "r.json"
    for content in ("", "[]", '{"problem": "match"}', "[" * 100_000):
        path.write_text(content)
        with pytest.raises(UsageError, match=r"report\.json of a run"):
            options("--config", str(path))
    with pytest.raises(UsageError, match=r"report\.json of a run"):
        options("--config", str(tmp_path))
    with pytest.raises(UsageError, match="got the problem posterior"):
        options("posterior", "--config", report(path))
    assert main(["--config", str(tmp_path / "absent.json")]) == 2


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_a_script_of_the_shell(shell, tmp_path, capsys):
    assert main(["--completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("swjko", "posterior", "--no-intercept"):
        assert word in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script.encode(), check=True, timeout=60)
