"""Energy and proximity of a flow against time."""

from typing import Any

import numpy as np
from jaxtyping import Float

from swjko.plots.axes import EXACT, INK, new_axes
from swjko.schemes.base import Info
from swjko.types import Estimate, Scalar

_BAND = 2.0  # standard errors


def energy(
    history: Info,
    *,
    estimate: Estimate | None = None,
    start: float | Scalar | Estimate | None = None,
    exact: float | Float[Any, " t"] | None = None,
    exact_name: str = "exact",
    name: str = "flow",
    unit: str = "",
    log: bool = False,
    color: str = INK,
    axis: Any = None,
) -> Any:
    """Draws energy against time.

    Args:
      history: ``Solution.history``, or the infos of ``run``.
      estimate: Energies of the steps on fresh samples, values and standard errors [t], such as
        ``certificate(...).energy``. They replace those of the history, whose noise is unknown, and
        get a band of two standard errors on either side.
      start: Energy at time 0, which no step reports; an ``Estimate`` gets a band too.
      exact: Minimum of the energy, drawn as a level; or one value for each step, preceded by that
        at time 0 if ``start`` is given.
      exact_name: Name of ``exact`` in the legend.
      name: Name of the flow in the legend.
      unit: Unit of the energy axis.
      log: Whether to use a logarithmic energy axis, for positive energies.
      color: Colour of the curve and its band.
      axis: Axes to draw into; None makes a figure.
    """
    axis = new_axes(1, (5.2, 3.6))[0] if axis is None else axis
    times = np.atleast_1d(np.asarray(history.time))
    values, errors = _with_errors(history.energy if estimate is None else estimate)
    if values.shape != times.shape or errors.shape != times.shape:
        raise ValueError(
            f"estimate must have one value for each of {times.shape[0]} steps; "
            f"got shape {values.shape}."
        )
    if start is not None:
        first, first_error = _with_errors(start)
        pairs = (([0.0], times), (first, values), (first_error, errors))
        times, values, errors = map(np.concatenate, pairs)
    if np.any(errors > 0):
        band = (values - _BAND * errors, values + _BAND * errors)
        label = f"{name}, $\\pm$ {_BAND:g} standard errors"
        axis.fill_between(times, *band, color=color, alpha=0.25, linewidth=0, label=label)
    axis.plot(times, values, color=color, marker="o", markersize=3, linewidth=1.4, label=name)
    if exact is not None:
        levels = np.asarray(exact, float)
        if levels.shape not in ((), times.shape):
            raise ValueError(
                f"exact must be one number, or one for each of {times.shape[0]} times; "
                f"got shape {levels.shape}."
            )
        levels = np.broadcast_to(levels, times.shape)
        axis.plot(times, levels, color=EXACT, linestyle="--", linewidth=1.2, label=exact_name)
    if len(axis.get_legend_handles_labels()[1]) > 1:
        axis.legend(fontsize=8)
    if log:
        axis.set_yscale("log")
    axis.set(xlabel="SW time t", ylabel=f"energy F{f' ({unit})' if unit else ''}")
    return axis.figure


def proximity(history: Info, *, unit: str = "", axis: Any = None) -> Any:
    """Draws how far each step moved, SW_2^2(mu_k, mu_{k-1}) / (2 step size), against time.

    The axis is logarithmic if all values are positive.

    Args:
      history: ``Solution.history``, or the infos of ``run``.
      unit: Unit of the proximity axis.
      axis: Axes to draw into; None makes a figure.
    """
    axis = new_axes(1, (5.2, 3.6))[0] if axis is None else axis
    values = np.asarray(history.proximity)
    times = np.asarray(history.time)
    axis.plot(times, values, color=INK, marker="o", markersize=3, linewidth=1.4)
    if np.all(values > 0):
        axis.set_yscale("log")
    label = f"proximity $SW_2^2 / 2\\tau$ {f'({unit})' if unit else ''}"
    axis.set(xlabel="SW time t", ylabel=label)
    return axis.figure


def progress(history: Info, *, unit: str = "", **energy_options: Any) -> Any:
    """Draws ``energy`` and ``proximity`` of a history side by side.

    Args:
      history: ``Solution.history``, or the infos of ``run``.
      unit: Unit of both axes.
      energy_options: Further options of ``energy``.
    """
    axes = new_axes(2, (9.6, 3.6))
    energy(history, unit=unit, axis=axes[0], **energy_options)
    proximity(history, unit=unit, axis=axes[1])
    return axes[0].figure


def _with_errors(estimate: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns values and standard errors of rank 1; unknown errors are zero."""
    if not isinstance(estimate, Estimate):
        estimate = (estimate, np.zeros(np.shape(estimate)))
    value, error = estimate
    return np.atleast_1d(np.asarray(value, float)), np.atleast_1d(np.asarray(error, float))
