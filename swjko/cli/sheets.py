"""Sheets of pictures, side by side."""

import io
from pathlib import Path

import numpy as np

from swjko.checkpoints.files import write_atomically
from swjko.data.tables import require_extra

# Pictures are enlarged by an integer factor to about this many pixels.
_SHOWN_PIXELS = 40


def sheet(blocks: list[np.ndarray], shape: tuple[int, int, int], grid: int) -> np.ndarray:
    """Draw blocks of pictures side by side.

    Args:
      blocks: Each holds rows [grid^2 h*w*c] in [0, 1], drawn as grid x grid pictures.
      shape: (h, w, c) of a picture. Pictures are enlarged by an integer factor.
      grid: Rows and columns of a block.

    Returns:
      The sheet as bytes, [height width] for c = 1 and [height width 3] for c = 3.
    """
    h, w, c = shape
    factor = max(1, _SHOWN_PIXELS // max(h, w))
    gap = max(1, factor * max(h, w) // 10)
    drawn = []
    for block in blocks:
        pictures = np.rint(255 * np.clip(block, 0.0, 1.0)).astype(np.uint8)
        pictures = pictures.reshape(grid, grid, h, w, c).repeat(factor, 2).repeat(factor, 3)
        margins = ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0))
        pictures = np.pad(pictures, margins, constant_values=128)
        drawn.append(pictures.transpose(0, 2, 1, 3, 4).reshape(grid * pictures.shape[2], -1, c))
    between = np.full((drawn[0].shape[0], 2 * gap, c), 128, np.uint8)
    whole = np.concatenate([part for block in drawn for part in (block, between)][:-1], axis=1)
    whole = np.pad(whole, ((gap, 0), (gap, 0), (0, 0)), constant_values=128)
    return whole[..., 0] if c == 1 else whole


def save_sheet(picture: np.ndarray, path: Path, *, overwrite: bool = True) -> None:
    """Write a sheet as a PNG file atomically.

    Args:
      picture: The sheet as bytes.
      path: Where to write.
      overwrite: Whether to replace a file.
    """
    buffer = io.BytesIO()
    require_extra("PIL.Image").fromarray(picture).save(buffer, format="PNG", optimize=True)
    write_atomically(path, buffer.getvalue(), replace=overwrite)
