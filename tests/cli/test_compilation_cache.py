"""Where the command line keeps compiled programs, and that no directory can fail a run."""

import os
from pathlib import Path

import pytest

from swjko.cli import compilation_cache, terminal
from swjko.cli import main as command_line
from swjko.cli.compilation_cache import use_compilation_cache

_VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")


@pytest.fixture(autouse=True)
def before_jax(monkeypatch, tmp_path):
    """The environment of a process that has not imported JAX, with a cache directory of its own."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compilation_cache, "jax_is_imported", lambda: False)


def test_programs_are_kept_in_the_cache_directory_of_the_user(tmp_path):
    directory = use_compilation_cache()
    assert directory is not None
    assert directory.parent == tmp_path / "cache" / "swjko"
    assert directory.is_dir()
    assert list(directory.iterdir()) == []
    assert [os.environ[name] for name in _VARIABLES] == [str(directory), "0.2"]
    assert use_compilation_cache() == directory


@pytest.mark.parametrize("cache", ["", "relative/cache"])
def test_without_an_absolute_cache_directory_it_is_below_home(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = use_compilation_cache()
    assert directory is not None
    assert directory.parent == tmp_path / ".cache" / "swjko"


@pytest.mark.parametrize("chosen", ["", "/elsewhere"])
def test_the_choice_of_the_user_stays(chosen, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", chosen)
    assert use_compilation_cache() == (Path(chosen) if chosen else None)
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == chosen
    assert not (tmp_path / "cache").exists()


def test_a_process_that_has_imported_jax_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(compilation_cache, "jax_is_imported", lambda: True)
    assert use_compilation_cache() is None
    assert not set(_VARIABLES) & set(os.environ)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("kind", ["file", "loop", "/proc"])
def test_a_directory_that_cannot_be_written_is_not_used(kind, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / kind))
    assert use_compilation_cache() is None
    assert not set(_VARIABLES) & set(os.environ)


def test_a_missing_home_is_no_failure(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert use_compilation_cache() is None


@pytest.mark.parametrize(("flags", "used"), [([], True), (["--no-cache"], False)])
def test_the_command_line_uses_it_unless_told_otherwise(flags, used, monkeypatch, tmp_path):
    monkeypatch.setattr(command_line, "_execute", lambda job: 0)
    assert command_line.main(["fokker-planck", "--out", str(tmp_path / "o"), *flags]) == 0
    assert (tmp_path / "cache").exists() == used


def test_compilation_is_announced_with_the_directory(monkeypatch, capsys):
    terminal.say_compiling(True)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/kept")
    terminal.say_compiling(True)
    terminal.say_compiling(False)
    assert capsys.readouterr().err.splitlines() == [
        "swjko: compiling (once for each shape) ...",
        "swjko: compiling (once for each shape, kept in /kept for the next run) ...",
    ]
