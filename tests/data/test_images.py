"""Readers of images: tiny files of each kind, and what each says of a file that is wrong."""

import gzip
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import swjko.images
from swjko import problems
from swjko.data import image_files, images
from swjko.data.tables import DataError

SHARED = Path(
    os.environ.get("SWJKO_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
)
GREY = (np.arange(4 * 3 * 2) * 11 % 256).astype(np.uint8).reshape(4, 3, 2)
COLOURS = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)
LABELS = np.array([3, 0, 9, 3], np.uint8)


def idx(array, magic=None):
    magic = {3: 0x803, 1: 0x801}[array.ndim] if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def cifar(labels, planes):
    return b"".join(
        bytes([label]) + plane.tobytes() for label, plane in zip(labels, planes, strict=True)
    )


PLANES = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)


def save_pictures(folder, pictures, names=None):
    folder.mkdir(exist_ok=True)
    for at, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / (names[at] if names else f"{at}.png"))


def expect(read, pixels, labels=None):
    assert read.pixels.dtype == np.uint8
    np.testing.assert_array_equal(read.pixels, pixels.reshape(*pixels.shape[:3], -1))
    assert (read.labels is None) == (labels is None)
    if labels is not None:
        np.testing.assert_array_equal(read.labels, labels)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_packed_or_not_whatever_the_name(tmp_path, pack):
    (tmp_path / "a").write_bytes(pack(idx(GREY)))
    (tmp_path / "b.gz").write_bytes(pack(idx(LABELS)))
    expect(images.load_idx(tmp_path / "a", tmp_path / "b.gz"), GREY, LABELS)
    expect(images.load_idx(tmp_path / "a"), GREY)


def test_rows_are_bytes_over_255(tmp_path):
    (tmp_path / "a").write_bytes(idx(GREY))
    read = images.load_images(tmp_path / "a")
    assert (read.shape, read.name) == ((3, 2, 1), "a")
    rows = read.rows()
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, GREY.reshape(4, 6) / 255.0, rtol=1e-6)
    assert images.Images(np.full((1, 1, 1, 1), 255, np.uint8), None, "white").rows()[0, 0] == 1.0


def test_named_sets_are_found_where_they_usually_lie(tmp_path, monkeypatch):
    for folder, mark, packed in (("mnist", "-", gzip.compress), ("FashionMNIST/raw", ".", bytes)):
        (tmp_path / folder).mkdir(parents=True)
        for part, count in (("train", 4), ("t10k", 2)):
            ending = ".gz" if packed is gzip.compress else ""
            (tmp_path / folder / f"{part}-images{mark}idx3-ubyte{ending}").write_bytes(
                packed(idx(GREY[:count]))
            )
            (tmp_path / folder / f"{part}-labels{mark}idx1-ubyte{ending}").write_bytes(
                packed(idx(LABELS[:count]))
            )
    for name in ("mnist", "fashion"):
        expect(images.load_images(name, tmp_path), GREY, LABELS)
        expect(images.load_images(name, tmp_path, train=True), GREY, LABELS)
        expect(images.load_images(name, str(tmp_path), train=False), GREY[:2], LABELS[:2])
        monkeypatch.setenv("SWJKO_DATA", str(tmp_path))
        assert images.load_images(name).name == name
        monkeypatch.delenv("SWJKO_DATA")
    # Of a folder of such files, and of a file with its labels beside it.
    expect(images.load_images(tmp_path / "mnist", train=False), GREY[:2], LABELS[:2])
    expect(
        images.load_images(tmp_path / "FashionMNIST/raw/t10k-images.idx3-ubyte"),
        GREY[:2],
        LABELS[:2],
    )
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").unlink()
    expect(images.load_images("mnist", tmp_path), GREY[:2], LABELS[:2])
    expect_error(
        "no file train-images-idx3-ubyte, plain or packed as .gz",
        images.load_images,
        "mnist",
        tmp_path,
        train=True,
    )


def test_cifar10_in_its_order_of_channels(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(cifar(LABELS[:2], PLANES[:2]))
    (tmp_path / "data_batch_2.bin").write_bytes(cifar(LABELS[2:3], PLANES[2:3]))
    (tmp_path / "test_batch.bin").write_bytes(cifar(LABELS[3:], PLANES[3:]))
    pixels = np.moveaxis(PLANES, 1, 3)
    expect(images.load_cifar10(tmp_path), pixels[:3], LABELS[:3])
    expect(images.load_cifar10(tmp_path, train=False), pixels[3:], LABELS[3:])
    expect(
        images.load_cifar10([tmp_path / "test_batch.bin", tmp_path / "data_batch_1.bin"]),
        pixels[[3, 0, 1]],
        LABELS[[3, 0, 1]],
    )
    expect(images.load_images("cifar10", tmp_path), pixels[:3], LABELS[:3])
    expect(images.load_images(tmp_path, train=False), pixels[3:], LABELS[3:])
    expect(images.load_images(tmp_path / "test_batch.bin"), pixels[3:], LABELS[3:])
    (tmp_path / "test_batch.bin").unlink()
    expect_error("no file test_batch.bin", images.load_images, "cifar10", tmp_path, train=False)


def test_pictures_in_the_order_of_their_names(tmp_path):
    save_pictures(tmp_path / "grey", GREY[:3], ["b.png", "a.bmp", "c.pgm"])
    (tmp_path / "grey" / "notes.txt").write_text("not a picture")
    (tmp_path / "grey" / ".hidden.png").write_bytes(b"")
    expect(images.load_images(tmp_path / "grey"), GREY[[1, 0, 2]])
    save_pictures(tmp_path / "colours", COLOURS[:2], ["x.png", "y.ppm"])
    expect(images.load_image_folder(tmp_path / "colours"), COLOURS[:2])
    flat = Image.fromarray(COLOURS[2]).convert("P", palette=Image.Palette.ADAPTIVE)
    flat.save(tmp_path / "colours" / "z.png")
    expect(images.load_image_folder(tmp_path / "colours"), COLOURS[:3])


def test_subfolders_are_classes(tmp_path):
    save_pictures(tmp_path / "cats", GREY[:1])
    save_pictures(tmp_path / "ants", GREY[1:3])
    (tmp_path / "empty").mkdir()
    expect(images.load_image_folder(tmp_path), GREY[[1, 2, 0]], [0, 0, 1])


def test_arrays_of_bytes_and_of_floats(tmp_path):
    np.save(tmp_path / "grey.npy", GREY)
    np.save(tmp_path / "colours.npy", COLOURS / 255.0)
    np.save(tmp_path / "half.npy", (GREY / 255.0).astype(np.float16)[..., None])
    expect(images.load_images(tmp_path / "grey.npy"), GREY)
    expect(images.load_array(tmp_path / "colours.npy"), COLOURS)
    expect(images.load_array(tmp_path / "half.npy"), GREY)
    np.savez_compressed(tmp_path / "named.npz", pixels=GREY, y=LABELS, other=LABELS)
    np.savez(tmp_path / "alone.npz", GREY)
    expect(images.load_images(tmp_path / "named.npz"), GREY, LABELS)
    expect(images.load_images(tmp_path / "alone.npz"), GREY)


def test_digits_reach_from_black_to_white():
    from sklearn.datasets import load_digits

    data = load_digits()
    read = images.load_images("digits")
    assert (read.pixels.shape, read.pixels.min(), read.pixels.max()) == ((1797, 8, 8, 1), 0, 255)
    np.testing.assert_allclose(read.rows(), data.data / 16.0, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(read.labels, data.target)


@pytest.mark.skipif(
    not (SHARED / "mnist").is_dir(), reason="MNIST is not here; set SWJKO_DATA to its directory"
)
def test_the_shared_digits():
    read = images.load_images("mnist", SHARED)
    assert read.pixels.shape == (10_000, 28, 28, 1)
    # Published: the labels' counts, and the mean level of the test part, 33.79.
    np.testing.assert_array_equal(
        np.bincount(read.labels), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    )
    assert read.pixels.mean() == pytest.approx(33.79, abs=0.01)


BAD_IDX = {
    "empty": (b"", "must be an IDX file of images, beginning with 00000803; it is empty"),
    "another kind": (b"\x89PNG" + bytes(20), "it begins with 89504e47"),
    "floats": (idx(GREY, 0xD03), "it begins with 00000d03"),
    "labels": (idx(LABELS), "begins with 00000801, an IDX file of labels"),
    "half a header": (idx(GREY)[:10], "cut short, within its header"),
    "no images": (idx(GREY[:0]), "claims 0 x 3 x 2 images, so it is empty"),
    "cut short": (
        idx(GREY)[:-5],
        "cut short; its header claims 4 x 3 x 2 images, which are 24 bytes",
    ),
    "trailing bytes": (idx(GREY) + b"\x00", "too long; .* 24 bytes"),
    "a vast header": (
        struct.pack(">4I", 0x803, 2**30, 2**20, 2**10) + bytes(99),
        "cut short; .* but the file has 115 bytes",
    ),
    "cut, packed": (gzip.compress(idx(GREY)[:-5]), "cut short"),
    "trailing, packed": (gzip.compress(idx(GREY) + b"\x00"), "too long"),
    "vast, packed": (
        gzip.compress(struct.pack(">4I", 0x803, 2**16, 2**10, 2**10)),
        "cut short; .* but the file has",
    ),
    "a cut pack": (gzip.compress(idx(GREY))[:-10], "cannot be read"),
    "a damaged pack": (
        gzip.compress(idx(GREY))[:-8] + bytes(8),
        "cannot be read .CRC check failed",
    ),
}


@pytest.mark.parametrize("what", BAD_IDX)
def test_bad_idx_files_are_named(tmp_path, what):
    content, message = BAD_IDX[what]
    (tmp_path / "bad-images").write_bytes(content)
    expect_error(rf"bad-images: .*{message}", images.load_idx, tmp_path / "bad-images")


def test_a_vast_header_allocates_nothing(tmp_path, monkeypatch):
    """Sizes that gzip could hold, so that only reading shows the fault."""
    packed = gzip.compress(struct.pack(">4I", 0x803, 1000, 100, 100) + os.urandom(20_000))
    (tmp_path / "vast").write_bytes(packed)
    pieces = []
    plain = image_files.read_up_to
    monkeypatch.setattr(
        image_files, "read_up_to", lambda file, size: pieces.append(plain(file, size)) or pieces[-1]
    )
    expect_error(
        "vast: cut short; its header claims 1000 x 100 x 100", images.load_idx, tmp_path / "vast"
    )
    assert len(pieces[0]) == 20_000


def test_labels_of_another_set_are_named(tmp_path):
    (tmp_path / "images").write_bytes(idx(GREY))
    (tmp_path / "labels").write_bytes(idx(LABELS[:3]))
    expect_error(
        "labels: must hold one label for each of the 4 images of .*images; got 3",
        images.load_idx,
        tmp_path / "images",
        tmp_path / "labels",
    )
    expect_error(
        "an IDX file of labels, .* an IDX file of images",
        images.load_idx,
        tmp_path / "images",
        tmp_path / "images",
    )
    expect_error("none: cannot be read", images.load_idx, tmp_path / "images", tmp_path / "none")


BAD_BATCHES = {
    "empty": (b"", "must hold a whole number of CIFAR-10 records of 3073 bytes; got 0 bytes"),
    "cut short": (
        cifar(LABELS, PLANES)[:-1],
        "must hold a whole number of CIFAR-10 records.*got 12291 bytes",
    ),
    "another kind": (cifar([3, 11, 0, 0], PLANES), "labels must be at most 9; got 11 in record 2"),
}


@pytest.mark.parametrize("what", BAD_BATCHES)
def test_bad_batches_are_named(tmp_path, what):
    content, message = BAD_BATCHES[what]
    (tmp_path / "data_batch_1.bin").write_bytes(content)
    expect_error(rf"data_batch_1\.bin: {message}", images.load_cifar10, tmp_path)


def test_missing_batches_are_named(tmp_path):
    expect_error(r"no file data_batch_\*\.bin", images.load_cifar10, tmp_path)
    expect_error(r"none\.bin: cannot be read", images.load_cifar10, tmp_path / "none.bin")
    expect_error("source must name at least one file", images.load_cifar10, [])


def half_a_picture(path):
    noise = np.random.default_rng(0).integers(0, 256, (3, 2), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-24])


BAD_PICTURES = {
    "of another size": (
        lambda path: Image.fromarray(GREY[0].T.copy()).save(path),
        "3 x 2 pixels in grey; the first picture, a.png, has 2 x 3",
    ),
    "in colours": (
        lambda path: Image.fromarray(COLOURS[0]).save(path),
        "2 x 3 pixels in colour; the first picture, a.png, has .* in grey",
    ),
    "with transparency": (
        lambda path: Image.fromarray(np.zeros((3, 2, 4), np.uint8)).save(path),
        "must be grey or RGB .* got mode RGBA",
    ),
    "of 16 bits": (
        lambda path: Image.fromarray(np.zeros((3, 2), np.uint16)).save(path),
        ".*got mode I;16",
    ),
    "empty": (
        lambda path: path.write_bytes(b""),
        r"cannot be read as a picture \(unknown file format\)",
    ),
    "text": (lambda path: path.write_text("hello"), "cannot be read as a picture"),
    "cut short": (half_a_picture, "cannot be read as a picture"),
}


@pytest.mark.parametrize("what", BAD_PICTURES)
def test_bad_pictures_are_named(tmp_path, what):
    make, message = BAD_PICTURES[what]
    save_pictures(tmp_path, GREY[:1], ["a.png"])
    make(tmp_path / "b.png")
    expect_error(rf"b\.png: {message}", images.load_image_folder, tmp_path)


@pytest.mark.parametrize("limit", [5, 2])
def test_pictures_beyond_reason_are_refused_before_they_are_decoded(tmp_path, monkeypatch, limit):
    """Pillow warns above its limit and raises above twice as much."""
    save_pictures(tmp_path, GREY[:1])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    expect_error(
        r"0\.png: cannot be read as a picture \(unreasonably large",
        images.load_image_folder,
        tmp_path,
    )


def test_more_pictures_than_memory_are_refused(tmp_path, monkeypatch):
    save_pictures(tmp_path, GREY)
    monkeypatch.setattr(image_files, "MAX_BYTES", 23)
    expect_error(
        "4 pictures of 2 x 3 pixels do not fit in memory", images.load_image_folder, tmp_path
    )


def test_folders_without_pictures_are_named(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    expect_error(
        "no pictures in it or its subfolders; file names must end in .png, .jpg",
        images.load_images,
        tmp_path,
    )
    expect_error("nowhere: cannot be read", images.load_image_folder, tmp_path / "nowhere")


BAD_ARRAYS = {
    "rank 2": (GREY[0], r"must hold images \[n h w\].* got uint8 of shape \(3, 2\)"),
    "two channels": (COLOURS[..., :2], r"shape \(4, 3, 2, 2\)"),
    "wider whole numbers": (GREY.astype(np.int32), "as bytes or floats in .0, 1.; got int32"),
    "no images": (GREY[:0], r"shape \(0, 3, 2\)"),
    "levels as floats": (GREY.astype(float), r"floats must lie in \[0, 1\]; got 0 to 253"),
    "a missing value": (np.full((1, 2, 2), np.nan), "got nan to nan"),
    "a pickle": (np.array([{}]), "not a readable .npy|holds pickled objects"),
}


@pytest.mark.parametrize("what", BAD_ARRAYS)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_bad_arrays_are_named(tmp_path, what, suffix):
    array, message = BAD_ARRAYS[what]
    path = tmp_path / f"bad{suffix}"
    if suffix == ".npy":
        np.save(path, array, allow_pickle=True)
    else:
        np.savez(path, images=array)
    expect_error(rf"bad\{suffix}: .*({message})", images.load_images, path)


def test_bad_archives_are_named(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, images=GREY, labels=LABELS[:3])
    expect_error(
        r"bad\.npz: labels must be one integer for each of 4 images; .*\(3,\)",
        images.load_array,
        path,
    )
    np.savez(path, images=GREY, labels=LABELS / 2)
    expect_error("labels must be one integer .* got float64", images.load_array, path)
    np.savez(path, one=GREY, two=GREY)
    expect_error("must hold an array 'images'; it holds one, two", images.load_array, path)
    zipfile.ZipFile(path, "w").close()
    expect_error("it holds nothing", images.load_array, path)
    path.write_bytes(b"PK\x03\x04")
    expect_error(r"bad\.npz: not a readable \.npz file", images.load_array, path)


def test_names_and_parts_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv("SWJKO_DATA", raising=False)
    expect_error(r"mnist: needs a directory.*--data-dir.*SWJKO_DATA", images.load_images, "mnist")
    expect_error("nowhere: no such directory", images.load_images, "fashion", tmp_path / "nowhere")
    expect_error(
        "FashionMNIST/raw.*: no file train-images-idx3-ubyte or t10k-images",
        images.load_images,
        "fashion",
        tmp_path,
    )
    expect_error(
        "no file data_batch_1.bin or test_batch.bin", images.load_images, "cifar10", tmp_path
    )
    expect_error(
        "digit: no such file or folder, and not one of the sets digits", images.load_images, "digit"
    )
    expect_error("no training and test parts", images.load_images, "digits", train=True)
    np.save(tmp_path / "x.npy", GREY)
    expect_error(
        r"x\.npy: has no training and test parts",
        images.load_images,
        tmp_path / "x.npy",
        train=False,
    )


def test_names_are_found_in_problems_too():
    for name in swjko.images.__all__:
        assert getattr(problems, name) is getattr(images, name)


def expect_error(message, read, *arguments, **options):
    with pytest.raises(DataError, match=message) as caught:
        read(*arguments, **options)
    assert "\n" not in str(caught.value)
