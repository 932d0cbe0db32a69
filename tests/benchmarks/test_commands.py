"""The flow benchmarks in tiny settings: references against oracles, and what they write."""

import json

import jax
import numpy as np
import pytest
import scipy.special

from benchmarks import (
    expectation_propagation,
    fokker_planck,
    logistic_regression,
    posterior_start,
)
from benchmarks.__main__ import main
from swjko import problems
from swjko.data import tables as datasets


@pytest.fixture(autouse=True)
def _promotion_allowed():
    """The peers broadcast as they please."""
    with jax.numpy_rank_promotion("allow"):
        yield


def test_euler_maruyama_reaches_the_law_of_its_chain():
    precision, center = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([1.0, -1.0])
    points = np.asarray(
        fokker_planck._langevin(jax.random.key(0), precision, center, num=4000, num_steps=8000)
    )
    covariance = np.linalg.inv(precision)
    # The steps of 1e-3 are off by 1e-3; 4000 points by more.
    np.testing.assert_allclose(
        points.mean(axis=0), center, atol=4 * np.sqrt(covariance.max() / 4000)
    )
    np.testing.assert_allclose(
        np.cov(points.T), covariance, atol=6 * covariance.max() / np.sqrt(4000)
    )


def test_settings_of_fokker_planck_follow_their_rule():
    for dim in (2, 10, 12, 50, 100):
        settings, _ = fokker_planck.stationary_settings(dim)
        assert settings.num_projections % dim == 0
        assert settings.num_projections >= 64
        settings, _ = fokker_planck.trajectory_settings(dim)
        steps = [time / (dim * settings.step_size) for time in fokker_planck.TIMES]
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
        assert max(steps) == pytest.approx(settings.num_steps)


@pytest.mark.parametrize("separable", [False, True])
def test_expectation_propagation_has_the_moments_and_the_evidence_of_the_posterior(separable):
    """Against sums over a lattice, from a narrow prior to a wide one. In two dimensions a cone is a wedge, as far from normal as can be."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((30, 2))
    labels = np.sign(features @ [1.0, -0.5]) if separable else rng.choice([-1.0, 1.0], 30)
    signed, log_alphas = features * labels[:, None], np.array([1.0, -2.0, -5.0, -9.0])
    for log_alpha, found in zip(
        log_alphas, expectation_propagation.approximations(signed, log_alphas), strict=True
    ):
        centre, scale = found.mean, np.linalg.cholesky(np.linalg.inv(found.precision))
        lattice = np.stack(
            np.meshgrid(*[np.linspace(-9.0, 9.0, 601)] * 2, indexing="ij"), axis=-1
        ).reshape(-1, 2)
        w = centre + lattice @ scale.T
        joint = (
            -np.logaddexp(0.0, -w @ signed.T).sum(axis=1)
            - np.exp(log_alpha) * np.sum(w**2, axis=1) / 2
            + log_alpha
            - np.log(2 * np.pi)
        )
        log_mass = scipy.special.logsumexp(joint)
        evidence = log_mass + 2 * np.log(18.0 / 600) + np.linalg.slogdet(scale)[1]
        assert found.log_evidence == pytest.approx(evidence, abs=0.25 if separable else 0.02)
        law = np.exp(joint - log_mass)
        # In the coordinates of the approximation its mean is 0 and its covariance I.
        np.testing.assert_allclose(law @ lattice, 0.0, atol=0.1 if separable else 0.03)
        if not separable:
            np.testing.assert_allclose(
                np.einsum("n,ni,nj->ij", law, lattice, lattice), np.eye(2), atol=0.1
            )


def test_sigmoid_is_a_mixture_of_probits():
    margins = np.linspace(-30.0, 30.0, 61)
    log_mass, slope, curvature = expectation_propagation._derivatives(margins, np.full(61, 1e-9))
    np.testing.assert_allclose(log_mass, -np.logaddexp(0.0, -margins), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, scipy.special.expit(-margins), atol=1e-5)
    np.testing.assert_allclose(
        curvature, -scipy.special.expit(margins) * scipy.special.expit(-margins), atol=1e-5
    )


def test_points_at_the_start_have_the_posterior_of_their_parameters():
    problem = logistic_regression.make_problem(
        "wine", logistic_regression.load("wine 0 (scikit-learn)", None), 0
    )
    points = np.random.default_rng(1).standard_normal((5, problem.dim))
    points[0, -1], points[1, -1] = 4.5, -4.5
    data = (
        jax.numpy.asarray(array, float) for array in (problem.train.features, problem.train.labels)
    )
    found = jax.numpy.asarray(posterior_start.parameters(problem.start, points), float)
    start = posterior_start.Start(*(jax.numpy.asarray(leaf, float) for leaf in problem.start))
    jacobian = jax.vmap(jax.jacobian(lambda point: posterior_start._from_start(start, point)[0]))(
        jax.numpy.asarray(points, float)
    )
    expected = jax.vmap(problems.logistic_regression(*data))(found) + np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(
        jax.vmap(problem.log_prob())(jax.numpy.asarray(points, float)), expected, rtol=1e-4
    )


def test_posteriors_are_near_the_normal_law_at_the_start():
    rng = np.random.default_rng(3)
    features = rng.standard_normal((200, 4))
    labels = np.where(features @ [1.0, -1.0, 0.5, 0.0] + rng.logistic(size=200) > 0, 1.0, -1.0)
    start = posterior_start.make_start(features, labels)
    points = rng.standard_normal((4000, 5))
    log_prob = jax.vmap(posterior_start.log_prob(start, features, labels))(
        jax.numpy.asarray(points, float)
    )
    log_weights = log_prob + np.sum(points**2, axis=1) / 2
    weights = np.exp(log_weights - np.max(log_weights))
    assert np.sum(weights) ** 2 / np.sum(weights**2) > 0.95 * len(points)


# blackjax imports it.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained:DeprecationWarning")
def test_logistic_regression_compares_with_nuts(tmp_path, capsys):
    pytest.importorskip(
        "blackjax", reason="the reference is that of blackjax: pip install 'swjko[bench]'"
    )
    assert (
        main(
            [
                "logistic_regression",
                "--quick",
                "--sets",
                "wine 0 (scikit-learn)",
                "covtype",
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    content = json.loads((tmp_path / "logistic_regression.json").read_text())
    (row,) = content["rows"]
    assert content["missing"] == ["covtype"]
    assert set(row["methods"]) == set(logistic_regression.METHODS)
    assert {"largest_rhat", "converged", "held-out log-likelihood"} <= set(row["nuts"])
    found = content["summary"]["wine 0 (scikit-learn)"]["methods"]["start"]
    assert found["mean"] == row["methods"]["start"]["mean"]
    assert found["median"] == row["methods"]["start"]["median"]
    assert row["separable"]
    assert found["met"]["mean"] == (found["median"] <= 0.08)
    assert (tmp_path / "logistic_regression.png").stat().st_size > 0
    assert "left out: " in capsys.readouterr().out


def test_separable_rows_are_recognised():
    rng = np.random.default_rng(3)
    features = rng.standard_normal((40, 3))
    labels = np.sign(features @ [1.0, -2.0, 0.5])
    table = datasets.Table(features, labels, ("a", "b", "c"), ("0", "1"))
    assert logistic_regression.separable(table)
    assert not logistic_regression.separable(
        table._replace(features=np.tile(features, (2, 1)), labels=np.append(labels, -labels))
    )


def test_posteriors_are_judged_by_their_worst_split():
    run = {
        "mean": 0.02,
        "smallest_ratio": 0.98,
        "largest_ratio": 1.02,
        "log_likelihood_minus_nuts": 1e-4,
        "run_seconds": 5.0,
    }
    run |= {
        "median": 0.01,
        "smallest_width": 0.99,
        "largest_width": 1.01,
        "compile_seconds": 5.0,
        "held-out accuracy": 0.8,
        "held-out log-likelihood": -0.5,
    }
    rows = [
        {
            "set": "a",
            "seed": 0,
            "separable": False,
            "nuts": {"converged": True, "two_chains_against_two": run},
            "methods": dict.fromkeys(logistic_regression.METHODS, run | change),
        }
        for change in ({}, {"mean": 0.05})
    ]
    (found,) = logistic_regression.summary(rows).values()
    found = found["methods"]
    assert found["sw_jko"]["met"] == {
        "mean": True,
        "ratio": True,
        "seconds": True,
        "log_likelihood": True,
    }
    assert found["sw_jko"]["ambition"] == {"mean": False, "ratio": True, "seconds": True}
    # Without a variance, by the medians, which are 0.01 off, and the widths.
    rows[0]["separable"] = True
    rows[0]["methods"] = rows[0]["methods"] | {
        "Langevin": run | {"largest_ratio": 3.0},
        "start": run | {"smallest_width": 0.9},
    }
    (found,) = logistic_regression.summary(rows).values()
    assert found["methods"]["sw_jko"]["ambition"] == {"mean": True, "ratio": True, "seconds": True}
    assert found["methods"]["Langevin"]["met"]["ratio"]
    assert not found["methods"]["start"]["met"]["ratio"]
    assert found["two_chains_against_two"]["log_likelihood"] == 1e-4
