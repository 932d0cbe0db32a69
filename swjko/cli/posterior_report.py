"""Figures, verdict, files and plots of the command-line problem ``posterior``."""

import csv
import io
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike

from swjko.cli import scores
from swjko.cli.flow import Flow, as_npz, draw, parameters_npz
from swjko.cli.verdict import Check, Verdict, judge
from swjko.data.tables import Table
from swjko.diagnostics.importance import LARGEST_PARETO_K, Importance
from swjko.types import Estimate

# Prior standard deviation of the intercept.
INTERCEPT_SCALE = 10.0
_SHOWN_MARGINALS = 6
_LEAST_EFFECTIVE, _LARGEST_SHIFT, _TOLERANCE = 0.1, 0.2, 0.01


class Coordinates(NamedTuple):
    """Coordinates z of the flow, in which the posterior is near N(0, I).

    They come from the Laplace approximation of the posterior of x = mode + factor z, the
    coefficients of the standardised columns and log alpha.

    Attributes:
      mode: [d].
      factor: [d d] Cholesky factor of the inverse Hessian.
      to_data: [d d] lower triangular; it takes x to the coefficients of the columns in the file.
    """

    mode: np.ndarray
    factor: np.ndarray
    to_data: np.ndarray

    def standardised(self, z: ArrayLike) -> np.ndarray:
        """Return x [... d] in float64."""
        return np.asarray(z, np.float64) @ self.factor.T + self.mode

    def in_data_units(self, z: ArrayLike) -> np.ndarray:
        """Return the coefficients of the columns in the file [... d], and log alpha."""
        return self.standardised(z) @ self.to_data.T


class Moments(NamedTuple):
    """Mean and standard deviation of one coordinate of the posterior."""

    mean: float
    standard_deviation: float


class Fit(NamedTuple):
    """The draws of the posterior, and the rows that they are judged by."""

    train: Table
    test: Table
    coordinates: Coordinates
    found: Importance
    intercept: bool

    @property
    def points(self) -> np.ndarray:
        """Draws [n d] of the coefficients of standardised columns, the last one log alpha."""
        return self.coordinates.standardised(self.found.cloud.points)

    @property
    def names(self) -> tuple[str, ...]:
        weights = tuple(f"weight of {name}" for name in self.train.names)
        return (*weights, *(["intercept"] if self.intercept else []), "log alpha")

    @property
    def shift(self) -> float:
        """Largest difference of weighted and plain means, in standard deviations."""
        points = self.points
        weighted = np.asarray(self.found.cloud.weights, np.float64) @ points
        return float(np.max(np.abs(weighted - points.mean(0)) / points.std(0)))

    @property
    def clearest(self) -> np.ndarray:
        """Indices of the coefficients, those farthest from zero in standard deviations first."""
        points = self.points[:, :-1]
        return np.argsort(-np.abs(points.mean(0)) / points.std(0))


def figures(fit: Fit, start: Importance, reference: dict[str, float]) -> dict[str, Any]:
    """Return what the report says of the data, the prediction and the draws.

    Args:
      fit: The draws of the flow.
      start: Importance sampling from the Laplace approximation.
      reference: Scores of another method.
    """
    train, test = fit.train, fit.test
    size = len(fit.points)
    model = "logit P(label = +1) = " + ("intercept + " if fit.intercept else "") + "<weights, row>"
    prior = "weights N(0, 1/alpha), alpha Gamma(1, rate 100)"
    prior += f", intercept N(0, {INTERCEPT_SCALE:g}^2)" if fit.intercept else ""
    figures = {
        "model": model,
        "prior, for columns with mean 0 and standard deviation 1": prior,
        "label +1 is": train.classes[1],
        "rows for training": len(train.labels),
        "rows held out": len(test.labels),
        **({"rows dropped for missing values": train.dropped} if train.dropped else {}),
        **scores.held_out_scores(fit.points[:, :-1], test, fit.intercept),
        **scores.majority_scores(train, test),
        **reference,
        "log evidence": Estimate(fit.found.log_evidence, fit.found.standard_error),
        "KL(flow | posterior), nats": float(fit.found.log_evidence - fit.found.elbo.value),
        "KL(Laplace approximation | posterior), nats": float(
            fit.found.log_evidence - start.elbo.value
        ),
        "effective draws": f"{size * float(fit.found.effective_fraction):.0f} of {size}",
        "effective draws of the Laplace approximation": (
            f"{size * float(start.effective_fraction):.0f} of {size}"
        ),
        "Pareto k-hat of the weights": float(fit.found.pareto_k),
        "largest shift of a mean by the weights, in standard deviations": fit.shift,
    }
    points, largest = fit.points[:, :-1], fit.clearest[:_SHOWN_MARGINALS]
    moments = {
        fit.names[at]: Moments(float(points[:, at].mean()), float(points[:, at].std()))
        for at in largest
    }
    title = f"posterior of the {len(largest)} clearest of {points.shape[1]} coefficients"
    return figures | {f"{title}, standardised columns (all: marginals.csv)": moments}


def verdict(fit: Fit, figures: dict[str, Any], advice: str) -> Verdict:
    """Judge the draws and the predictions."""
    k, fraction = float(fit.found.pareto_k), float(fit.found.effective_fraction)
    own = figures["held-out log-likelihood"]
    majority = figures["held-out log-likelihood of the class frequencies"]
    rows = f"on {len(fit.test.labels)} held-out rows"
    sampled = [
        Check(
            fit.found.weights_usable,
            f"k-hat <= {LARGEST_PARETO_K}",
            f"k-hat of the weights is {k:.2f}",
        ),
        Check(
            fraction >= _LEAST_EFFECTIVE,
            f"at least {100 * _LEAST_EFFECTIVE:g} % of the draws are effective",
            f"only {100 * fraction:.2g} % of the draws are effective",
        ),
        Check(
            fit.shift <= _LARGEST_SHIFT,
            f"weights shift no mean by more than {_LARGEST_SHIFT} standard deviations",
            f"weights shift a mean by {fit.shift:.2g} standard deviations",
        ),
    ]
    predicted = [
        Check(
            own >= majority - _TOLERANCE,
            "held-out rows are predicted at least as well as by the class frequencies",
            f"{rows} the log-likelihood is {majority - own:.2g} below that of the class "
            "frequencies: the columns do not predict the label, or there are too few rows",
        ),
        _against_reference(figures, rows),
    ]
    is_sampled = all(check.passed for check in sampled)
    return judge([*sampled, *predicted], "" if is_sampled else advice)


def _against_reference(figures: dict[str, Any], rows: str) -> Check:
    """Compare with LogisticRegressionCV; unknown where the held-out rows are too few to tell."""
    rule = f"no more than {_TOLERANCE} below LogisticRegressionCV, beyond two standard errors"
    own = figures["held-out log-likelihood"]
    reference = figures.get("held-out log-likelihood of LogisticRegressionCV")
    if reference is None:
        return Check(None, rule, "a class has too few rows for LogisticRegressionCV")
    error = figures["standard error of the difference of both log-likelihoods"]
    if own < reference - _TOLERANCE:
        finding = f"{rows} the log-likelihood is {reference - own:.2g} below LogisticRegressionCV: "
        return Check(False, rule, finding + "the prior is too wide for so few rows")
    finding = f"{rows} the difference to LogisticRegressionCV, {own - reference:.2g} +- {error:.1g}"
    is_clear = own - 2 * error >= reference - _TOLERANCE
    return Check(True if is_clear else None, rule, f"{finding}, is too uncertain to tell")


def files(fit: Fit, flow: Flow) -> dict[str, bytes]:
    """Return draws, parameters and marginals in units of the file's columns."""
    cloud, law = fit.found.cloud, fit.coordinates
    raw, matrix = law.in_data_units(cloud.points), law.to_data @ law.factor
    log_det = float(np.sum(np.log(np.diagonal(matrix))))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    kinds = ("mean", "standard deviation")
    rows.writerow(["coefficient", *kinds, *(f"{kind}, standardised columns" for kind in kinds)])
    columns = (raw.mean(0), raw.std(0), fit.points.mean(0), fit.points.std(0))
    rows.writerows(zip(fit.names, *(map(float, column) for column in columns), strict=True))
    return {
        "draws.npz": as_npz(
            points=raw,
            names=np.array(fit.names),
            log_density=np.asarray(cloud.log_density, np.float64) - log_det,
            weights=cloud.weights,
        ),
        "parameters.npz": parameters_npz(
            flow.solution.state.params, shift=law.to_data @ law.mode, matrix=matrix
        ),
        "marginals.csv": text.getvalue().encode(),
    }


def plots(flow: Flow, fit: Fit) -> dict[str, Any]:
    """Draw the two clearest coefficients in units of the data, and KL(mu | posterior)."""
    law = fit.coordinates
    # log alpha, the last coordinate, only if there is one coefficient.
    two = np.append(fit.clearest, len(fit.names) - 1)[:2]
    weighted = fit.found.resample(jax.random.key(0), flow.clouds.points.shape[1])
    return draw(
        flow,
        law.in_data_units(flow.clouds.points)[..., two],
        {
            "target": law.in_data_units(weighted)[:, two],
            "target_name": "posterior (last draws, weighted by it)",
            "names": tuple(fit.names[at] for at in two),
        },
        {"label": "KL(flow | posterior)", "unit": "nats"},
        minimum=-float(fit.found.log_evidence),
    )
