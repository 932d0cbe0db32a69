"""Exact posteriors of two moons and SLCP, the classifier's accuracy against Bayes', a quick run."""

import json

import jax
import numpy as np
import pytest
import scipy.stats

from benchmarks import sbi, sbi_tasks
from benchmarks.__main__ import main


def test_data_have_the_mean_of_the_crescent_and_the_move():
    parameters = np.tile([[-0.6, -0.1]], (100_000, 1))
    data = sbi_tasks.two_moons(np.random.default_rng(0), parameters)
    # E cos is 2 / pi for angles uniform on (-pi/2, pi/2), and |t1 + t2| is 0.7.
    expected = [0.25 + 0.1 * 2 / np.pi - 0.7 / np.sqrt(2), 0.5 / np.sqrt(2)]
    errors = data.std(axis=0) / np.sqrt(len(data))
    assert np.all(np.abs(data.mean(axis=0) - expected) < 4 * errors)


@pytest.mark.parametrize("observed", [[0.1, 0.2], [-0.9, 0.05], [0.345, -0.05]])
def test_exact_draws_have_the_moments_of_quadrature(observed):
    side = np.linspace(-1.0, 1.0, 1601)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    total, difference = grid.sum(axis=1), grid[:, 1] - grid[:, 0]
    point = np.stack([np.abs(total), -difference], axis=1) / np.sqrt(2) + observed - [0.25, 0]
    radius = np.hypot(*point.T)
    density = scipy.stats.norm.pdf(radius, 0.1, 0.01) / np.maximum(radius, 1e-9)
    density = np.where(point[:, 0] > 0, density, 0.0)
    density /= density.sum()
    draws = sbi_tasks.two_moons_posterior(np.random.default_rng(1), np.array(observed), 20_000)
    assert draws.shape == (20_000, 2)
    for statistic in (
        lambda t: t[:, 0],
        lambda t: t[:, 1],
        lambda t: t[:, 0] ** 2,
        lambda t: t[:, 0] * t[:, 1],
        lambda t: (t.sum(axis=1) > 0).astype(float),
    ):
        values = statistic(draws)
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - density @ statistic(grid)) < 4 * error + 2e-3


@pytest.mark.slow
def test_true_parameters_of_slcp_have_uniform_ranks_among_exact_draws():
    """Simulation-based calibration: the truth is one more draw of the posterior."""
    task, num_data, num_draws = sbi_tasks.TASKS["slcp"], 1000, 31
    rng = np.random.default_rng(3)
    parameters = task.prior(rng, num_data)
    data = task.simulate(rng, parameters)
    assert data.shape == (num_data, 8)
    draws = np.stack([task.exact(rng, one, num_draws) for one in data])
    assert task.inside(draws.reshape(-1, 5)).all()
    for statistic in (lambda t: t, lambda t: np.abs(t), lambda t: np.roll(t, 1, axis=-1) * t):
        ranks = np.sum(statistic(draws) < statistic(parameters)[:, None], axis=1)  # [data 5]
        for column in ranks.T:
            counts = np.bincount(column // 4, minlength=8)
            assert scipy.stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_classifier_reaches_the_accuracy_of_bayes(shift):
    """The best accuracy between N(0, I) and N(shift e_1, I) is Phi(shift / 2)."""
    rng = np.random.default_rng(2)
    exact, points = rng.normal(size=(2, 1000, 2))
    found = sbi.c2st(exact, points + np.array([shift, 0.0]))
    assert found == pytest.approx(scipy.stats.norm.cdf(shift / 2), abs=0.045)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "stem"), [("two_moons", "sbi"), ("slcp", "sbi_slcp")])
def test_quick_run_writes_json_and_figure(tmp_path, task, stem):
    with jax.numpy_rank_promotion("allow"):
        assert main(["sbi", "--quick", "--task", task, "--out", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / f"{stem}.json").read_text())["rows"]
    assert 0.4 < row["c2st"]["mean"] <= 1.0
    assert (tmp_path / f"{stem}.png").stat().st_size > 0
