"""Images on the host: IDX files (MNIST, Fashion-MNIST), CIFAR-10's binary files, folders of pictures, arrays, scikit-learn's digits.

All readers give ``Images``: bytes [n h w c], which flows take as ``images.rows()``. Whatever is wrong with a file is a ``DataError`` of one
line that names it. Sizes are held against the bytes there are before anything is allocated, and nothing is unpickled.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from swjko.data import image_files
from swjko.data.tables import DataError, mapped_npy, opened_npz, reason, require_extra

_PICTURE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".pgm",
    ".ppm",
    ".pnm",
)
_NAMED_FOLDERS = {
    "mnist": ("", "mnist", "MNIST/raw"),
    "fashion": ("fashion", "fashion-mnist", "FashionMNIST/raw", ""),
}
_DATA_VARIABLE = "SWJKO_DATA"


class Images(NamedTuple):
    """Pictures of one size.

    Attributes:
      pixels: [n h w c] bytes; c is 1 for grey and 3 for red, green, blue.
      labels: [n] classes from 0, or None.
      name: where they are from, for reports and messages.
    """

    pixels: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"] | None
    name: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, c) of one image."""
        h, w, c = self.pixels.shape[1:]
        return h, w, c

    def rows(self) -> Float[np.ndarray, "n d"]:
        """One image in each row, d = h w c, as float32 in [0, 1]: the byte over 255."""
        return self.pixels.reshape(len(self.pixels), -1).astype(np.float32) / np.float32(255.0)


def load_images(
    name: str | Path, data_dir: str | Path | None = None, *, train: bool | None = None
) -> Images:
    """Images by the name of their set, or from a file or folder of yours.

    Args:
      name: "digits" (scikit-learn's, no file needed), "mnist", "fashion" or "cifar10", looked for in ``data_dir``; or a path: a folder of
        pictures, of IDX or of CIFAR-10 files; a .npy or .npz array; an IDX file of images, with the file of their labels beside it or not.
      data_dir: directory of the named sets' files; None takes the environment variable SWJKO_DATA. ``mnist`` looks in it and in its folder
        mnist for the usual names, such as train-images-idx3-ubyte.gz; ``fashion`` first in its folders fashion, fashion-mnist and
        FashionMNIST/raw; ``cifar10`` in it and in its folders cifar10 and cifar-10-batches-bin.
      train: the part for training, or the one for tests; None takes the part for training if it is there, and the other if not. Digits,
        and files of yours, have no such parts.

    Raises DataError when nothing is there, or what is there cannot be used. Example: ``load_images("mnist", "data", train=False).rows()``.
    """
    text = str(name)
    if text in ("mnist", "fashion", "cifar10"):
        root = _data_directory(text, data_dir)
        if text == "cifar10":
            return _load_cifar10_in([root, root / "cifar10", root / "cifar-10-batches-bin"], train)
        return _load_idx_in([root / folder for folder in _NAMED_FOLDERS[text]], train, text)
    if train is not None and text == "digits":
        raise DataError("digits: the set has no parts for training and tests; leave train out.")
    if text == "digits":
        return digits_images()
    return _load_path(Path(name), train)


def load_idx(images_path: str | Path, labels_path: str | Path | None = None) -> Images:
    """Images, and labels where given, from IDX files as MNIST and Fashion-MNIST come in, packed by gzip or not.

    Raises DataError when a file cannot be read, is of another kind (its first four bytes are not 0x803 for images, 0x801 for labels), is
    shorter or longer than its header says, or when the numbers of images and labels differ.
    """
    path = Path(images_path)
    pixels = image_files.read_idx(path, image_files.IMAGES_MAGIC, "images")
    labels = (
        None
        if labels_path is None
        else image_files.read_idx(Path(labels_path), image_files.LABELS_MAGIC, "labels").astype(
            np.int64
        )
    )
    if labels is not None and len(labels) != len(pixels):
        raise DataError(
            f"{labels_path}: {len(labels)} labels, and {path} has {len(pixels)} images; they are not of one set."
        )
    return Images(pixels[..., None], labels, path.name)


def load_cifar10(source: str | Path | Sequence[str | Path], *, train: bool = True) -> Images:
    """CIFAR-10 in its binary version: records of 3073 bytes, a label and three planes of 32 x 32.

    Args:
      source: a directory with data_batch_1.bin to data_batch_5.bin and test_batch.bin; or one file, or several.
      train: of a directory, the data batches (all that are there) or the test batch.

    Raises DataError on a missing or empty file, on a length that is no multiple of 3073, and on labels above 9.
    """
    if isinstance(source, str | Path) and Path(source).is_dir():
        pattern = "data_batch_*.bin" if train else "test_batch.bin"
        paths = sorted(Path(source).glob(pattern))
        if not paths:
            raise DataError(f"{source}: no {pattern} in it, as the binary version of CIFAR-10 has.")
    else:
        paths = (
            [Path(source)] if isinstance(source, str | Path) else [Path(path) for path in source]
        )
        if not paths:
            raise DataError("CIFAR-10: no file was named.")
    records = np.concatenate([image_files.read_cifar_batch(path) for path in paths])
    pixels = records[:, 1:].reshape(-1, *image_files.CIFAR_SHAPE).transpose(0, 2, 3, 1)
    return Images(np.ascontiguousarray(pixels), records[:, 0].astype(np.int64), "cifar10")


def load_image_folder(path: str | Path) -> Images:
    """The pictures in a folder, in the order of their names; or of its subfolders, whose order then numbers the labels from 0.

    Files of other kinds and hidden ones are passed over. The first picture says whether all are grey or red, green and blue, and of what
    size they are; palettes are turned into colours. Where a folder has pictures itself, its subfolders are not looked into.

    Raises DataError naming the file on another size or mode than the first picture's, on transparency and on more than eight bits, on
    what cannot be read as a picture or is large beyond reason, and on a folder without any. Needs Pillow, which matplotlib brings.
    """
    folder = Path(path)
    try:
        files, labels = _pictures_of(folder), None
        if not files:
            classes = [
                (sub, _pictures_of(sub))
                for sub in sorted(folder.iterdir())
                if sub.is_dir() and not sub.name.startswith(".")
            ]
            classes = [pictures for _, pictures in classes if pictures]
            files = [file for pictures in classes for file in pictures]
            labels = np.repeat(np.arange(len(classes)), [len(pictures) for pictures in classes])
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({reason(error)}).") from error
    if not files:
        raise DataError(
            f"{folder}: no picture in it; looked for files ending in {', '.join(_PICTURE_SUFFIXES)}, in its folders too."
        )
    return Images(image_files.read_pictures(files), labels, folder.name)


def load_array(path: str | Path) -> Images:
    """Images from a .npy file, or from a .npz file with an array "images", "pixels" or "x", or one alone, and "labels" or "y", or neither.

    The array is [n h w] or [n h w c] with c = 1 or 3, bytes or floats in [0, 1]. Raises DataError on anything else, pickles included.
    """
    path = Path(path)
    if path.suffix == ".npy":
        return Images(_as_pixels(path, mapped_npy(path)), None, path.name)
    with opened_npz(path) as (members, read):
        names = [member.removesuffix(".npy") for member in members]
        of_labels = next((name for name in ("labels", "y") if name in names), None)
        others = [name for name in names if name != of_labels]
        of_images = next(
            (name for name in ("images", "pixels", "x") if name in names),
            others[0] if len(others) == 1 else None,
        )
        if of_images is None:
            raise DataError(
                f"{path}: no array 'images' among several; it holds {', '.join(names) or 'nothing'}."
            )
        pixels = _as_pixels(path, read(of_images))
        labels = None if of_labels is None else _as_labels(path, read(of_labels), len(pixels))
    return Images(pixels, labels, path.name)


def digits_images() -> Images:
    """scikit-learn's 1797 digits of 8 x 8 pixels with their labels; its grey levels 0 to 16 become round(255 / 16 level)."""
    data = require_extra("sklearn.datasets").load_digits()
    pixels = np.rint(np.asarray(data.images) * (255.0 / 16.0)).astype(np.uint8)
    return Images(pixels[..., None], np.asarray(data.target, np.int64), "digits")


def _data_directory(name: str, data_dir: str | Path | None) -> Path:
    given = data_dir or os.environ.get(_DATA_VARIABLE)
    if not given:
        raise DataError(
            f"{name}: no directory to look for its files in; give data_dir (--data-dir), or set {_DATA_VARIABLE}."
        )
    if not Path(given).is_dir():
        raise DataError(f"{given}: no such directory to look for {name} in.")
    return Path(given)


def _load_path(path: Path, train: bool | None) -> Images:
    if path.is_dir():
        if any(_idx_file(path, part, "images") for part in ("train", "t10k")):
            return _load_idx_in([path], train, path.name)
        if any(path.glob("*_batch*.bin")):
            return _load_cifar10_in([path], train)
    if train is not None:
        raise DataError(
            f"{path}: files of yours have no parts for training and tests; leave train out."
        )
    if path.is_dir():
        return load_image_folder(path)
    if not path.is_file():
        raise DataError(
            f'{path}: no such file or folder, and none of the sets "digits", "mnist", "fashion" and "cifar10".'
        )
    if path.suffix in (".npy", ".npz"):
        return load_array(path)
    if path.suffix == ".bin":
        return load_cifar10(path)
    labels_path = path.with_name(re.sub(r"images([-.])idx3", r"labels\1idx1", path.name))
    return load_idx(path, labels_path if labels_path != path and labels_path.is_file() else None)


def _load_idx_in(folders: Sequence[Path], train: bool | None, name: str) -> Images:
    parts = ("train", "t10k") if train is None else ("train",) if train else ("t10k",)
    for part in parts:
        for folder in folders:
            if images_path := _idx_file(folder, part, "images"):
                return load_idx(images_path, _idx_file(folder, part, "labels"))._replace(name=name)
    looked = ", ".join(str(folder) for folder in folders)
    raise DataError(
        f"{looked}: no file {' or '.join(f'{part}-images-idx3-ubyte' for part in parts)}, packed as .gz or not."
    )


def _idx_file(folder: Path, part: str, what: str) -> Path | None:
    rank = {"images": 3, "labels": 1}[what]
    names = [
        f"{part}-{what}{mark}idx{rank}-ubyte{packed}" for mark in "-." for packed in ("", ".gz")
    ]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _load_cifar10_in(folders: Sequence[Path], train: bool | None) -> Images:
    for part in (True, False) if train is None else (train,):
        for folder in folders:
            if any(folder.glob("data_batch_*.bin" if part else "test_batch.bin")):
                return load_cifar10(folder, train=part)
    missing = {
        None: "data_batch_1.bin or test_batch.bin",
        True: "data_batch_1.bin",
        False: "test_batch.bin",
    }[train]
    raise DataError(
        f"{', '.join(str(folder) for folder in folders)}: no file {missing}, as the binary version of CIFAR-10 has."
    )


def _pictures_of(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _PICTURE_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
    )


def _as_pixels(path: Path, values: Any) -> UInt8[np.ndarray, "n h w c"]:
    shape = getattr(values, "shape", ())
    whole = (
        isinstance(values, np.ndarray)
        and (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3)))
        and 0 not in shape
    )
    if not whole or not (values.dtype == np.uint8 or values.dtype.kind == "f"):
        received = (
            f"{values.dtype} of shape {shape}"
            if isinstance(values, np.ndarray)
            else type(values).__name__
        )
        raise DataError(
            f"{path}: must hold images [n h w] or [n h w c], c = 1 or 3, as bytes or floats in [0, 1]; it holds {received}."
        )
    if values.size > image_files.MAX_BYTES:
        raise DataError(
            f"{path}: {image_files.as_text(shape)} values are too many for memory; take fewer images."
        )
    if values.dtype != np.uint8:
        if not (np.min(values) >= 0 and np.max(values) <= 1):
            raise DataError(
                f"{path}: floats must lie in [0, 1]; they reach from {np.min(values):.4g} to {np.max(values):.4g}."
            )
        values = np.rint(255 * np.asarray(values, np.float32))
    return np.array(values, np.uint8).reshape(*shape[:3], -1)


def _as_labels(path: Path, values: np.ndarray, count: int) -> Int[np.ndarray, " n"]:
    if values.shape != (count,) or values.dtype.kind not in "iu":
        raise DataError(
            f"{path}: labels must be one whole number for each of {count} images; they are {values.dtype} of {values.shape}."
        )
    return values.astype(np.int64)
