"""A cloud over its target, at one time, at several times, or as a movie."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from swjko.plots.axes import INK, TARGET, new_axes
from swjko.types import Scalar, validation

_GRID_POINTS = 90
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
    """Draws the first two coordinates of a cloud over contours or points of its target.

    In one dimension it draws a histogram.

    Args:
      points: Points [n d].
      log_prob: Log-density of the target in the two plotted coordinates, at one point [2]. It
        gives contours at 10, 30, ... 90 % of its peak.
      target: Points [m d] of the target.
      target_name: Name of the target in the legend.
      limits: (left, right, bottom, top); None fits cloud and target.
      names: Names of the two axes.
      axis: Axes to draw into; None makes a figure.
    """
    axis = new_axes(1, (4.4, 4.0))[0] if axis is None else axis
    points = _as_cloud(points, "points")
    target = None if target is None else _as_cloud(target, "target")
    if points.shape[1] == 1:
        line = None if target is None else target[:, 0]
        return _histogram(axis, points[:, 0], line, log_prob, target_name, names[0])
    shown = [points] if target is None else [points, target]
    left, right, bottom, top = _limits(shown) if limits is None else limits
    dots = {"s": 4, "linewidths": 0, "rasterized": True}
    if target is not None:
        axis.scatter(*target.T[:2], color=TARGET, alpha=0.35, label=target_name, **dots)
    axis.scatter(*points.T[:2], color=INK, alpha=0.5, label="flow", **dots)
    if log_prob is not None:
        sides = ((left, right), (bottom, top))
        x, y = np.meshgrid(*(np.linspace(*side, _GRID_POINTS) for side in sides))
        grid = jnp.asarray(np.stack([x.ravel(), y.ravel()], axis=1), float)
        height = np.asarray(jax.vmap(log_prob)(grid)).reshape(x.shape)
        lines = {"levels": [0.1, 0.3, 0.5, 0.7, 0.9], "colors": TARGET, "linewidths": 0.9}
        axis.contour(x, y, np.exp(height - height.max()), **lines)
        axis.plot([], [], color=TARGET, linewidth=0.9, label=target_name)
    axis.set(xlim=(left, right), ylim=(bottom, top), xlabel=names[0], ylabel=names[1])
    return axis.figure


def clouds(points: Float[Any, "t n d"], times: Float[Any, " t"], **cloud_options: Any) -> Any:
    """Draws ``cloud`` at each of the times, side by side on equal axes.

    Args:
      points: Points [t n d], such as those of ``replay``.
      times: Times [t].
      cloud_options: Options of ``cloud``; limits are fitted to all times.
    """
    points, times = _as_trajectory(points, times)
    axes = new_axes(len(times), (2.6 * len(times) + 0.6, 3.2), shared=True)
    cloud_options = _with_limits(points, cloud_options)
    for axis, moment, time in zip(axes, points, times, strict=True):
        cloud(moment, axis=axis, **cloud_options)
        axis.set_title(f"t = {time:.3g}", fontsize=10)
        if axis is not axes[0]:
            axis.set_ylabel("")
    handles, labels = axes[0].get_legend_handles_labels()
    figure = axes[0].figure
    # Below the panels, where it covers no point.
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, markerscale=2)
    return figure


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
    """Writes a GIF of ``cloud`` at each of the times, on fixed axes.

    The last frame lasts longer.

    Args:
      points: Points [t n d] with d at least 2, such as those of ``replay``, where the same latents
        at all times let each point keep its identity.
      times: Times [t].
      path: File to write, ending in .gif; an existing one is replaced.
      frames_per_second: Frames per second.
      dpi: Dots per inch of frames of 4.4 by 4 inches, or of the size of the figure of ``axis``.
      max_bytes: Largest size of the file. A larger one is drawn again at fewer dots per inch, at
        least 40.
      cloud_options: Options of ``cloud``; limits are fitted to all times.

    Returns:
      The figure.

    Raises:
      ValueError: If max_bytes is too small for the movie; nothing is then written.

    Example::

        clouds = replay(key, scheme.family, states.params, 500)
        movie(clouds.points, times, "flow.gif", log_prob=log_prob)
    """
    points, times = _as_trajectory(points, times)
    if points.shape[2] < 2:
        raise ValueError(
            "points must have at least two coordinates to be drawn in a plane; "
            f"got shape {points.shape}. Use clouds."
        )
    if Path(path).suffix.lower() != ".gif":
        raise ValueError(f"path must end in .gif; got {os.fspath(path)!r}.")
    fps = float(validation.as_positive(frames_per_second, "frames_per_second"))
    dpi = float(validation.as_positive(dpi, "dpi"))
    max_bytes = validation.as_count(max_bytes, "max_bytes")
    figure = cloud(points[0], **_with_limits(points, cloud_options))
    axis = cloud_options.get("axis") or figure.axes[0]
    axis.legend(fontsize=8, markerscale=2, loc="upper left", framealpha=0.85)
    while len(written := _gif(axis, points, times, fps, dpi)) > max_bytes:
        if dpi <= _LEAST_DPI:
            raise ValueError(
                f"max_bytes must be at least {len(written)} for these {len(times)} frames of "
                f"{points.shape[1]} points; got {max_bytes}. Use fewer times or fewer points."
            )
        # Bytes grow slightly slower than pixels.
        dpi = max(_LEAST_DPI, 0.9 * dpi * (max_bytes / len(written)) ** 0.5)
    Path(path).write_bytes(written)
    return figure


def _as_numbers(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(values, float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a rectangular array of numbers.") from error


def _as_cloud(points: Any, name: str) -> np.ndarray:
    points = _as_numbers(points, name)
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(
            f"{name} must have rank 2, [points, dimension], none of them 0; "
            f"got shape {points.shape}. For points on a line use {name}[:, None]."
        )
    return points


def _as_trajectory(points: Any, times: Any) -> tuple[np.ndarray, np.ndarray]:
    points, times = _as_numbers(points, "points"), _as_numbers(times, "times")
    if points.ndim != 3 or 0 in points.shape:
        raise ValueError(
            "points must have rank 3, [times, points, dimension], none of them 0; "
            f"got shape {points.shape}."
        )
    if times.shape != points.shape[:1]:
        raise ValueError(
            f"times must have one value for each of {points.shape[0]} clouds; "
            f"got shape {times.shape}."
        )
    return points, times


def _with_limits(points: np.ndarray, cloud_options: dict[str, Any]) -> dict[str, Any]:
    """Returns options of ``cloud`` with limits that contain the first and last cloud and target."""
    if points.shape[2] == 1 or cloud_options.get("limits") is not None:
        return cloud_options
    target = cloud_options.get("target")
    shown = [points[0], points[-1], *([] if target is None else [np.asarray(target)])]
    return cloud_options | {"limits": _limits(shown)}


def _gif(axis: Any, points: np.ndarray, times: np.ndarray, fps: float, dpi: float) -> bytes:
    """Returns the bytes of a GIF of the axis with its flow at each of the times."""
    from PIL import Image

    dots = next(part for part in reversed(axis.collections) if part.get_label() == "flow")
    frames = []
    for moment, time in zip(points, times, strict=True):
        dots.set_offsets(moment[:, :2])
        axis.set_title(f"t = {time:.2f}", fontsize=10)
        frame = io.BytesIO()
        axis.figure.savefig(frame, format="png", dpi=dpi)
        # Few colours halve the bytes, and so does no dithering, whose grain differs between frames.
        picture = Image.open(frame, formats=["PNG"]).convert("RGB")
        frames.append(picture.quantize(_COLORS, dither=Image.Dither.NONE))
    durations = [round(1000 / fps)] * len(frames)
    durations[-1] += _LAST_MILLISECONDS
    buffer = io.BytesIO()
    options = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
    frames[0].save(buffer, format="GIF", **options)
    return buffer.getvalue()


def _limits(clouds: list[np.ndarray]) -> tuple[float, float, float, float]:
    """Returns a box with a margin around all but 0.5 % of each cloud on each side."""
    low = np.min([np.quantile(points[:, :2], 0.005, axis=0) for points in clouds], axis=0)
    high = np.max([np.quantile(points[:, :2], 0.995, axis=0) for points in clouds], axis=0)
    margin = 0.08 * (high - low) + 1e-6
    low, high = low - margin, high + margin
    return float(low[0]), float(high[0]), float(low[1]), float(high[1])


def _histogram(axis, points, target, log_prob, target_name, name):
    if target is not None:
        axis.hist(target, bins=40, density=True, color=TARGET, alpha=0.35, label=target_name)
    axis.hist(points, bins=40, density=True, color=INK, alpha=0.5, label="flow")
    if log_prob is not None:
        left, right = axis.get_xlim()
        grid = np.linspace(left, right, _GRID_POINTS)
        height = np.asarray(jax.vmap(log_prob)(jnp.asarray(grid[:, None], float)))
        axis.plot(grid, np.exp(height), color=TARGET, label=target_name)
    axis.set(xlabel=name, ylabel="density")
    return axis.figure
