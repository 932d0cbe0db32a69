"""Figures of the images benchmark: sheets of images, images step by step, and scores."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from benchmarks import common

_SHEET, _COLUMNS, _TIMES, _EACH = (5, 10), 4, 6, 5
_COLOURS = 96


def save_all(
    drawn: Mapping[str, Any], found: Mapping[str, Any], directory: Path, stem: str
) -> None:
    """Save the figures of one seed, as PNG of few colours, a third of the size."""
    figures = {"sheets": sheets(drawn), "steps": steps(drawn), "scores": scores(found)}
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=100)
        buffer.seek(0)
        picture = Image.open(buffer, formats=["PNG"]).convert("RGB").quantize(_COLOURS)
        picture.save(directory / f"{stem}_{name}.png", optimize=True)


def sheets(drawn: Mapping[str, Any]) -> Figure:
    """Fifty images of each method, beside held-out ones and those after the autoencoder."""
    panels = {"held-out": drawn["data"], "held-out, through the autoencoder": drawn["autoencoder"]}
    panels |= drawn["methods"]
    rows = -(-len(panels) // _COLUMNS)
    figure, axes = common.new_figure(12.0, 1.85 * rows, rows, _COLUMNS)
    for axis in axes.ravel():
        axis.set_axis_off()
    for axis, (name, images) in zip(axes.ravel(), panels.items(), strict=False):
        _draw(axis, tiled(images, drawn["shape"], _SHEET))
        axis.set_title(name, fontsize=9)
    return figure


def steps(drawn: Mapping[str, Any]) -> Figure:
    """The same latents through the steps of each method, and images between two latents."""
    trajectories, between = drawn["trajectories"], drawn.get("interpolation")
    heights = [1.0] * len(trajectories) + [2.1] * (between is not None)
    size, num = (9.2, 0.56 * len(trajectories) + 1.0), len(heights)
    figure, axes = common.new_figure(*size, num, height_ratios=heights)
    for axis, (name, kept) in zip(axes[:, 0], trajectories.items(), strict=False):
        places = np.linspace(0, len(kept) - 1, _TIMES).round().astype(int)
        chosen = np.array(list(kept))[np.unique(places)]
        strips = [tiled(kept[step], drawn["shape"], (1, _EACH)) for step in chosen]
        margin = ((0, 0), (0, 4), (0, 0))
        strips = [np.pad(strip, margin, constant_values=1.0) for strip in strips]
        _draw(axis, np.concatenate(strips, axis=1))
        axis.set_title(f"{name}, after {', '.join(map(str, chosen))} steps", fontsize=8, pad=2)
    if between is not None:
        _draw(axes[-1, 0], tiled(between, drawn["shape"], (2, -(-len(between) // 2))))
        title = "latent sw_jko coupling, along great circles of the noise"
        axes[-1, 0].set_title(title, fontsize=8, pad=2)
    return figure


def scores(found: Mapping[str, Any]) -> Figure:
    """Frechet distances of the sliced-Wasserstein flow by steps, beside those of all else."""
    figure, ((axis,),) = common.new_figure(8.0, 4.0)
    for index, (name, rows) in enumerate(found["swf_by_steps"].items()):
        x, y = ([row[key] for row in rows] for key in ("steps", "frechet"))
        axis.plot(x, y, "o-", color=f"C{index}", label=name)
    others = [name for name in found["methods"] if "sliced_flow" not in name]
    lines = {
        name: (found["methods"][name]["metrics"], f"C{index}", "-" if "latent" in name else "--")
        for index, name in enumerate(others, start=len(found["swf_by_steps"]))
    }
    for name, style in (("autoencoder, training", "-."), ("training half", ":")):
        lines[name] = (found["references"][name], "black", style)
    for name, (metrics, color, style) in lines.items():
        axis.axhline(metrics["frechet"], color=color, linestyle=style, linewidth=1.2, label=name)
    axis.set(xscale="log", xlabel="steps of the sliced-Wasserstein flow")
    axis.set(yscale="log", ylabel="Frechet distance, % of the features' variance")
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def great_circles(latents: Any, count: int = 15, pairs: int = 2) -> np.ndarray:
    """Points [pairs * count d] from each of the first Gaussian latents to one of the next.

    Args:
      latents: Gaussian latents [n d], at least 2 * pairs.
      count: Points of each path, at equal angles.
      pairs: Number of paths.
    """
    angles = np.linspace(0.0, np.pi / 2, count)[:, None]
    latents = np.asarray(latents)
    ends = zip(latents[:pairs], latents[pairs : 2 * pairs], strict=True)
    paths = [np.cos(angles) * x + np.sin(angles) * y for x, y in ends]
    return np.concatenate(paths).astype(np.float32)


def tiled(images: Any, shape: tuple[int, int, int], grid: tuple[int, int]) -> np.ndarray:
    """Rows in [0, 1] as one picture [h w c], white where there are too few.

    Args:
      images: Rows [n h*w*c].
      shape: Height, width and channels of an image; a white line is added to both sides.
      grid: Number of rows and columns of the picture.
    """
    images = np.asarray(images)[: math.prod(grid)].reshape(-1, *shape)
    margins = ((0, math.prod(grid) - len(images)), (0, 1), (0, 1), (0, 0))
    images = np.pad(images, margins, constant_values=1.0)
    _, height, width, channels = images.shape
    blocks = images.reshape(*grid, height, width, channels).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(grid[0] * height, -1, channels)


def _draw(axis: Axes, picture: np.ndarray) -> None:
    axis.set_axis_off()
    picture = np.clip(picture, 0.0, 1.0)
    picture = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
    axis.imshow(picture, interpolation="nearest")
