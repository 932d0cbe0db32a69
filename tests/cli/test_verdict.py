"""Verdicts, and what is said about a flow that does not fit."""

import numpy as np
import pytest

from swjko import Estimate
from swjko.cli import posterior_report
from swjko.cli.flow import Flow, unlike_clouds
from swjko.cli.verdict import Check, judge

HOLDS = Check(True, "a holds", "a fails")
FAILS = Check(False, "b holds", "b fails")
UNKNOWN = Check(None, "c holds", "c is not known")


@pytest.mark.parametrize(
    ("checks", "fit", "reasons"),
    [
        ([HOLDS], "good", ()),
        ([HOLDS, FAILS], "poor", ("b fails", "try this")),
        ([UNKNOWN, FAILS], "poor", ("b fails", "c is not known", "try this")),
        ([HOLDS, UNKNOWN], "unknown", ("c is not known",)),
    ],
)
def test_a_verdict_needs_all_conditions(checks, fit, reasons):
    verdict = judge(checks, "try this")
    assert verdict[:2] == (fit, reasons)
    assert all(check.rule in verdict.rule for check in checks)


@pytest.mark.parametrize(
    ("energies", "error", "advice"),
    [
        (np.linspace(10.0, 0.0, 21), 0.01, "more --steps"),
        (10.0 * np.exp(-np.arange(21.0)), 0.01, "more --inner-steps"),
        (np.linspace(0.1, 0.0, 21), 1.0, "more --inner-steps"),
    ],
)
def test_advice_follows_from_whether_the_energy_still_falls(energies, error, advice):
    flow = Flow(None, None, Estimate(energies, np.full(21, error)), None, None)
    assert advice in flow.advice


def test_clouds_that_are_drawn_look_different():
    points = np.random.default_rng(0).normal(size=(1, 9, 2))
    way = 1.0 - 0.5 ** np.arange(21.0)
    # Of all steps, those that are nearest to equal parts of the way.
    assert unlike_clouds(points * way[:, None, None]).tolist() == [0, 1, 2, 20]
    assert unlike_clouds(points * np.linspace(0, 1, 9)[:, None, None]).tolist() == [0, 2, 4, 6, 8]
    there_and_back = np.array([0.0, 1.0, 2.0, 1.0, 0.0])
    assert unlike_clouds(points + there_and_back[:, None, None]).tolist() == [0, 1, 2, 4]
    assert unlike_clouds(points + np.array([0.0, 1.0])[:, None, None]).tolist() == [0, 1]
    assert unlike_clouds(points + np.zeros((5, 1, 1))).tolist() == [0, 4]
    assert unlike_clouds(points).tolist() == [0]


@pytest.mark.parametrize(
    ("difference", "error", "passed"),
    [(0.0, 0.001, True), (0.0, 0.02, None), (-0.02, 0.001, False), (-0.02, 0.1, False)],
)
def test_predictions_are_compared_within_the_noise_of_held_out_rows(difference, error, passed):
    figures = {
        "held-out log-likelihood": -0.5 + difference,
        "held-out log-likelihood of LogisticRegressionCV": -0.5,
        "standard error of the difference of both log-likelihoods": error,
    }
    check = posterior_report._against_reference(figures, "on 40 held-out rows")
    assert check.passed is passed
    assert posterior_report._against_reference({"held-out log-likelihood": -0.5}, "").passed is None
