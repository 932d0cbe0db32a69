"""The code of the README runs, and its links lead somewhere."""

import re

import jax
import numpy as np
import pytest
from pages import ROOT, blocks, run, shrunk

import swjko

README = (ROOT / "README.md").read_text()
(FIRST,) = (block.code for block in blocks(README))


@pytest.fixture
def as_a_user():
    """Users have no strict rank promotion."""
    with jax.numpy_rank_promotion("allow"):
        yield


def test_links_to_files_lead_somewhere():
    targets = re.findall(r"\]\(((?!http)[^)]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.slow
def test_first_example_runs_as_printed(as_a_user):
    names = run([FIRST], "README.md")
    solution, cloud = names["solution"], names["cloud"]
    assert solution.result == swjko.Result.OK
    assert cloud.points.shape == (2000, 2)
    # KL(mu | nu) at the end: the energy above its minimum, -log int exp(-V), by quadrature.
    grid = np.linspace(-5.0, 5.0, 20_001)
    log_normaliser = 2 * np.log(np.trapezoid(np.exp(-((grid**2 - 1) ** 2)), grid))
    potential = np.sum((np.asarray(cloud.points) ** 2 - 1) ** 2, axis=1)
    divergence = np.mean(np.asarray(cloud.log_density) + potential) + log_normaliser
    assert -0.02 < divergence < 0.05


def test_example_runs(as_a_user):
    names = run([shrunk(FIRST)], "README.md")
    assert names["cloud"].points.shape == (2000, 2)


def test_fits_on_three_screens():
    """At most 120 lines of 100 columns; the documentation is linked before the picture."""
    lines = README.splitlines()
    assert len(lines) <= 120
    assert [line for line in lines if len(line) > 100] == []
    first_screen = README.partition("![")[0]
    assert "[**Documentation**](docs/index.md)" in first_screen
    assert "$" not in README.partition("## Use")[0]


def test_set_up_commands_are_those_of_the_checks():
    """`.ci/run` and users start from the same two lines."""
    set_up = "python3 -m venv .venv && .venv/bin/pip install -e "
    assert f"\n{set_up}'.[cli]' && .venv/bin/python -m swjko\n" in README
    tested = f"\n{set_up}'.[test]' && .venv/bin/python -m pytest\n"
    assert tested in README
    assert tested in (ROOT / ".ci" / "run").read_text().replace("install -q", "install")
