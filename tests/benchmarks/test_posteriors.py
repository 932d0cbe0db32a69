"""Benchmark of posteriors: expectation propagation, the start, agreement with NUTS, results."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from benchmarks.__main__ import main
from benchmarks.posteriors import agreement, expectation_propagation, logistic_regression, start
from swjko import problems


@pytest.mark.slow_except_first
@pytest.mark.parametrize("separable", [False, True])
def test_moments_and_evidence_of_expectation_propagation(separable):
    """Against sums over a lattice, from a narrow prior to a wide one.

    If rows are separable, the law is a wedge in the plane, as far from normal as can be.
    """
    rng = np.random.default_rng(0)
    features = rng.standard_normal((30, 2))
    labels = np.sign(features @ [1.0, -0.5]) if separable else rng.choice([-1.0, 1.0], 30)
    signed, log_alphas = features * labels[:, None], np.array([1.0, -2.0, -5.0, -9.0])
    axes = [np.linspace(-9.0, 9.0, 601)] * 2
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    all_found = expectation_propagation.approximations(signed, log_alphas)
    for log_alpha, found in zip(log_alphas, all_found, strict=True):
        scale = np.linalg.cholesky(np.linalg.inv(found.precision))
        w = found.mean + lattice @ scale.T
        log_likelihood = -np.logaddexp(0.0, -w @ signed.T).sum(axis=1)
        log_prior = log_alpha - np.log(2 * np.pi) - np.exp(log_alpha) * np.sum(w**2, axis=1) / 2
        joint = log_likelihood + log_prior
        log_mass = scipy.special.logsumexp(joint)
        evidence = log_mass + 2 * np.log(18.0 / 600) + np.linalg.slogdet(scale)[1]
        assert found.log_evidence == pytest.approx(evidence, abs=0.25 if separable else 0.02)
        law = np.exp(joint - log_mass)
        # In the coordinates of the approximation its mean is 0 and its covariance I.
        np.testing.assert_allclose(law @ lattice, 0.0, atol=0.1 if separable else 0.03)
        if not separable:
            covariance = (lattice * law[:, None]).T @ lattice
            np.testing.assert_allclose(covariance, np.eye(2), atol=0.1)


def test_sigmoid_is_a_mixture_of_probits():
    margins = np.linspace(-30.0, 30.0, 61)
    log_mass, slope, curvature = expectation_propagation.derivatives(margins, np.full(61, 1e-9))
    minus, plus = scipy.special.expit(-margins), scipy.special.expit(margins)
    np.testing.assert_allclose(log_mass, -np.logaddexp(0.0, -margins), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, minus, atol=1e-5)
    np.testing.assert_allclose(curvature, -minus * plus, atol=1e-5)


@pytest.mark.slow
def test_density_in_the_coordinates_of_the_start():
    """It is the posterior of the parameters times the determinant of the derivative."""
    table = logistic_regression.load("wine 0 (scikit-learn)", None)
    problem = logistic_regression.make_problem("wine", table, 0)
    points = np.random.default_rng(1).standard_normal((5, problem.dim))
    points[0, -1], points[1, -1] = 4.5, -4.5
    data = (jnp.asarray(a, float) for a in (problem.train.features, problem.train.labels))
    parameters = jnp.asarray(start.parameters(problem.start, points), float)
    coordinates = start.Start(*(jnp.asarray(leaf, float) for leaf in problem.start))
    points = jnp.asarray(points, float)
    derivative = jax.jacobian(lambda point: start.to_parameters(coordinates, point)[0])
    log_det = np.linalg.slogdet(jax.vmap(derivative)(points))[1]
    expected = jax.vmap(problems.logistic_regression(*data))(parameters) + log_det
    np.testing.assert_allclose(jax.vmap(problem.log_prob())(points), expected, rtol=1e-4)


def test_posterior_is_near_the_normal_law_at_the_start():
    rng = np.random.default_rng(3)
    features = rng.standard_normal((200, 4))
    labels = np.where(features @ [1.0, -1.0, 0.5, 0.0] + rng.logistic(size=200) > 0, 1.0, -1.0)
    found = start.make_start(features, labels)
    points = rng.standard_normal((4000, 5))
    log_prob = jax.vmap(start.log_prob(found, features, labels))(jnp.asarray(points, float))
    log_weights = log_prob + np.sum(points**2, axis=1) / 2
    weights = np.exp(log_weights - np.max(log_weights))
    assert np.sum(weights) ** 2 / np.sum(weights**2) > 0.95 * len(points)


# blackjax imports JAXopt and broadcasts as it pleases.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained:DeprecationWarning")
def test_quick_run_compares_with_nuts(tmp_path, capsys):
    pytest.importorskip("blackjax", reason="NUTS of blackjax: pip install 'swjko[bench]'")
    sets = ["wine 0 (scikit-learn)", "covtype"]
    with jax.numpy_rank_promotion("allow"):
        main(["logistic_regression", "--quick", "--sets", *sets, "--out", str(tmp_path)])
    content = json.loads((tmp_path / "logistic_regression.json").read_text())
    (row,) = content["rows"]
    assert content["missing"] == ["covtype"]
    assert set(row["methods"]) == set(logistic_regression.METHODS)
    assert {"largest_rhat", "converged", "held-out log-likelihood"} <= set(row["nuts"])
    assert row["separable"]
    found = content["summary"][sets[0]]["methods"]["start"]
    for name in ("mean", "median"):
        assert found[name] == row["methods"]["start"][name]
    assert (tmp_path / "logistic_regression.png").stat().st_size > 0
    assert "left out: " in capsys.readouterr().out


def test_separable_rows_are_recognised():
    rng = np.random.default_rng(3)
    features = rng.standard_normal((40, 3))
    labels = np.sign(features @ [1.0, -2.0, 0.5])
    table = problems.Table(features, labels, ("a", "b", "c"), ("0", "1"))
    assert agreement.separable(table)
    both = np.tile(features, (2, 1)), np.append(labels, -labels)
    assert not agreement.separable(table._replace(features=both[0], labels=both[1]))


def test_summary_holds_the_worst_split():
    run = {"mean": 0.02, "smallest_ratio": 0.98, "largest_ratio": 1.02, "median": 0.01}
    run |= {"smallest_width": 0.99, "largest_width": 1.01, "log_likelihood_minus_nuts": 1e-4}
    run |= {"run_seconds": 5.0, "compile_seconds": 5.0}
    run |= {"held-out accuracy": 0.8, "held-out log-likelihood": -0.5}
    worse = run | {"mean": 0.05, "smallest_ratio": 0.9, "largest_width": 1.2, "median": 0.03}
    worse |= {"log_likelihood_minus_nuts": -2e-4, "held-out accuracy": 0.6, "run_seconds": 7.0}
    chains = {"converged": True, "two_chains_against_two": run}
    row = {"set": "a", "seed": 0, "separable": False, "nuts": chains, "methods": {"sw_jko": run}}
    second = row | {"seed": 1, "nuts": chains | {"converged": False}}
    found = agreement.summary([row, second | {"methods": {"sw_jko": worse}}], ["sw_jko"])["a"]
    assert found["splits_without_reference"] == [1]
    assert found["two_chains_against_two"]["log_likelihood"] == 1e-4
    assert found["methods"]["sw_jko"] == {
        "mean": 0.05,
        "ratio": (0.9, 1.02),
        "median": 0.03,
        "width": (0.99, 1.2),
        "log_likelihood": -2e-4,
        "seconds": 12.0,
        "held-out accuracy": pytest.approx(0.7),
        "held-out log-likelihood": -0.5,
    }
