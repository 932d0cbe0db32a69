"""The command-line problem ``match``: a flow from noise to a sample of points."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from swjko import flows, problems
from swjko.cli import match_report, scores
from swjko.cli.flow import (
    Flow,
    as_npz,
    draw,
    parameters_npz,
    sample_cloud,
    solve_and_measure,
)
from swjko.cli.report import Outcome
from swjko.cli.settings import MATCH_SCALES as SCALES
from swjko.cli.settings import Settings
from swjko.cli.terminal import say
from swjko.data.tables import DataError, Points, require_narrow
from swjko.families.base import Family
from swjko.functionals.targets import sw_to_target
from swjko.types import Cloud, validation

_DRAWS, _MOST_DRAWS = 4096, 50_000
# Larger targets are drawn in batches of this size.
_BATCH = 4096


class Scaled(NamedTuple):
    """Points z [n k] of the flow, and the map to units of the data, x = mean + z matrix.

    Attributes:
      points: [n k], with mean 0.
      mean: [d].
      matrix: [k d].
    """

    points: np.ndarray
    mean: np.ndarray
    matrix: np.ndarray

    def in_data_units(self, z: ArrayLike) -> np.ndarray:
        """Return x [... d] in float64."""
        return self.mean + np.asarray(z, np.float64) @ self.matrix


def match(
    settings: Settings,
    *,
    seed: int,
    progress: bool = True,
    data: str | None = None,
    dim: int | None = None,
    scale: str = "columns",
    family: str = "mlp",
    loaded: Points | None = None,
    **columns: Any,
) -> Outcome:
    """Flow from N(0, I) to a sample of points by F = SW_2^2 / 2.

    The flow runs in scaled coordinates. Its draws and figures are in units of the data.

    Args:
      settings: Numbers of the run.
      seed: Seed of the split of the data and of the flow.
      progress: Whether to show progress.
      data: Name of the points, for messages and the report; None for scikit-learn's digits.
      dim: Number of principal components; None takes 2 for the digits and all for ``data``.
      scale: "columns" divides each column, or component, by its standard deviation; "whiten" makes
        the covariance the identity; "common" divides all by one number.
      family: "mlp", a network without a density; or "coupling", a coupling flow with one.
      loaded: The points; None takes scikit-learn's digits.
      columns: Options by which the points were loaded, for the report.
    """
    scale = validation.as_choice(scale, "scale", SCALES)
    table = _digits() if loaded is None else loaded
    dim = 2 if dim is None and data is None else dim
    scaled = scaled_points(table.values, dim, scale, data or "the digits")
    held_out, target = _split(scaled.points, seed, data or "the digits")
    k = target.shape[1]
    flow_key, draw_key = jax.random.split(jax.random.key(seed))
    batch_size = _BATCH if len(target) > _BATCH else None
    functional = sw_to_target(target, settings.projections, batch_size=batch_size)
    chosen = _family(family, k)
    measured = min(match_report.MEASURED_POINTS, len(held_out))
    flow = solve_and_measure(flow_key, chosen, functional, settings, measured, progress)
    say("comparing draws with points that were held out", progress)
    num = int(np.clip(len(table.values), _DRAWS, _MOST_DRAWS))
    cloud = sample_cloud(chosen, flow.solution.state.params, draw_key, num=num)
    draws, points = scaled.in_data_units(cloud.points), np.asarray(cloud.points)
    names, judged = table.names, (draws, table.values)
    if dim is not None:  # other columns vary outside the components
        judged = (points.astype(np.float64), scaled.points)
        names = tuple(f"component {at + 1}" for at in range(k))
    comparison = match_report.Comparison(
        *match_report.moments(*judged),
        match_report.component_ratios(points, scaled.points),
        *match_report.distances(seed, settings, points, target, held_out),
    )
    figures = {"points of the target": len(target), "points held out": len(held_out)}
    figures |= {"rows dropped for missing values": table.dropped} if table.dropped else {}
    reference = _floor_energy(seed, functional, held_out[:measured])
    config = {"seed": seed, "data": data or "sklearn digits", "dim": dim, "scale": scale}
    return flow.outcome(
        "match",
        settings,
        config | {"family": family, **columns},
        reference=reference,
        reference_name="held-out points",
        figures=figures | comparison.figures(measured),
        plots=_plots(flow, scaled, target, names, reference, dim is None),
        verdict=match_report.verdict(names, comparison, flow.advice),
        files=_files(flow, scaled, cloud, draws, table.names),
    )


def _family(name: str, dim: int) -> Family:
    """A coupling needs two coordinates."""
    return flows.coupling(dim) if name == "coupling" and dim > 1 else flows.mlp(dim, dim)


def _digits() -> Points:
    values = problems.digits()
    return Points(values, tuple(f"pixel {at}" for at in range(values.shape[1])))


def scaled_points(values: np.ndarray, dim: int | None, scale: str, source: str) -> Scaled:
    """Centre points, project them on principal components if asked, and scale them.

    Args:
      values: Points [n d].
      dim: Number of principal components; None keeps all columns.
      scale: One of ``SCALES``, see ``match``.
      source: Name of the points, for messages.

    Raises:
      DataError: If ``dim`` is larger than the number of components, or there are too many columns.
    """
    if dim is not None and dim > min(values.shape):
        raise DataError(
            f"{source}: --dim must be at most {min(values.shape)} for {values.shape[0]} points in "
            f"dimension {values.shape[1]}; got {dim}."
        )
    mean = values.mean(axis=0)
    if dim is not None or scale == "whiten":
        spread = np.ones_like(mean) if dim is not None else values.std(axis=0)
        _, singular, rows = np.linalg.svd((values - mean) / spread, full_matrices=False)
        # The sign of a component is arbitrary; its largest entry is made positive. Directions
        # without variance keep their one value.
        largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
        kept = np.flatnonzero(singular > 1e-6 * singular[0])[:dim]
        axes = (rows * np.sign(largest))[kept]
        points = (values - mean) / spread @ axes.T
        axes = axes * spread
    else:
        require_narrow(source, len(mean), "Use --dim, or --drop-columns.")
        axes, points = np.eye(len(mean)), values - mean
    width = points.std(axis=0)
    if scale == "common":
        width = np.full_like(width, np.sqrt(np.mean(points**2)))
    return Scaled(points / width, mean, width[:, None] * axes)


def _split(points: np.ndarray, seed: int, source: str) -> tuple[jax.Array, jax.Array]:
    """Return a fifth of the points, held out, and the others."""
    order = np.random.default_rng(seed).permutation(len(points))
    cut = max(1, len(points) // 5)
    held_out, target = (jnp.asarray(points[at], float) for at in (order[:cut], order[cut:]))
    if np.any(np.ptp(np.asarray(target), axis=0) == 0):
        raise DataError(
            f"{source}: a column has one value in all rows of the target (80 %). "
            "Use more rows, another --seed, or --drop-columns."
        )
    return held_out, target


def _floor_energy(seed: int, functional, held_out: jax.Array) -> float:
    keys = jax.random.split(jax.random.key(seed), 16)
    return float(scores.mean_energy(keys, functional, Cloud(held_out)))


def _files(flow: Flow, scaled: Scaled, cloud: Cloud, draws: np.ndarray, names) -> dict[str, bytes]:
    arrays = {"points": draws, "names": np.array(names)}
    k, d = scaled.matrix.shape
    if cloud.log_density is not None and k == d:
        # log |det d x / d z|; with fewer components than columns draws have no density there.
        log_det = np.linalg.slogdet(scaled.matrix)[1]
        arrays["log_density"] = np.asarray(cloud.log_density, np.float64) - log_det
    parameters = parameters_npz(
        flow.solution.state.params, shift=scaled.mean, matrix=scaled.matrix.T
    )
    return {"draws.npz": as_npz(**arrays), "parameters.npz": parameters}


def _plots(
    flow: Flow, scaled: Scaled, target, names, reference: float, in_columns: bool
) -> dict[str, Any]:
    """Draw the first two columns in units of the data, or the first two components."""
    points, target = np.asarray(flow.clouds.points), np.asarray(target)
    if in_columns:
        points, target = (scaled.in_data_units(one) for one in (points, target))
    else:
        names = tuple(f"{name} (scaled)" for name in names)
    names = names[:2] if len(names) > 1 else (*names, "density")
    return draw(
        flow,
        points,
        {"target": target, "names": names, "target_name": "target"},
        {"exact": reference, "exact_name": "held-out points", "unit": "scaled data, squared"},
    )
