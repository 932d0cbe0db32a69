"""Sets of images from files and folders, as bytes [n h w c].

A file that cannot be used raises ``DataError``, one line that names the file. Pickles are never
loaded, and memory is allocated only for data that the file holds, within the limits of ``gate``.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from swjko.data import array_files, errors, gate, image_files, pictures
from swjko.data.tables import DataError, require_extra

_PICTURE_SUFFIXES = tuple(
    f".{kind}"
    for kind in ("png", "jpg", "jpeg", "bmp", "gif", "webp", "tif", "tiff", "pgm", "ppm", "pnm")
)
_NAMED_FOLDERS = {
    "mnist": ("", "mnist", "MNIST/raw"),
    "fashion": ("fashion", "fashion-mnist", "FashionMNIST/raw", ""),
    "cifar10": ("", "cifar10", "cifar-10-batches-bin"),
}
_DATA_VARIABLE = "SWJKO_DATA"


class Images(NamedTuple):
    """Pictures of one size.

    Attributes:
      pixels: [n h w c] bytes; c is 1 for grey and 3 for red, green, blue.
      labels: [n] classes from 0, or None.
      name: The source, for reports and messages.
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
        """Return one image in each row, d = h w c, as float32 in [0, 1] (bytes over 255)."""
        return self.pixels.reshape(len(self.pixels), -1).astype(np.float32) / np.float32(255.0)


def load_images(
    name: str | Path, data_dir: str | Path | None = None, *, train: bool | None = None
) -> Images:
    """Load a set of images by name, or from a file or folder.

    Args:
      name: "digits" (from scikit-learn), "mnist", "fashion" or "cifar10"; or a path: a folder of
        pictures, of IDX files or of CIFAR-10 files; a .npy or .npz array; or an IDX file of
        images, whose file of labels may lie beside it.
      data_dir: Directory of the named sets; None reads the environment variable SWJKO_DATA. Also
        searched are its folders mnist and MNIST/raw; fashion, fashion-mnist and FashionMNIST/raw;
        cifar10 and cifar-10-batches-bin.
      train: True for the training part, False for the test part; None takes the training part if
        it is there, and the test part otherwise. Only sets of IDX or CIFAR-10 files have parts.

    Returns:
      The ``Images``.

    Raises:
      DataError: If nothing is found, or it cannot be used.

    Example::

        rows = load_images("mnist", "data", train=False).rows()
    """
    if name in _NAMED_FOLDERS:
        given = data_dir or os.environ.get(_DATA_VARIABLE)
        if not given:
            raise DataError(
                f"{name}: needs a directory. Pass data_dir (--data-dir), or set {_DATA_VARIABLE}."
            )
        if not Path(given).is_dir():
            raise DataError(f"{given}: no such directory to look for {name} in.")
        load = _load_cifar10_in if name == "cifar10" else _load_idx_in
        return load(
            [Path(given) / folder for folder in _NAMED_FOLDERS[str(name)]], train, str(name)
        )
    path = Path(name)
    if path.is_dir() and any(_idx_file(path, part, "images") for part in ("train", "t10k")):
        return _load_idx_in([path], train, path.name)
    if path.is_dir() and any(path.glob("*_batch*.bin")):
        return _load_cifar10_in([path], train, path.name)
    if train is not None:
        raise DataError(f"{path}: has no training and test parts. Leave train out.")
    if name == "digits":
        return digits_images()
    if path.is_dir():
        return load_image_folder(path)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file or folder, and not one of the sets digits, mnist, fashion and "
            "cifar10."
        )
    if path.suffix in (".npy", ".npz"):
        return load_array(path)
    if path.suffix == ".bin":
        return load_cifar10(path)
    labels_path = path.with_name(re.sub(r"images([-.])idx3", r"labels\1idx1", path.name))
    return load_idx(path, labels_path if labels_path != path and labels_path.is_file() else None)


def load_idx(images_path: str | Path, labels_path: str | Path | None = None) -> Images:
    """Load images from IDX files, the format of MNIST and Fashion-MNIST.

    Args:
      images_path: The file of images, plain or packed by gzip.
      labels_path: The file of labels, or None.

    Returns:
      The ``Images``.

    Raises:
      DataError: If a file cannot be read, is of another kind, is shorter or longer than its header
        says, or if the numbers of images and labels differ.
    """
    path = Path(images_path)
    pixels, labels = image_files.read_idx(path, image_files.IMAGES_MAGIC), None
    if labels_path is not None:
        labels = image_files.read_idx(Path(labels_path), image_files.LABELS_MAGIC).astype(np.int64)
        if len(labels) != len(pixels):
            raise DataError(
                f"{labels_path}: must hold one label for each of the {len(pixels)} images of "
                f"{path}; got {len(labels)}."
            )
    return Images(pixels[..., None], labels, path.name)


def load_cifar10(source: str | Path | Sequence[str | Path], *, train: bool = True) -> Images:
    """Load CIFAR-10 from its binary version: records of a label and three planes of 32 x 32.

    Args:
      source: A directory with data_batch_1.bin to data_batch_5.bin and test_batch.bin; or one
        file, or several.
      train: In a directory, whether to load the data batches (all that are there) or the test
        batch.

    Returns:
      The ``Images``.

    Raises:
      DataError: If a file is missing or cut short, or a label is above 9.
    """
    if isinstance(source, str | Path):
        paths = [Path(source)]
        if paths[0].is_dir():
            pattern = "data_batch_*.bin" if train else "test_batch.bin"
            paths = sorted(Path(source).glob(pattern))
            if not paths:
                raise DataError(f"{source}: no file {pattern} of CIFAR-10's binary version.")
    else:
        paths = [Path(path) for path in source]
    if not paths:
        raise DataError("CIFAR-10: source must name at least one file; got none.")
    records = np.concatenate([image_files.read_cifar_batch(path) for path in paths])
    pixels = records[:, 1:].reshape(-1, *image_files.CIFAR_SHAPE).transpose(0, 2, 3, 1)
    return Images(np.ascontiguousarray(pixels), records[:, 0].astype(np.int64), "cifar10")


def load_image_folder(path: str | Path) -> Images:
    """Load the pictures in a folder, or in its subfolders as classes. Needs Pillow.

    Args:
      path: The folder. Its pictures are read in the order of their names; hidden files and other
        kinds of files are ignored. If it holds no pictures, those of its subfolders are read, and
        the order of the subfolders numbers the labels from 0. All pictures must have the size and
        the mode (grey or RGB) of the first. Palettes are converted to RGB, and pictures are turned
        upright as their EXIF orientation says. Of an MPO file the first picture is read.

    Returns:
      The ``Images``.

    Raises:
      DataError: If there are no pictures, if one differs in size or mode from the first, has
        transparency, more than eight bits or several frames, is unreasonably large or cannot be
        read.
    """
    folder = Path(path)
    try:
        files, labels = _pictures_of(folder), None
        if not files:
            subfolders = [sub for sub in sorted(folder.iterdir()) if sub.is_dir()]
            classes = [_pictures_of(sub) for sub in subfolders if not sub.name.startswith(".")]
            classes = [found for found in classes if found]
            files = [file for found in classes for file in found]
            labels = np.repeat(np.arange(len(classes)), [len(found) for found in classes])
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({errors.reason(error)}).") from error
    if not files:
        raise DataError(
            f"{folder}: no pictures in it or its subfolders; file names must end in "
            f"{', '.join(_PICTURE_SUFFIXES)}."
        )
    return Images(pictures.read_pictures(files), labels, folder.name)


def load_array(path: str | Path) -> Images:
    """Load images from a .npy or .npz file.

    Args:
      path: The file. The images are [n h w] or [n h w c] with c = 1 or 3, as bytes or as floats in
        [0, 1], which are rounded to 256 levels. A .npz file holds them as "images", "pixels" or
        "x", or as its only array besides the labels; labels are "labels" or "y".

    Returns:
      The ``Images``.

    Raises:
      DataError: If the file holds anything else.
    """
    path = Path(path)
    if path.suffix == ".npy":
        with array_files.opened_npy(path) as array:
            return Images(image_files.read_pixels(path, array), None, path.name)
    names = array_files.npz_names(path)
    of_labels = next((name for name in ("labels", "y") if name in names), None)
    others = [name for name in names if name != of_labels]
    of_images = [name for name in ("images", "pixels", "x") if name in names]
    if not of_images and len(others) != 1:
        held = errors.shortened([errors.quoted(name)[1:-1] for name in names]) or "nothing"
        raise DataError(f"{path}: must hold an array 'images'; it holds {held}.")
    with array_files.opened_member(path, (of_images or others)[0]) as array:
        pixels = image_files.read_pixels(path, array, most=gate.MAX_UNCHECKED_BYTES)
    labels = None if of_labels is None else _read_labels(path, of_labels, len(pixels))
    return Images(pixels, labels, path.name)


def _read_labels(path: Path, name: str, count: int) -> Int[np.ndarray, " n"]:
    with array_files.opened_member(path, name) as array:
        shape, dtype, _ = array.header
        if shape != (count,) or dtype.kind not in "iu":
            raise DataError(
                f"{path}: labels must be one integer for each of {count} images; "
                f"got {dtype} of shape {shape}."
            )
        labels = array.read()
    if np.max(labels) > np.iinfo(np.int64).max:
        raise DataError(
            f"{path}: labels must be at most 2^63 - 1; got {np.max(labels)}. Number the classes "
            "from 0."
        )
    return labels.astype(np.int64)


def digits_images() -> Images:
    """Return scikit-learn's 1797 digits of 8 x 8 pixels, grey levels rescaled to 0 to 255."""
    data = require_extra("sklearn.datasets").load_digits()
    pixels = np.rint(np.asarray(data.images) * (255.0 / 16.0)).astype(np.uint8)
    return Images(pixels[..., None], np.asarray(data.target, np.int64), "digits")


def _load_idx_in(folders: Sequence[Path], train: bool | None, name: str) -> Images:
    parts = ("train", "t10k") if train is None else ("train",) if train else ("t10k",)
    for part in parts:
        for folder in folders:
            if images_path := _idx_file(folder, part, "images"):
                return load_idx(images_path, _idx_file(folder, part, "labels"))._replace(name=name)
    looked = ", ".join(map(str, folders))
    files = " or ".join(f"{part}-images-idx3-ubyte" for part in parts)
    raise DataError(f"{looked}: no file {files}, plain or packed as .gz.")


def _idx_file(folder: Path, part: str, what: str) -> Path | None:
    rank = {"images": 3, "labels": 1}[what]
    names = [f"{part}-{what}{mark}idx{rank}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _load_cifar10_in(folders: Sequence[Path], train: bool | None, name: str) -> Images:
    for part in (True, False) if train is None else (train,):
        for folder in folders:
            if any(folder.glob("data_batch_*.bin" if part else "test_batch.bin")):
                return load_cifar10(folder, train=part)
    names = ["data_batch_1.bin"] * (train is not False) + ["test_batch.bin"] * (train is not True)
    looked = ", ".join(map(str, folders))
    raise DataError(f"{looked}: no file {' or '.join(names)} of CIFAR-10's binary version.")


def _pictures_of(folder: Path) -> list[Path]:
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in _PICTURE_SUFFIXES]
    return [path for path in files if not path.name.startswith(".") and path.is_file()]
