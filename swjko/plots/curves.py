"""Energy and proximity of a flow against time."""

from typing import Any

import numpy as np
from jaxtyping import Float

from swjko.plots.axes import INK, new_axes, text_color
from swjko.schemes.base import Info
from swjko.types import Estimate, Scalar

_BAND = 2.0  # standard errors


def energy(
    history: Info,
    *,
    estimate: Estimate | None = None,
    start: float | Scalar | Float[Any, " flows"] | Estimate | None = None,
    exact: float | Float[Any, " t"] | None = None,
    exact_name: str = "exact",
    name: str = "flow",
    label: str = "energy F",
    unit: str = "",
    log: bool = False,
    color: str = INK,
    axis: Any = None,
) -> Any:
    """Draws energy against time.

    Args:
      history: ``Solution.history``, or the infos of ``run``; of many flows, [flows steps], it
        gives one line for each flow.
      estimate: Energies of the steps on fresh samples, values and standard errors [t] or
        [flows t], such as ``certificate(...).energy``. They replace those of the history, whose
        noise is unknown, and get a band of two standard errors on either side.
      start: Energy at time 0, which no step reports, a number or one for each flow; an ``Estimate``
        gets a band too.
      exact: Minimum of the energy, drawn as a level; or one value for each step, preceded by that
        at time 0 if ``start`` is given.
      exact_name: Name of ``exact`` in the legend.
      name: Name of the flow in the legend.
      label: Label of the energy axis.
      unit: Unit of the energy axis.
      log: Whether to use a logarithmic energy axis. It is linear from zero up to the size of the
        lowest energy if that is negative, as noise of small energies may be.
      color: Colour of the curve and its band.
      axis: Axes to draw into; None makes a figure.
    """
    _require_history(history)
    axis = new_axes(1, (5.2, 3.6))[0] if axis is None else axis
    times, (values, errors) = _rows(history.time), _with_errors(estimate, history.energy)
    if values.shape != times.shape or errors.shape != times.shape:
        raise ValueError(
            f"estimate must have one value for each of {_plural(times)}; "
            f"got shape {np.shape(values.squeeze())}."
        )
    if start is not None:
        first = [np.broadcast_to(one, (len(times), 1)) for one in (0.0, *_start(start))]
        pairs = zip(first, (times, values, errors), strict=True)
        times, values, errors = (np.concatenate(pair, axis=1) for pair in pairs)
    many = len(times) > 1
    legend = f"{name}s ({len(times)})" if many else name
    if np.any(errors > 0):
        band = f"{legend}, $\\pm$ {_BAND:g} standard errors"
        for at, (time, value, error) in enumerate(zip(times, values, errors, strict=True)):
            sides, alpha = (value - _BAND * error, value + _BAND * error), 0.1 if many else 0.25
            shown = None if at else band
            axis.fill_between(time, *sides, color=color, alpha=alpha, linewidth=0, label=shown)
    style = {"linewidth": 0.8, "alpha": 0.6} if many else {"linewidth": 1.4, "marker": "o"}
    lines = axis.plot(times.T, values.T, color=color, markersize=3, **style)
    lines[0].set_label(legend)
    if exact is not None:
        levels = np.asarray(exact, float)
        if levels.shape not in ((), times.shape[1:]):
            raise ValueError(
                f"exact must be one number, or one for each of {times.shape[1]} times; "
                f"got shape {levels.shape}."
            )
        levels = np.broadcast_to(levels, times.shape[1:])
        style = {"color": text_color(), "linestyle": "--", "linewidth": 1.2}
        axis.plot(times[0], levels, label=exact_name, **style)
    if len(axis.get_legend_handles_labels()[1]) > 1:
        axis.legend(fontsize=8)
    if log:
        _set_log_scale(axis, values)
    axis.set(xlabel="SW time t", ylabel=f"{label}{f' ({unit})' if unit else ''}")
    return axis.figure


def proximity(history: Info, *, unit: str = "", axis: Any = None) -> Any:
    """Draws how far each step moved, SW_2^2(mu_k, mu_{k-1}) / (2 step size), against time.

    The axis is logarithmic if all values are positive.

    Args:
      history: ``Solution.history``, or the infos of ``run``.
      unit: Unit of the proximity axis.
      axis: Axes to draw into; None makes a figure.
    """
    _require_history(history)
    axis = new_axes(1, (5.2, 3.6))[0] if axis is None else axis
    times, values = _rows(history.time), _rows(history.proximity)
    style = {"linewidth": 0.8, "alpha": 0.6} if len(times) > 1 else {"linewidth": 1.4}
    axis.plot(times.T, values.T, color=INK, marker="o", markersize=3, **style)
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
    _require_history(history)
    axes = new_axes(2, (9.6, 3.6))
    energy(history, unit=unit, axis=axes[0], **energy_options)
    proximity(history, unit=unit, axis=axes[1])
    return axes[0].figure


def _require_history(history: object) -> None:
    if not all(hasattr(history, name) for name in ("time", "energy")):
        raise TypeError(
            "history must be the infos of a run, with time and energy; "
            f"got {type(history).__name__}. Use solution.history, or its second part if "
            "record='trajectory'."
        )


def _set_log_scale(axis: Any, values: np.ndarray) -> None:
    lowest = np.min(values)
    if lowest > 0:
        axis.set_yscale("log")
    else:
        # A power of ten, since ticks below it crowd around zero.
        size = -lowest or np.max(values) or 1.0
        axis.set_yscale("symlog", linthresh=10.0 ** np.ceil(np.log10(size)))


def _rows(values: Any) -> np.ndarray:
    """Returns values [t] or [flows t] as [flows t]."""
    return np.atleast_2d(np.asarray(values, float))


def _plural(times: np.ndarray) -> str:
    flows, steps = times.shape
    return f"{steps} steps" if flows == 1 else f"{steps} steps of {flows} flows"


def _with_errors(estimate: Estimate | None, energy: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns values and standard errors [flows t]; unknown errors are zero."""
    value, error = (energy, np.zeros(np.shape(energy))) if estimate is None else estimate
    return _rows(value), _rows(error)


def _start(start: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns value and standard error at time 0, each [1 1] or [flows 1]."""
    value, error = start if isinstance(start, Estimate) else (start, np.zeros(np.shape(start)))
    return np.reshape(value, (-1, 1)), np.reshape(error, (-1, 1))
