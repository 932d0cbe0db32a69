"""The README does what it says: its code runs as printed, its commands are those of .ci/run, its links lead somewhere."""

import re

import jax
import numpy as np
import pytest
from pages import ROOT, blocks, run, shrunk

import swjko
from swjko import flows

README = (ROOT / "README.md").read_text()
BLOCKS = [block.code for block in blocks(README)]
RUN = "python3 -m venv .venv && .venv/bin/pip install -e '.[cli]' && .venv/bin/python -m swjko"
TEST = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest"


@pytest.fixture
def as_a_user():
    """Users have no strict rank promotion."""
    with jax.numpy_rank_promotion("allow"):
        yield


def test_length():
    assert len(README.splitlines()) < 150


def test_commands_are_those_that_are_checked():
    commands = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    assert commands == [RUN, TEST]
    # Quietness apart, which is for the log's sake.
    checks = [
        line.replace("pip install -q ", "pip install ")
        for line in (ROOT / ".ci" / "run").read_text().splitlines()
    ]
    assert TEST in checks


def test_links_to_files_lead_somewhere():
    targets = [
        target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("http")
    ]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_picture_is_small():
    assert all(picture.stat().st_size <= 150_000 for picture in (ROOT / "docs").glob("*.png"))


def test_tables_name_what_exists():
    names = re.findall(
        r"`([\w.]+)\(",
        "\n".join(line.split("|")[1] for line in README.splitlines() if line.startswith("| `")),
    )
    assert {"potential", "flows.coupling"} <= set(names)
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert callable(getattr(flows if module else swjko, attribute))


@pytest.mark.slow
def test_first_example_runs_as_printed(as_a_user):
    names = run(BLOCKS[:1], "README.md")
    solution, cloud = names["solution"], names["cloud"]
    assert solution.result == swjko.Result.OK
    assert cloud.points.shape == (2000, 2)
    # KL(mu | nu) at the end: the energy above its least value, -log of the integral of exp(-V), a product over coordinates.
    grid = np.linspace(-5.0, 5.0, 20_001)
    log_normaliser = 2 * np.log(np.trapezoid(np.exp(-((grid**2 - 1) ** 2)), grid))
    divergence = (
        np.mean(
            np.asarray(cloud.log_density) + np.sum((np.asarray(cloud.points) ** 2 - 1) ** 2, axis=1)
        )
        + log_normaliser
    )
    assert -0.02 < divergence < 0.05


def test_first_example_runs(as_a_user):
    names = run([shrunk(BLOCKS[0])], "README.md")
    assert names["cloud"].points.shape == (2000, 2)


def test_other_examples_run_as_printed(as_a_user, capsys):
    imports = "import jax, jax.numpy as jnp, optax, swjko\nfrom swjko import flows\n"
    start = imports + "cloud = swjko.Cloud(jnp.linspace(-1.0, 1.0, 400).reshape(200, 2))"
    names = run([start, *BLOCKS[1:]], "README.md")
    out = capsys.readouterr().out
    assert out.count("OK") == 1
    # The estimate that is printed agrees with the value over other directions.
    value, error = map(
        float, re.search(r"value=Array\(([\d.]+).*standard_error=Array\(([\d.]+)", out).groups()
    )
    assert abs(value - float(names["value"])) < 5 * error
    assert names["gradient"].shape == (200, 2)
    # int rho^2 of N(0, I) in the plane is 1/(4 pi).
    standard = swjko.gaussian(2)
    value, error = swjko.evaluate(
        jax.random.key(5),
        standard,
        names["renyi_energy"],
        standard.init(jax.random.key(6)),
        num_samples=1000,
    )
    assert abs(float(value) - 1 / (4 * np.pi)) < 5 * float(error)
