"""Hostile arrays: bombs, pickles, foreign members, odd headers, and values that would change."""

import struct
import warnings
import zipfile

import numpy as np
import pytest
from helpers import expect_data_error as expect_error

from swjko.data import array_files, gate, images, tables

MEBIBYTE = 2**20
PIXELS = (np.arange(4 * 3 * 2) * 11 % 256).astype(np.uint8).reshape(4, 3, 2)


def npy(header, content=b"", version=1, length=None):
    header = header.encode("latin-1")
    length = len(header) if length is None else length
    size = struct.pack("<H" if version == 1 else "<I", length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + content


def described(shape, descr="'|u1'", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def write_npz(path, members, compression=zipfile.ZIP_DEFLATED):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of doubled names
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in members:
                archive.writestr(name, content)


BAD_HEADERS = {
    "nothing": (b"", "does not begin as a .npy file"),
    "half of it": (npy(described((4, 3, 2)))[:40], "not a readable"),
    "a vast version 2": (npy("", bytes(99), 2, 2**32 - 1), "its header has 4294967295 bytes"),
    "version 3": (npy(described((4, 3, 2)), PIXELS.tobytes(), 3), "unknown .npy version"),
    "nested brackets": (npy("(" * 4000), "not a readable"),
    "nested minus signs": (npy("-" * 4000 + "1"), "not a readable"),
    "a call": (npy("__import__('os').abort()\n"), "not a readable"),
    "other keys": (npy("{'shape': (1,)}"), "not a readable"),
    "a negative size": (npy(described((-4, -3, 2)), PIXELS.tobytes()), "its shape is"),
    "a vast shape": (npy(described((2**62, 2**62))), "is damaged.* the file has 0"),
    "a vast empty shape": (npy(described((0, 2**62, 2**62))), "must hold images|be shaped"),
    "no bytes a number": (npy(described((2**40,), "'<U0'")), "real numbers"),
    "fields": (npy(described((24,), "[('a', '|u1')]"), bytes(24)), "real numbers"),
    "dates": (npy(described((3,), "'<M8[s]'"), bytes(24)), "real numbers"),
    "objects": (npy(described((3,), "'|O'"), bytes(24)), "pickled objects, which are never"),
    "an odd type": (npy(described((3,), "'<q99'"), bytes(24)), "not a readable"),
    "a cut end": (npy(described((4, 3, 2)), bytes(23)), "are 24 bytes; the file has 23"),
    "a second array": (npy(described((4, 3, 2)), bytes(24) * 2), "24 bytes; the file has 48"),
}


@pytest.mark.parametrize("what", BAD_HEADERS)
def test_bad_headers_are_refused(tmp_path, what):
    content, message = BAD_HEADERS[what]
    (tmp_path / "x.npy").write_bytes(content)
    write_npz(tmp_path / "x.npz", [("images.npy", content)])
    for name in ("x.npy", "x.npz"):
        expect_error(message, images.load_images, tmp_path / name, peak=8 * MEBIBYTE)


def test_a_bomb_is_refused_by_its_header(tmp_path):
    """An archive that unpacks to 300 MiB is as small as its packed zeros."""
    path, block = tmp_path / "x.npz", bytes(2**20)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("images.npy", "w") as file,
    ):
        file.write(npy(described((300, 2**10, 2**10))))
        for _ in range(300):
            file.write(block)
    assert path.stat().st_size < 2 * MEBIBYTE
    expect_error(
        "314572800 numbers, which do not fit in memory; at most 268435456",
        images.load_array,
        path,
        peak=8 * MEBIBYTE,
    )


def test_members_longer_or_shorter_than_declared_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    header = npy(described((4, 3, 2)))
    for size in (23, 25, 2**20):
        write_npz(path, [("images.npy", header + bytes(size))])
        expect_error("are 24 bytes; the file has", images.load_array, path)
    # The directory tells a size that the packed bytes do not have.
    write_npz(path, [("images.npy", header + bytes(23))])
    size = len(header) + 23
    forged = path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", size + 1))
    path.write_bytes(forged)
    expect_error("array 'images' is damaged|not a readable", images.load_array, path)


def test_foreign_encrypted_and_doubled_members_are_refused(tmp_path):
    path, good = tmp_path / "x.npz", npy(described((4, 3, 2)), PIXELS.tobytes())
    write_npz(path, [("images.npy", good), ("../../notes.txt", b"hello")])
    expect_error(r"must hold only arrays; it holds '../../notes.txt'", images.load_array, path)
    write_npz(path, [("images.npy", good)] * 2)
    expect_error("two arrays of the same name", images.load_array, path)
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        write_npz(path, [("images.npy", good)], method)
        expect_error("by a method that is not Deflate", images.load_array, path)
    write_npz(path, [("images.npy", good)], zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    expect_error("array 'images.npy' is encrypted", images.load_array, path)


def test_a_vast_directory_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    write_npz(path, [(f"{at:0300}.npy", b"") for at in range(4000)], zipfile.ZIP_STORED)
    expect_error("a directory of more than 1048576 bytes", images.load_array, path)


def test_labels_beyond_int64_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    labels = np.array([0, 1, 2, 2**64 - 1], np.uint64)
    np.savez(path, images=PIXELS, labels=labels)
    expect_error("at most 2.63 - 1; got 18446744073709551615", images.load_array, path)
    np.savez(path, images=PIXELS, labels=labels // 2)
    np.testing.assert_array_equal(images.load_array(path).labels, [0, 0, 1, 2**63 - 1])


@pytest.mark.parametrize("order", ["C", "F"])
def test_integers_that_float64_cannot_hold_are_refused(tmp_path, order):
    values = np.array([[1, 2, 3], [4, 5, 2**53 + 1]], order=order)
    for dtype in (np.int64, np.uint64, ">i8"):
        np.save(tmp_path / "x.npy", values.astype(dtype))
        expect_error(
            "row 2, column '3': 9007199254740993 is an integer that float64 cannot hold",
            tables.load_points,
            tmp_path / "x.npy",
        )
    np.save(tmp_path / "x.npy", values - (values > 9))
    np.testing.assert_array_equal(
        tables.load_points(tmp_path / "x.npy"), [[1, 2, 3], [4, 5, 2.0**53]]
    )


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float64, ">f4", np.float16, np.longdouble, np.uint8])
def test_pieces_give_the_whole_array(tmp_path, monkeypatch, order, dtype):
    monkeypatch.setattr(array_files, "_PIECE_BYTES", 40)
    values = np.array((np.arange(35.0).reshape(5, 7) * 3) % 64, dtype, order=order)
    np.save(tmp_path / "x.npy", values)
    np.savez_compressed(tmp_path / "x.npz", x=values)
    np.testing.assert_array_equal(tables.load_points(tmp_path / "x.npy"), values)
    read = array_files.read_npz(tmp_path / "x.npz", "x")
    np.testing.assert_array_equal(read, values)
    assert read.dtype == values.dtype


def test_points_have_a_largest_number(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.arange(8.0).reshape(2, 4))
    monkeypatch.setattr(gate, "MAX_COLUMNS", 3)
    expect_error("at most 3 columns; got 4", tables.load_points, tmp_path / "x.npy")
    monkeypatch.setattr(gate, "MAX_NUMBERS", 7)
    expect_error("has 8 numbers.* at most 7", tables.load_points, tmp_path / "x.npy")
