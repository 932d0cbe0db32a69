"""What the images benchmark draws: sheets of all methods, what happens from step to step, and scores against steps."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_SHEET, _COLUMNS, _TIMES, _EACH = (5, 10), 4, 6, 5
_COLOURS = 96


def all_of(drawn: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """matplotlib figures by name: "sheets", "steps" and "scores"."""
    return {"sheets": sheets(drawn), "steps": steps(drawn), "scores": scores(found)}


def save(figure: Any, path: Path) -> None:
    """As a PNG of few colours, a third of the size."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    buffer.seek(0)
    Image.open(buffer).convert("RGB").quantize(_COLOURS).save(path, optimize=True)


def sheets(drawn: Mapping[str, Any]) -> Any:
    """Fifty images of each method, beside held-out ones and those after the autoencoder."""
    panels = {
        "held-out": drawn["data"],
        "held-out, through the autoencoder": drawn["autoencoder"],
        **drawn["methods"],
    }
    rows = -(-len(panels) // _COLUMNS)
    figure, axes = _figure(rows, _COLUMNS, (12.0, 1.85 * rows))
    for axis in axes.ravel():
        axis.set_axis_off()
    for axis, (name, images) in zip(axes.ravel(), panels.items(), strict=False):
        _draw(axis, tiled(images, drawn["shape"], _SHEET))
        axis.set_title(name, fontsize=9)
    return figure


def steps(drawn: Mapping[str, Any]) -> Any:
    """The same latents through the steps of each method, and images between two latents."""
    trajectories = drawn["trajectories"]
    last = ["interpolation"] if "interpolation" in drawn else []
    figure, axes = _figure(
        len(trajectories) + len(last),
        1,
        (9.2, 0.56 * len(trajectories) + 1.0),
        [1.0] * len(trajectories) + [2.1] * len(last),
    )
    for axis, (name, kept) in zip(axes[:, 0], trajectories.items(), strict=False):
        chosen = np.array(list(kept))[
            np.unique(np.linspace(0, len(kept) - 1, _TIMES).round().astype(int))
        ]
        strips = [tiled(kept[step], drawn["shape"], (1, _EACH)) for step in chosen]
        _draw(
            axis,
            np.concatenate(
                [np.pad(strip, ((0, 0), (0, 4), (0, 0)), constant_values=1.0) for strip in strips],
                axis=1,
            ),
        )
        axis.set_title(f"{name}, after {', '.join(map(str, chosen))} steps", fontsize=8, pad=2)
    if last:
        _draw(
            axes[-1, 0],
            tiled(
                drawn["interpolation"], drawn["shape"], (2, -(-len(drawn["interpolation"]) // 2))
            ),
        )
        axes[-1, 0].set_title(
            "latent sw_jko coupling, along great circles of the noise", fontsize=8, pad=2
        )
    return figure


def scores(found: Mapping[str, Any]) -> Any:
    """Frechet distances of the sliced-Wasserstein flow after more and more steps, beside those of all else."""
    figure, axes = _figure(1, 1, (8.0, 4.0))
    axis = axes[0, 0]
    for index, (name, rows) in enumerate(found["swf_by_steps"].items()):
        axis.plot(
            [row["steps"] for row in rows],
            [row["frechet"] for row in rows],
            "o-",
            color=f"C{index}",
            label=name,
        )
    others = [name for name in found["methods"] if "sliced_flow" not in name]
    for index, name in enumerate(others, start=len(found["swf_by_steps"])):
        style = "-" if name.startswith("latent") else "--"
        axis.axhline(
            found["methods"][name]["metrics"]["frechet"],
            color=f"C{index}",
            linestyle=style,
            linewidth=1.2,
            label=name,
        )
    for name, style in (("autoencoder, training", "-."), ("training half", ":")):
        axis.axhline(
            found["references"][name]["frechet"],
            color="black",
            linestyle=style,
            linewidth=1.2,
            label=name,
        )
    axis.set(
        xlabel="steps of the sliced-Wasserstein flow",
        ylabel="Frechet distance, % of the features' variance",
        xscale="log",
        yscale="log",
    )
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def great_circles(latents: Any, count: int = 15, pairs: int = 2) -> Any:
    """[pairs * count d], from each of the first ``pairs`` Gaussian latents to one of the next, at equal angles."""
    angles = np.linspace(0.0, np.pi / 2, count)
    ends = [
        (np.asarray(latents[index]), np.asarray(latents[pairs + index])) for index in range(pairs)
    ]
    return np.stack(
        [np.cos(angle) * x + np.sin(angle) * y for x, y in ends for angle in angles]
    ).astype(np.float32)


def tiled(images: Any, shape: tuple[int, int, int], grid: tuple[int, int]) -> np.ndarray:
    """Rows in [0, 1] as one picture [h w c] of grid[0] x grid[1] images, a white line between them and white where there are too few."""
    images = np.asarray(images)[: grid[0] * grid[1]].reshape(-1, *shape)
    images = np.pad(
        images, ((0, grid[0] * grid[1] - len(images)), (0, 0), (0, 0), (0, 0)), constant_values=1.0
    )
    images = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1.0)
    _, height, length, channels = images.shape
    return (
        images.reshape(*grid, height, length, channels)
        .transpose(0, 2, 1, 3, 4)
        .reshape(grid[0] * height, -1, channels)
    )


def _draw(axis: Any, picture: np.ndarray) -> None:
    axis.set_axis_off()
    picture = np.clip(picture, 0.0, 1.0)
    axis.imshow(
        np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture, interpolation="nearest"
    )


def _figure(rows: int, columns: int, size: tuple[float, float], heights: Any = None) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
