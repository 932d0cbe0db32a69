"""The verdict of ``match``: columns, correlations and distances."""

import numpy as np
import pytest

from swjko.cli import match_report
from swjko.cli.match_report import Comparison


def test_correlations_show_along_principal_components():
    rng = np.random.default_rng(0)
    cov = np.array([[1.0, 0.95], [0.95, 1.0]])
    points = rng.multivariate_normal(np.zeros(2), cov, 20_000)
    draws = rng.normal(size=(20_000, 2))
    found = match_report.component_ratios(draws, points)
    # Variances 0.05 and 1.95 of the points, and 1 of the draws.
    np.testing.assert_allclose(found, 1 / np.sqrt([0.05, 1.95]), rtol=0.03)
    shifts, ratios = match_report.moments(draws, points)
    same = np.linspace(0.0, 1.0, 8)
    verdict = match_report.verdict("ab", Comparison(shifts, ratios, found, same, same), "")
    assert verdict.fit == "poor"
    assert verdict.reasons[0].startswith("the deviation along a principal component is wrong by")
    assert "a factor of 4." in verdict.reasons[0]
    exact = match_report.component_ratios(points[::2], points)
    assert (
        match_report.verdict("ab", Comparison(shifts, ratios, exact, same, same), "").fit == "good"
    )


def test_components_that_hardly_vary_do_not_count():
    points = np.random.default_rng(1).normal(size=(500, 2)) * [1.0, 0.05]
    assert match_report.component_ratios(3.0 * points, points) == pytest.approx([3.0], rel=1e-6)
    assert len(match_report.component_ratios(0.0 * points, 0.0 * points)) == 0
