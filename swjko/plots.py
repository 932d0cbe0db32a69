"""Figures of flows: a cloud over its target, a cloud at several times, energy and proximity against time.

Each function returns a matplotlib Figure, draws into ``axis`` when one is given, and never shows anything; save with ``figure.savefig``.
matplotlib is imported on the first call and its global state (pyplot) is left alone, so no display is needed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from swjko.scheme import Info
from swjko.types import Scalar

_INK, _TARGET, _EXACT = ("#1f5fa8", "#c2571a", "#444444")
_GRID_POINTS = 90


def cloud(
    points: Float[Any, "n d"],
    *,
    log_prob: Callable[[Float[Array, "2"]], Scalar] | None = None,
    target: Float[Any, "m d"] | None = None,
    target_name: str = "target",
    limits: tuple[float, float, float, float] | None = None,
    names: Sequence[str] = ("$x_1$", "$x_2$"),
    axis: Any = None,
) -> Any:
    """The first two coordinates of a cloud, over contours or points of its target; in one dimension, a histogram.

    Args:
      points: [n d].
      log_prob: log-density of the target in the two plotted coordinates, at one point [2]; contours at 10, 30, ... 90 % of its peak.
      target: [m d] points of the target.
      target_name: what the legend calls the target.
      limits: (left, right, bottom, top); None fits cloud and target.
      names: of the two axes.
      axis: a matplotlib Axes to draw into; None makes a figure.
    """
    axis = _figure(1, (4.4, 4.0))[0] if axis is None else axis
    points = np.asarray(points)
    target = None if target is None else np.asarray(target)
    if points.shape[1] == 1:
        return _histogram(axis, points[:, 0], None if target is None else target[:, 0], log_prob, target_name, names[0])
    shown = [points] if target is None else [points, target]
    left, right, bottom, top = _limits(shown) if limits is None else limits
    if target is not None:
        axis.scatter(target[:, 0], target[:, 1], s=4, color=_TARGET, alpha=0.35, linewidths=0, label=target_name, rasterized=True)
    axis.scatter(points[:, 0], points[:, 1], s=4, color=_INK, alpha=0.5, linewidths=0, label="flow", rasterized=True)
    if log_prob is not None:
        x, y = np.meshgrid(np.linspace(left, right, _GRID_POINTS), np.linspace(bottom, top, _GRID_POINTS))
        grid = jnp.asarray(np.stack([x.ravel(), y.ravel()], axis=1), float)
        height = np.asarray(jax.vmap(log_prob)(grid)).reshape(x.shape)
        axis.contour(x, y, np.exp(height - height.max()), levels=[0.1, 0.3, 0.5, 0.7, 0.9], colors=_TARGET, linewidths=0.9)
        axis.plot([], [], color=_TARGET, linewidth=0.9, label=target_name)
    axis.set(xlim=(left, right), ylim=(bottom, top), xlabel=names[0], ylabel=names[1])
    return axis.figure


def clouds(points: Float[Any, "t n d"], times: Float[Any, " t"], **cloud_options: Any) -> Any:
    """``cloud`` at each of the times, side by side on equal axes. points: [t n d], such as ``replay`` gives; options are ``cloud``'s."""
    points, times = (np.asarray(points), np.asarray(times))
    axes = _figure(len(times), (2.6 * len(times) + 0.6, 3.2), shared=True)
    if points.shape[2] > 1 and cloud_options.get("limits") is None:
        target = cloud_options.get("target")
        shown = [points[0], points[-1]] if target is None else [points[0], points[-1], np.asarray(target)]
        cloud_options["limits"] = _limits(shown)
    for axis, moment, time in zip(axes, points, times, strict=True):
        cloud(moment, axis=axis, **cloud_options)
        axis.set_title(f"t = {time:.3g}", fontsize=10)
        if axis is not axes[0]:
            axis.set_ylabel("")
    axes[0].legend(fontsize=8, markerscale=2, loc="upper left", framealpha=0.85)
    return axes[0].figure


def energy(
    history: Info,
    *,
    start: float | None = None,
    exact: float | Float[Any, " t"] | None = None,
    exact_name: str = "exact",
    unit: str = "",
    log: bool = False,
    axis: Any = None,
) -> Any:
    """Energy against time. history: ``Solution.history``, or ``run``'s infos.

    Args:
      start: energy at time 0, which no step reports.
      exact: the least energy, drawn as a level; or one value for each step, and for time 0 before them where ``start`` is given.
      exact_name, unit: words for the legend and the axis.
      log: a logarithmic energy axis, for energies that are all positive.
      axis: a matplotlib Axes to draw into; None makes a figure.
    """
    axis = _figure(1, (5.2, 3.6))[0] if axis is None else axis
    times, values = (np.asarray(history.time), np.asarray(history.energy))
    if start is not None:
        times, values = (np.concatenate([[0.0], times]), np.concatenate([[start], values]))
    axis.plot(times, values, color=_INK, marker="o", markersize=3, linewidth=1.4, label="flow")
    if exact is not None:
        levels = np.broadcast_to(np.asarray(exact, float), times.shape)
        axis.plot(times, levels, color=_EXACT, linestyle="--", linewidth=1.2, label=exact_name)
        axis.legend(fontsize=8)
    if log:
        axis.set_yscale("log")
    axis.set(xlabel="SW time t", ylabel=f"energy F{f' ({unit})' if unit else ''}")
    return axis.figure


def proximity(history: Info, *, unit: str = "", axis: Any = None) -> Any:
    """SW_2^2(mu_k, mu_{k-1}) / (2 step size) against time, on a logarithmic axis where all are positive: how much each step moved."""
    axis = _figure(1, (5.2, 3.6))[0] if axis is None else axis
    values = np.asarray(history.proximity)
    axis.plot(np.asarray(history.time), values, color=_INK, marker="o", markersize=3, linewidth=1.4)
    if np.all(values > 0):
        axis.set_yscale("log")
    axis.set(xlabel="SW time t", ylabel=f"proximity $SW_2^2 / 2\\tau$ {f'({unit})' if unit else ''}")
    return axis.figure


def progress(history: Info, *, unit: str = "", **energy_options: Any) -> Any:
    """``energy`` and ``proximity`` side by side."""
    axes = _figure(2, (9.6, 3.6))
    energy(history, unit=unit, axis=axes[0], **energy_options)
    proximity(history, unit=unit, axis=axes[1])
    return axes[0].figure


def _figure(columns: int, size: tuple[float, float], shared: bool = False) -> Any:
    """Axes in a row, of a figure that pyplot knows nothing of."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib, which is not installed; get it with: pip install 'swjko[cli]'") from error
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    return figure.subplots(1, columns, squeeze=False, sharex=shared, sharey=shared)[0]


def _limits(clouds: list[np.ndarray]) -> tuple[float, float, float, float]:
    """A box that holds all but the outermost half per cent of each cloud on each side, with a margin."""
    low = np.min([np.quantile(points[:, :2], 0.005, axis=0) for points in clouds], axis=0)
    high = np.max([np.quantile(points[:, :2], 0.995, axis=0) for points in clouds], axis=0)
    margin = 0.08 * (high - low) + 1e-6
    return float(low[0] - margin[0]), float(high[0] + margin[0]), float(low[1] - margin[1]), float(high[1] + margin[1])


def _histogram(axis, points, target, log_prob, target_name, name):
    if target is not None:
        axis.hist(target, bins=40, density=True, color=_TARGET, alpha=0.35, label=target_name)
    axis.hist(points, bins=40, density=True, color=_INK, alpha=0.5, label="flow")
    if log_prob is not None:
        left, right = axis.get_xlim()
        grid = np.linspace(left, right, _GRID_POINTS)
        axis.plot(grid, np.exp(np.asarray(jax.vmap(log_prob)(jnp.asarray(grid[:, None], float)))), color=_TARGET, label=target_name)
    axis.set(xlabel=name, ylabel="density")
    return axis.figure
