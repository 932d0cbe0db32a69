"""Values of options, paths and environments that cannot be used: one line, and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import swjko
from swjko.cli import memory, paths
from swjko.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
_TINY = ["--steps", "1", "--inner-steps", "1", "--samples", "4", "--projections", "2"]
_WHOLE = {
    "--steps": (),
    "--inner-steps": (),
    "--samples": (),
    "--projections": (),
    "--seed": (),
    "--dim": ("fokker-planck",),
    "--flows": ("fokker-planck",),
    "--num-processes": ("fokker-planck", "--distributed"),
    "--process-id": ("fokker-planck", "--distributed"),
    "--batch-size": ("generate",),
    "--grid": ("generate",),
}
_REAL = {
    "--step-size": (),
    "--initialization-timeout": ("fokker-planck", "--distributed"),
    "--heartbeat-timeout": ("fokker-planck", "--distributed"),
}
_PATHS = {
    "--out": (),
    "--data": ("match",),
    "--data-dir": ("generate",),
    "--checkpoint-dir": ("generate",),
}
_BAD_NUMBERS = ("", " ", "--", "nan", "inf", "-1", "1e400", "9" * 5000, "\u0663", "\u00b2", "0x10")


def expect_one_line(capsys, *messages: str) -> None:
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("swjko: error: ")
    assert len(line) < 400
    for message in messages:
        assert message in line


def test_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"swjko {swjko.__version__}\n"


@pytest.mark.parametrize("flag", [*_WHOLE, *_REAL])
def test_a_number_that_cannot_be_used_is_refused(flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for value in _BAD_NUMBERS:
        assert main([*(_WHOLE | _REAL)[flag], f"{flag}={value}"]) == 2, value
        expect_one_line(capsys, flag, "must ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", _WHOLE)
def test_a_whole_number_is_whole_and_has_a_limit(flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for value in ("0.5", "1e3", "10000000000", "-0.0"):
        assert main([*_WHOLE[flag], f"{flag}={value}"]) == 2, value
        expect_one_line(capsys, flag, "must be a whole number from")


@pytest.mark.parametrize("flag", _REAL)
def test_a_real_number_is_positive_and_finite_in_float32(flag, capsys):
    for value in ("0", "1e-46", "1e39", "-inf"):
        assert main([*_REAL[flag], f"{flag}={value}"]) == 2, value
        expect_one_line(capsys, flag, "must be a positive number")


def test_a_wait_has_a_limit(capsys):
    assert main(["fokker-planck", "--distributed", "--heartbeat-timeout", "1e30"]) == 2
    expect_one_line(capsys, "--heartbeat-timeout: must be at most 1000000 seconds")


@pytest.mark.parametrize("flag", _PATHS)
@pytest.mark.parametrize("value", ["", "a\0b"], ids=["empty", "null"])
def test_a_path_is_not_empty(flag, value, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*_PATHS[flag], f"{flag}={value}"]) == 2
    expect_one_line(capsys, f"argument {flag}: must be a path")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def awkward(tmp_path, monkeypatch):
    """The current directory, with a file, loops of links, links to nothing and a full directory."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("loop").symlink_to("loop")
    Path("loop.png").symlink_to("loop.png")
    Path("loop.csv").symlink_to("loop.csv")
    Path("dangling").symlink_to("nowhere/at/all")
    Path("folder.csv").mkdir()
    Path("folder.png").mkdir()
    (Path("results") / "match" / "report.json").mkdir(parents=True)
    np.save("images.npy", np.zeros((20, 2, 2), np.uint8))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["match", "--out", "file"], "file is not a writable directory"),
        (["match", "--out", "file/below"], "file is not a writable directory"),
        (["match", "--out", "loop"], "loop is not a writable directory"),
        (["match", "--out", "loop/below"], "loop is not a writable directory"),
        (["match", "--out", "dangling"], "dangling is not a writable directory"),
        (["match", "--out", "/proc/swjko"], "/proc is not a writable directory"),
        (["match", "--out", "x" * 300], "too long"),
        (["match", "--out", "results"], "pass --overwrite or another --out"),
        (["match", "--out", "results", "--overwrite"], "report.json is a directory"),
        (["generate", "--out", "loop.png"], "loop.png exists"),
        (["generate", "--out", "folder.png"], "folder.png is a directory"),
        (["generate", "--out", "loop/s.png"], "loop is not a writable directory"),
        (["generate", "--data", "images.npy", "--checkpoint-dir", "file"], "file is not a"),
        (["generate", "--data", "images.npy", "--checkpoint-dir", "loop"], "loop is not a"),
        (["generate", "--data", "images.npy", "--checkpoint-dir", "/proc/c"], "/proc is not a"),
        (["generate", "--data", "loop"], "loop"),
        (["generate", "--data", "mnist", "--data-dir", "loop"], "loop"),
        (["generate", "--data", "mnist", "--data-dir", "file"], "file"),
        (["match", "--data", "loop.csv"], "loop.csv"),
        (["match", "--data", "folder.csv"], "folder.csv"),
        (["match", "--data", "missing.npy"], "missing.npy"),
        (["match", "--data", "x" * 300], "too long"),
        (["posterior", "--data", "loop.csv", "--label", "y"], "loop.csv"),
        (["posterior", "--data", "folder.csv", "--label", "y"], "folder.csv"),
        (["match", "--data", "images.npy", "--columns", ""], "must be names of columns"),
        (["match", "--data", "images.npy", "--drop-columns", "a\nb"], "must be names of columns"),
        (["posterior", "--one-hot", '"a'], "must be names of columns"),
        (["match", "--columns", "a"], "--columns need --data FILE"),
        (["posterior", "--drop-missing"], "--drop-missing need --data FILE"),
        (["fokker-planck", "--flows", "2", "--coordinator", ""], "needs --distributed"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_path_that_cannot_be_used_is_refused(arguments, message, awkward, capsys):
    before = sorted(awkward.rglob("*"))
    assert main([*arguments, "--no-progress"]) == 2
    expect_one_line(capsys, message)
    assert sorted(awkward.rglob("*")) == before


@pytest.mark.parametrize("problem", ["fokker-planck", "match"])
def test_more_steps_than_memory_holds_are_refused(problem, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "physical_memory", lambda: 2**30)
    arguments = [*_TINY, "--steps", "1000000", "--no-progress", "--out", str(tmp_path)]
    assert main([problem, *arguments]) == 2
    expect_one_line(capsys, "--steps must be at most ", "got 1000000. Reduce --steps.")
    assert list(tmp_path.iterdir()) == []


def test_a_dimension_beyond_memory_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "physical_memory", lambda: 2**30)
    assert main(["fokker-planck", "--dim", "10000", "--out", str(tmp_path)]) == 2
    expect_one_line(capsys, "--steps must be at most ", "Reduce --steps or --dim.")


def test_the_memory_of_the_machine_is_known():
    found = memory.physical_memory()
    assert found is None or found > 2**20


def in_a_process(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command, in which "$SWJKO" is the command line."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment
    variables["SWJKO"] = f"{sys.executable} -m swjko"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_bad_file_is_told_before_jax_is_imported(tmp_path):
    (tmp_path / "bad.csv").write_text("a,b\n1,x\nz,y\n")
    code = """
import sys
from swjko.cli.main import main
code = main(["posterior", "--data", "bad.csv", "--label", "b"])
print(code, sorted({"jax", "flax", "optax", "scipy", "matplotlib"} & set(sys.modules)))
"""
    done = in_a_process(f"{sys.executable} -c '{code}'", tmp_path)
    assert done.stdout.split(maxsplit=1) == ["2", "[]\n"], done.stderr
    assert done.stderr.startswith("swjko: error: bad.csv: line 3, column 'a': 'z'")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("JAX_PLATFORMS", "nonsense", "Change JAX_PLATFORMS, which is 'nonsense', or unset it."),
        ("JAX_ENABLE_X64", "maybe", "JAX cannot be imported"),
    ],
)
def test_an_environment_without_jax_is_told_in_one_line(variable, value, message, tmp_path):
    done = in_a_process("$SWJKO fokker-planck", tmp_path, **{variable: value})
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("swjko: error: JAX cannot ")
    assert message in line


@pytest.mark.slow
def test_the_backend_of_matplotlib_is_of_no_importance(tmp_path):
    code = """
import sys
from swjko.cli import main as module

def stand_in(job):
    from swjko.plots.axes import new_axes
    new_axes(1, (1.0, 1.0))
    return 0

import swjko.cli.execute
swjko.cli.execute.execute = stand_in
print(module.main(["fokker-planck"]))
"""
    (tmp_path / "code.py").write_text(code)
    done = in_a_process(f"{sys.executable} code.py", tmp_path, MPLBACKEND="nonsense")
    assert done.stdout.strip() == "0", done.stderr


def test_a_closed_pipe_ends_quietly(tmp_path):
    # The reader is gone before anything is written.
    command = "{ sleep 1; $SWJKO --help; echo $? >&3; } 3>code | true"
    done = in_a_process(command, tmp_path)
    assert done.stderr == ""
    assert (tmp_path / "code").read_text().strip() == "141"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_told_in_one_line(tmp_path):
    done = in_a_process("$SWJKO --help >/dev/full", tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("swjko: error: ")
    assert "No space left" in line


def test_closed_streams_do_no_harm(tmp_path):
    done = in_a_process("$SWJKO --help >&-; $SWJKO --steps=x 2>&-; echo $?", tmp_path)
    assert done.stdout.splitlines()[-1] == "2"


def test_text_that_the_terminal_cannot_show_is_escaped(tmp_path):
    done = in_a_process("$SWJKO match --data é.csv", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert done.stderr.startswith(r"swjko: error: \xe9.csv: ")


def test_files_beside_a_probe_are_left_alone(tmp_path):
    paths.require_writable(tmp_path / "new" / "below")
    assert list(tmp_path.iterdir()) == []
