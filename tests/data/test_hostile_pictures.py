"""Hostile pictures and image files: other formats, bombs, and what would be lost in silence."""

import gzip
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from helpers import expect_data_error as expect_error
from PIL import EpsImagePlugin, Image

from swjko.data import gate, images, pictures

MEBIBYTE = 2**20
GREY = (np.arange(6).reshape(2, 3) * 40).astype(np.uint8)


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width, height, depth=8, colour=0, content=b""):
    size = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", size), chunk(b"IDAT", zlib.compress(content)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def deep_tiff():
    """Two by two pixels in RGB with 16 bits."""
    entries = [(256, 2), (257, 2), (258, 122), (259, 1), (262, 2), (273, 128), (277, 3), (278, 2)]
    content = b"II*\0" + struct.pack("<IH", 8, 9)
    for tag, value in [*entries, (279, 24)]:
        content += struct.pack(
            "<HHII", tag, 4 if tag in (273, 279) else 3, 3 if tag == 258 else 1, value
        )
    return content + bytes(4) + struct.pack("<HHH", 16, 16, 16) + bytes(24)


def test_other_formats_are_not_read_whatever_the_name(tmp_path, monkeypatch):
    """Pillow gives PostScript to Ghostscript."""

    def ghostscript(*arguments, **options):
        pytest.fail("Ghostscript was started.")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    picture = Image.fromarray(GREY)
    for kind in ("EPS", "ICO", "TGA", "PCX", "SGI", "DDS", "PDF"):
        picture.save(tmp_path / "x.png", kind)
        expect_error("unknown file format", images.load_image_folder, tmp_path)


def test_special_files_are_not_pictures(tmp_path):
    (tmp_path / "a.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "b.png")
    expect_error("no pictures in it", images.load_image_folder, tmp_path)
    for name in ("a.png", "b.png"):
        path = tmp_path / name
        expect_error("must be a regular file", pictures.read_pictures, [path])
        expect_error("must be a regular file", images.load_idx, path)
        expect_error("must be a regular file", images.load_cifar10, path)
        expect_error("must be a regular file", images.load_array, path)


DEEP = {
    "d.png": png(2, 2, 16, 2, bytes(26)),
    "grey.png": png(2, 2, 16, 0, bytes(10)),
    "d.ppm": b"P6 2 2 65535\n" + bytes(24),
    "plain.ppm": b"P3 1 1 256\n1 2 3\n",
    "d.pgm": b"P5 2 2 1023\n" + bytes(8),
    "d.tif": deep_tiff(),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_pictures_are_not_cut_to_eight_bits(tmp_path, name):
    (tmp_path / name).write_bytes(DEEP[name])
    expect_error("must be grey or RGB with 8 bits .* got mode", images.load_image_folder, tmp_path)


def test_floats_are_not_cut_to_eight_bits(tmp_path):
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "x.tif")
    expect_error("got mode F", images.load_image_folder, tmp_path)


@pytest.mark.parametrize("kind", ["png", "webp", "tif", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.kron(GREY, np.ones((8, 8), np.uint8))).convert("RGB")
    exact = {"webp": {"lossless": True}, "jpg": {"quality": 100}}.get(kind, {})
    picture.save(tmp_path / f"x.{kind}", exif=exif, **exact)
    turned = {
        1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1],
        5: GREY.T, 6: GREY[::-1].T, 7: GREY[::-1, ::-1].T, 8: GREY[:, ::-1].T,
    }  # fmt: skip
    read = images.load_image_folder(tmp_path).pixels[0, 4::8, 4::8, 0]
    np.testing.assert_allclose(read, turned[orientation], atol=3 if kind == "jpg" else 0)


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif"])
def test_later_frames_are_not_dropped(tmp_path, kind):
    frames = [Image.fromarray(GREY + np.uint8(at)).convert("RGB") for at in (0, 30)]
    frames[0].save(tmp_path / f"x.{kind}", save_all=True, append_images=frames[1:])
    expect_error("must hold one picture; got several frames", images.load_image_folder, tmp_path)


def test_pictures_of_zeros_are_refused_by_their_size(tmp_path):
    (tmp_path / "x.png").write_bytes(png(8000, 8000, content=bytes(8001 * 8000)))
    expect_error(
        "unreasonably large: 8000 x 8000 pixels; at most 33554432",
        images.load_image_folder,
        tmp_path,
        peak=MEBIBYTE,
    )


def test_a_vast_packed_idx_is_counted_before_it_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "MAX_UNCHECKED_BYTES", 2**16)
    path, header = tmp_path / "x", struct.pack(">4I", 0x803, 2048, 64, 64)
    content = np.random.default_rng(0).integers(0, 256, 2**23, np.uint8).tobytes()
    packed = gzip.compress(header + content, 1)
    path.write_bytes(packed)
    assert images.load_idx(path).pixels.tobytes() == content
    for wrong, message in (
        (gzip.compress(header + content[1:], 1), "cut short"),
        (gzip.compress(header + content + b"0", 1), "too long"),
        (packed[:-9], "ended before its end mark"),
        (packed[:-8] + bytes(8), "CRC check failed"),
        (packed + b"garbage", "incorrect header"),
    ):
        path.write_bytes(wrong)
        expect_error(message, images.load_idx, path, peak=5 * MEBIBYTE)


def test_a_gzip_header_without_end_is_passed_over_quickly(tmp_path):
    (tmp_path / "x").write_bytes(b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 2**26)
    expect_error("ended before its end mark", images.load_idx, tmp_path / "x", peak=8 * MEBIBYTE)


def tiff(entries, is_big=False):
    """A header and a directory of (tag, type, count, value)."""
    number, entry = ("<Q", "<HHQQ") if is_big else ("<H", "<HHII")
    head, at = (b"II+\0\x08\0\0\0", 16) if is_big else (b"II*\0", 8)
    head += struct.pack("<Q" if is_big else "<I", at)
    return (
        head
        + struct.pack(number, len(entries))
        + b"".join(struct.pack(entry, *fields) for fields in entries)
    )


@pytest.mark.parametrize("is_big", [False, True])
def test_tags_of_very_many_numbers_are_refused_before_pillow_reads_them(tmp_path, is_big):
    """Pillow makes a Python number of each."""
    length = 2**23
    path = tmp_path / "x.tif"
    sizes = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 1, 8), (262, 3, 1, 1)]
    content = tiff([*sizes, (273, 3, length, 4096)], is_big)
    path.write_bytes(content + bytes(4096 - len(content)) + bytes(range(256)) * (length // 128))
    expect_error(f"a tag of {length} numbers", images.load_image_folder, tmp_path, peak=MEBIBYTE)
    path.write_bytes(tiff([sizes[0]] * 5000, is_big))
    expect_error("5000 tags", images.load_image_folder, tmp_path)


def test_exif_of_any_length_is_refused(tmp_path):
    content = b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, 3, 2**20, 26) + bytes(2**21)
    Image.fromarray(GREY).save(tmp_path / "x.webp", exif=b"Exif\0\0" + content)
    expect_error("bytes of EXIF", images.load_image_folder, tmp_path)


def test_a_jpeg_has_most_scans(tmp_path):
    """Each scan is decoded over the whole picture."""
    path = tmp_path / "x.jpg"
    Image.fromarray(np.kron(GREY, np.ones((8, 8), np.uint8))).save(path, progressive=True)
    content = path.read_bytes()
    scan = content.rindex(b"\xff\xda")
    assert images.load_image_folder(tmp_path).pixels.shape == (1, 16, 24, 1)
    path.write_bytes(content[:scan] + content[scan:-2] * 60 + content[-2:])
    expect_error("more than 50 scans", images.load_image_folder, tmp_path)


PEAK = """
import pathlib, re, sys
from swjko.data import images

def peak():
    # What getrusage returns begins with the peak of the parent.
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 1024

images.load_image_folder(sys.argv[2])
start = peak()
try:
    images.load_image_folder(sys.argv[1])
except images.DataError as error:
    print(peak() - start, error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
def test_a_refused_folder_of_large_pictures_takes_little_memory(tmp_path):
    """720 MB of pixels, of which the last picture is cut short: counted in its own process."""
    for name in ("large", "small"):
        (tmp_path / name).mkdir()
    Image.fromarray(GREY).save(tmp_path / "small" / "x.png")
    (tmp_path / "large" / "a.png").write_bytes(png(6000, 5000, 8, 2, bytes(18001 * 5000)))
    for name in "bcdefg":
        os.link(tmp_path / "large" / "a.png", tmp_path / "large" / f"{name}.png")
    content = (tmp_path / "large" / "a.png").read_bytes()
    (tmp_path / "large" / "h.png").write_bytes(content[: len(content) // 2])
    command = [sys.executable, "-c", PEAK, tmp_path / "large", tmp_path / "small"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "h.png: cannot be read as a picture" in found
    assert float(found.split()[0]) < 400
