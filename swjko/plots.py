"""Figures of flows: a cloud over its target, a cloud at several times or as a movie, energy and proximity against time.

Each function returns a matplotlib Figure, draws into ``axis`` when one is given, and never shows anything; save with ``figure.savefig``.
matplotlib is imported on the first call and its global state (pyplot) is left alone, so no display is needed. Notebooks show a figure
that is the last value of a cell once they have run ``%matplotlib inline``.
"""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from swjko import validation
from swjko.schemes.base import Info
from swjko.types import Estimate, Scalar

_INK, _TARGET, _EXACT = ("#1f5fa8", "#c2571a", "#444444")
_GRID_POINTS = 90
_BAND = 2.0  # standard errors
_LEAST_DPI, _COLORS, _LAST_MILLISECONDS = 40.0, 64, 1500


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
        return _histogram(
            axis,
            points[:, 0],
            None if target is None else target[:, 0],
            log_prob,
            target_name,
            names[0],
        )
    shown = [points] if target is None else [points, target]
    left, right, bottom, top = _limits(shown) if limits is None else limits
    if target is not None:
        axis.scatter(
            target[:, 0],
            target[:, 1],
            s=4,
            color=_TARGET,
            alpha=0.35,
            linewidths=0,
            label=target_name,
            rasterized=True,
        )
    axis.scatter(
        points[:, 0],
        points[:, 1],
        s=4,
        color=_INK,
        alpha=0.5,
        linewidths=0,
        label="flow",
        rasterized=True,
    )
    if log_prob is not None:
        x, y = np.meshgrid(
            np.linspace(left, right, _GRID_POINTS), np.linspace(bottom, top, _GRID_POINTS)
        )
        grid = jnp.asarray(np.stack([x.ravel(), y.ravel()], axis=1), float)
        height = np.asarray(jax.vmap(log_prob)(grid)).reshape(x.shape)
        axis.contour(
            x,
            y,
            np.exp(height - height.max()),
            levels=[0.1, 0.3, 0.5, 0.7, 0.9],
            colors=_TARGET,
            linewidths=0.9,
        )
        axis.plot([], [], color=_TARGET, linewidth=0.9, label=target_name)
    axis.set(xlim=(left, right), ylim=(bottom, top), xlabel=names[0], ylabel=names[1])
    return axis.figure


def clouds(points: Float[Any, "t n d"], times: Float[Any, " t"], **cloud_options: Any) -> Any:
    """``cloud`` at each of the times, side by side on equal axes. points: [t n d], such as ``replay`` gives; times: [t].

    cloud_options: those of ``cloud``; limits are fitted to all times. Raises ValueError on shapes that do not fit.
    """
    points, times = _as_trajectory(points, times)
    axes = _figure(len(times), (2.6 * len(times) + 0.6, 3.2), shared=True)
    cloud_options = _with_limits(points, cloud_options)
    for axis, moment, time in zip(axes, points, times, strict=True):
        cloud(moment, axis=axis, **cloud_options)
        axis.set_title(f"t = {time:.3g}", fontsize=10)
        if axis is not axes[0]:
            axis.set_ylabel("")
    axes[0].legend(fontsize=8, markerscale=2, loc="upper left", framealpha=0.85)
    return axes[0].figure


def movie(
    points: Float[Any, "t n d"],
    times: Float[Any, " t"],
    path: str | os.PathLike[str],
    *,
    frames_per_second: float = 8.0,
    dpi: float = 80.0,
    max_bytes: int = 400_000,
    **cloud_options: Any,
) -> Any:
    """``cloud`` at each of the times as the frames of a GIF at ``path``, on axes that stand still; the last is held. Returns the Figure.

    Args:
      points: [t n d], d at least 2, such as ``replay`` gives: with the same latents at all times each point keeps its identity.
      times: [t].
      path: of the file to write, ending in .gif; one that is there is replaced.
      frames_per_second: how fast the times pass.
      dpi: dots per inch of frames of 4.4 by 4 inches, or of the size of the figure of ``axis``.
      max_bytes: of the file. A larger one is drawn again at fewer dots per inch, not below 40.
      cloud_options: those of ``cloud``; limits are fitted to all times.

    Raises ValueError on shapes that do not fit, on another kind of file, and, with nothing written, on a movie that max_bytes cannot hold.
    Example: ``movie(clouds.points, times, "flow.gif", log_prob=log_prob)``, ``clouds = replay(key, scheme.family, states.params, 500)``.
    """
    points, times = _as_trajectory(points, times)
    if points.shape[2] < 2:
        raise ValueError(
            f"points must have at least two coordinates to be drawn in a plane; received shape {points.shape}. Take clouds."
        )
    if Path(path).suffix.lower() != ".gif":
        raise ValueError(f"path must end in .gif; received {os.fspath(path)!r}.")
    fps, dpi = (
        float(validation.as_positive(frames_per_second, "frames_per_second")),
        float(validation.as_positive(dpi, "dpi")),
    )
    max_bytes = validation.as_count(max_bytes, "max_bytes")
    figure = cloud(points[0], **_with_limits(points, cloud_options))
    axis = cloud_options.get("axis") or figure.axes[0]
    axis.legend(fontsize=8, markerscale=2, loc="upper left", framealpha=0.85)
    while len(written := _gif(axis, points, times, fps, dpi)) > max_bytes:
        if dpi <= _LEAST_DPI:
            raise ValueError(
                f"max_bytes must be at least {len(written)} for these {len(times)} frames of {points.shape[1]} points; received "
                f"{max_bytes}. Take fewer times or fewer points."
            )
        # Bytes grow a little slower than pixels.
        dpi = max(_LEAST_DPI, 0.9 * dpi * (max_bytes / len(written)) ** 0.5)
    Path(path).write_bytes(written)
    return figure


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
    color: str = _INK,
    axis: Any = None,
) -> Any:
    """Energy against time. history: ``Solution.history``, or ``run``'s infos.

    Args:
      estimate: energies of the steps evaluated anew, values and standard errors [t], such as ``certificate(...).energy`` or ``evaluate``
        mapped over the steps; drawn in place of the history's, whose noise nobody knows, in a band of two standard errors on either side.
      start: energy at time 0, which no step reports; an ``Estimate`` has a band too.
      exact: the least energy, drawn as a level; or one value for each step, and for time 0 before them where ``start`` is given.
      exact_name, name, unit: words for the legend and the axis.
      log: a logarithmic energy axis, for energies that are all positive.
      color: of the curve and its band.
      axis: a matplotlib Axes to draw into; None makes a figure.

    Raises ValueError when estimate or exact have not one value for each time.
    """
    axis = _figure(1, (5.2, 3.6))[0] if axis is None else axis
    times = np.atleast_1d(np.asarray(history.time))
    values, errors = _with_errors(history.energy if estimate is None else estimate)
    if values.shape != times.shape or errors.shape != times.shape:
        raise ValueError(
            f"estimate must have one value for each of {times.shape[0]} steps; received shape {values.shape}."
        )
    if start is not None:
        first = _with_errors(start)
        times, values, errors = (
            np.concatenate(pair)
            for pair in (([0.0], times), (first[0], values), (first[1], errors))
        )
    if np.any(errors > 0):
        band = (values - _BAND * errors, values + _BAND * errors)
        axis.fill_between(
            times,
            *band,
            color=color,
            alpha=0.25,
            linewidth=0,
            label=f"{name}, $\\pm$ {_BAND:g} standard errors",
        )
    axis.plot(times, values, color=color, marker="o", markersize=3, linewidth=1.4, label=name)
    if exact is not None:
        levels = np.asarray(exact, float)
        if levels.shape not in ((), times.shape):
            raise ValueError(
                f"exact must be one number, or have one for each of {times.shape[0]} times; received shape {levels.shape}."
            )
        axis.plot(
            times,
            np.broadcast_to(levels, times.shape),
            color=_EXACT,
            linestyle="--",
            linewidth=1.2,
            label=exact_name,
        )
    if len(axis.get_legend_handles_labels()[1]) > 1:
        axis.legend(fontsize=8)
    if log:
        axis.set_yscale("log")
    axis.set(xlabel="SW time t", ylabel=f"energy F{f' ({unit})' if unit else ''}")
    return axis.figure


def proximity(history: Info, *, unit: str = "", axis: Any = None) -> Any:
    """SW_2^2(mu_k, mu_{k-1}) / (2 step size) against time, on a logarithmic axis where all are positive: how much each step moved.

    Args: history, ``Solution.history`` or ``run``'s infos; unit, a word for the axis; axis, a matplotlib Axes to draw into or None.
    """
    axis = _figure(1, (5.2, 3.6))[0] if axis is None else axis
    values = np.asarray(history.proximity)
    axis.plot(np.asarray(history.time), values, color=_INK, marker="o", markersize=3, linewidth=1.4)
    if np.all(values > 0):
        axis.set_yscale("log")
    axis.set(
        xlabel="SW time t", ylabel=f"proximity $SW_2^2 / 2\\tau$ {f'({unit})' if unit else ''}"
    )
    return axis.figure


def progress(history: Info, *, unit: str = "", **energy_options: Any) -> Any:
    """``energy`` and ``proximity`` of a history side by side, both in ``unit``. energy_options: those of ``energy``."""
    axes = _figure(2, (9.6, 3.6))
    energy(history, unit=unit, axis=axes[0], **energy_options)
    proximity(history, unit=unit, axis=axes[1])
    return axes[0].figure


def _figure(columns: int, size: tuple[float, float], shared: bool = False) -> Any:
    """Axes in a row, of a figure that pyplot knows nothing of."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib, which is not installed; get it with: pip install 'swjko[cli]'"
        ) from error
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    return figure.subplots(1, columns, squeeze=False, sharex=shared, sharey=shared)[0]


def _as_trajectory(points: Any, times: Any) -> tuple[np.ndarray, np.ndarray]:
    points, times = (np.asarray(points), np.asarray(times))
    if points.ndim != 3 or 0 in points.shape:
        raise ValueError(
            f"points must have rank 3, [times, points, dimension], none of them 0; received shape {points.shape}."
        )
    if times.shape != points.shape[:1]:
        raise ValueError(
            f"times must have one value for each of {points.shape[0]} clouds; received shape {times.shape}."
        )
    return points, times


def _with_limits(points: np.ndarray, cloud_options: dict[str, Any]) -> dict[str, Any]:
    """The options of ``cloud`` with limits that hold first, last and target, unless some are given."""
    if points.shape[2] == 1 or cloud_options.get("limits") is not None:
        return cloud_options
    target = cloud_options.get("target")
    shown = (
        [points[0], points[-1]] if target is None else [points[0], points[-1], np.asarray(target)]
    )
    return cloud_options | {"limits": _limits(shown)}


def _gif(
    axis: Any, points: np.ndarray, times: np.ndarray, frames_per_second: float, dpi: float
) -> bytes:
    """The axis with its flow at each of the times."""
    from PIL import Image

    dots = next(part for part in reversed(axis.collections) if part.get_label() == "flow")
    frames = []
    for moment, time in zip(points, times, strict=True):
        dots.set_offsets(moment[:, :2])
        axis.set_title(f"t = {time:.2f}", fontsize=10)
        frame = io.BytesIO()
        axis.figure.savefig(frame, format="png", dpi=dpi)
        # Few colours and no dithering, whose grain differs from frame to frame: half of the bytes.
        frames.append(Image.open(frame).convert("RGB").quantize(_COLORS, dither=Image.Dither.NONE))
    durations = [round(1000 / frames_per_second)] * len(frames)
    durations[-1] += _LAST_MILLISECONDS
    buffer = io.BytesIO()
    frames[0].save(
        buffer, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
    )
    return buffer.getvalue()


def _with_errors(estimate: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values and standard errors, zero where none are known, of rank 1."""
    value, error = (
        estimate if isinstance(estimate, Estimate) else (estimate, np.zeros(np.shape(estimate)))
    )
    return np.atleast_1d(np.asarray(value, float)), np.atleast_1d(np.asarray(error, float))


def _limits(clouds: list[np.ndarray]) -> tuple[float, float, float, float]:
    """A box that holds all but the outermost half per cent of each cloud on each side, with a margin."""
    low = np.min([np.quantile(points[:, :2], 0.005, axis=0) for points in clouds], axis=0)
    high = np.max([np.quantile(points[:, :2], 0.995, axis=0) for points in clouds], axis=0)
    margin = 0.08 * (high - low) + 1e-6
    return (
        float(low[0] - margin[0]),
        float(high[0] + margin[0]),
        float(low[1] - margin[1]),
        float(high[1] + margin[1]),
    )


def _histogram(axis, points, target, log_prob, target_name, name):
    if target is not None:
        axis.hist(target, bins=40, density=True, color=_TARGET, alpha=0.35, label=target_name)
    axis.hist(points, bins=40, density=True, color=_INK, alpha=0.5, label="flow")
    if log_prob is not None:
        left, right = axis.get_xlim()
        grid = np.linspace(left, right, _GRID_POINTS)
        axis.plot(
            grid,
            np.exp(np.asarray(jax.vmap(log_prob)(jnp.asarray(grid[:, None], float)))),
            color=_TARGET,
            label=target_name,
        )
    axis.set(xlabel=name, ylabel="density")
    return axis.figure
