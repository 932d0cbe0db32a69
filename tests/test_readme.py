"""The code of the README runs, and its links lead somewhere."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pages import ROOT, blocks, run, shrunk

import swjko

README = (ROOT / "README.md").read_text()
FIRST, SECOND = (block.code for block in blocks(README))


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


def test_examples_run(as_a_user):
    names = run([shrunk(FIRST), SECOND], "README.md")
    assert names["cloud"].points.shape == names["gradient"].shape == (2000, 2)
    directions = swjko.orthogonal_directions(jax.random.key(5), 2000, 2)
    other = swjko.sliced_wasserstein_pow(names["x"], names["y"], directions)
    assert abs(float(names["value"] - other)) < 0.05 * float(other) + 1e-3
    assert bool(jnp.all(jnp.isfinite(names["gradient"])))
