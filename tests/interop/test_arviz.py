"""Draws as the data of ArviZ, with weights and figures of importance sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import swjko
from swjko.interop import to_arviz

arviz = pytest.importorskip("arviz", reason="arviz is in the extra interop")


@pytest.fixture(scope="module")
def found():
    law = swjko.FlowDistribution(swjko.gaussian(2), swjko.gaussian(2).init(jax.random.key(0)))
    return swjko.importance(jax.random.key(1), law, lambda x: -0.5 * jnp.sum((x - 0.3) ** 2), 200)


def test_draws_keep_their_values_shapes_and_weights(found):
    points = found.cloud.points
    draws = {"mu": points[:, 0], "theta": points[:, :, None]}
    tree = to_arviz(draws, found, dims={"theta": ["school", "year"]})
    assert tree["posterior"]["theta"].dims == ("chain", "draw", "school", "year")
    np.testing.assert_array_equal(tree["posterior"]["mu"].values[0], points[:, 0])
    np.testing.assert_array_equal(tree["sample_stats"]["weight"].values[0], found.cloud.weights)
    figures = tree["posterior"].attrs
    assert figures["pareto_k"] == float(found.pareto_k)
    assert figures["verdict"] == found.verdict
    summary = arviz.summary(tree, kind="stats", round_to="none")
    np.testing.assert_allclose(summary.loc["mu", "mean"], np.mean(points[:, 0]), atol=1e-5)


def test_resampled_draws_have_no_weights(found):
    tree = to_arviz({"x": found.resample(jax.random.key(2), 50)}, found)
    assert tree["posterior"]["x"].shape == (1, 50, 2)
    assert "sample_stats" not in (tree.children if hasattr(tree, "children") else tree.groups())


@pytest.mark.parametrize(
    "draws", [{}, {"a": jnp.zeros(3), "b": jnp.zeros(4)}, {"a": jnp.zeros(())}]
)
def test_draws_of_different_numbers_are_refused(draws):
    with pytest.raises(ValueError, match="draws` must hold arrays of one leading axis"):
        to_arviz(draws)
