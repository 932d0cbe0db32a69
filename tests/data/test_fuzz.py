"""Mutated files of each kind: every reader succeeds or raises one DataError."""

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from benchmarks import data
from swjko.data import images, tables
from swjko.data.tables import DataError

PIXELS = (np.arange(5 * 4 * 3) * 37 % 256).astype(np.uint8).reshape(5, 4, 3)
IDX = struct.pack(">4I", 0x803, *PIXELS.shape) + PIXELS.tobytes()
POINTS = np.random.default_rng(0).normal(size=(9, 3))


def saved(save, *arguments, **options):
    file = io.BytesIO()
    save(file, *arguments, **options)
    return file.getvalue()


def picture(kind, mode="RGB"):
    return saved(
        Image.fromarray(np.kron(PIXELS[0], np.ones((5, 5), np.uint8))).convert(mode).save, kind
    )


def csv_text():
    rows = [f"{a:.5f},{b:.17g},{'red' if c > 0 else 'blue'},{int(a > 0)}\n" for a, b, c in POINTS]
    return ("a,b,colour,y\n" + "".join(rows) + "NA,1,red,1\n").encode()


def bare_text():
    return b"".join(b"%.3f;%.4f;%d\n" % tuple(row) for row in POINTS)


def libsvm_text():
    rows = [f"{int(a > 0)} 1:{a:.5f} 2:{b:.5f} 3:{c:.5f}\n" for a, b, c in POINTS]
    return "".join(rows).encode()


def logreg(path):
    return data.load_logreg(path.stem, path.parent)


def folder_of(path):
    return images.load_image_folder(path.parent)


def table(path):
    return tables.load_table(path, "y", one_hot=["colour"], drop_missing=True)


def raetsch():
    import scipy.io

    struct = {"x": POINTS, "t": np.sign(POINTS[:, :1])}
    return saved(scipy.io.savemat, {"x": struct}, do_compression=True)


ARCHIVE = saved(np.savez_compressed, images=PIXELS, labels=np.arange(5))
STORED = saved(np.savez, x=POINTS, y=np.sign(POINTS[:, 0]))
# The name of the file, its content, and its reader.
KINDS = {
    "csv": ("x.csv", csv_text(), table),
    "bare csv": ("x.csv", bare_text(), tables.load_points),
    "npy": ("x.npy", saved(np.save, POINTS), tables.load_points),
    "pixels": ("x.npy", saved(np.save, np.asfortranarray(PIXELS / 255)), images.load_array),
    "npz": ("x.npz", ARCHIVE, images.load_array),
    "stored npz": ("x.npz", STORED, logreg),
    "idx": ("x", IDX, images.load_images),
    "packed idx": ("x", gzip.compress(IDX, mtime=0), images.load_images),
    "cifar": ("x.bin", bytes([3]) + bytes(3072) + bytes([9]) + bytes(3072), images.load_images),
    "libsvm": ("x.svm", libsvm_text(), logreg),
    "covtype": ("covtype.data.gz", gzip.compress(b"1,2,3\n" * 9, mtime=0), logreg),
} | {
    f"{kind} {mode}": (f"x.{kind}", picture(name, mode), folder_of)
    for kind, name in {
        "png": "PNG", "jpg": "JPEG", "bmp": "BMP", "gif": "GIF", "webp": "WEBP", "tif": "TIFF",
        "ppm": "PPM",
    }.items()
    for mode in ("RGB", "L")
}  # fmt: skip


def mutated(rng, content):
    """Flip bytes, cut, insert a piece from elsewhere, or write an extreme number."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at, size = rng.integers(len(changed) + 1), rng.integers(1, 9)
        match rng.integers(5):
            case 0:
                for flipped in rng.integers(len(changed), size=size) if changed else ():
                    changed[flipped] ^= 1 << rng.integers(8)
            case 1:
                del changed[at:]
            case 2:
                start = rng.integers(len(content))
                changed[at:at] = content[start : start + 8 * size]
            case 3:
                del changed[at : at + size]
            case 4:
                extreme = (b"\xff" * size, bytes(size), b"9" * size, b"\x7f\xff\xff\xff")
                changed[at : at + size] = extreme[rng.integers(4)]
    return bytes(changed)


def refused(read, path, otherwise):
    """Return the message of a DataError, or ``otherwise`` if the file is read."""
    try:
        read(path)
    except DataError as error:
        return str(error)
    return otherwise


def check(kind, folder, count, seed):
    name, content, read = KINDS[kind]
    rng, path = np.random.default_rng(seed), folder / name
    path.write_bytes(content)
    if kind != "covtype":
        read(path)
    for _ in range(count):
        path.write_bytes(mutated(rng, content))
        assert str(folder) in refused(read, path, str(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_few_mutated_files(tmp_path, kind):
    check(kind, tmp_path, 10, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutated_files(tmp_path, kind):
    check(kind, tmp_path, 200, 1)


@pytest.mark.slow
def test_mutated_matlab_files(tmp_path):
    """Each starts a process, hence fewer."""
    rng, content = np.random.default_rng(2), raetsch()
    for _ in range(20):
        (tmp_path / "benchmarks.mat").write_bytes(mutated(rng, content))
        expected = "benchmarks.mat"
        assert expected in refused(logreg, tmp_path / "x", expected)


@pytest.mark.slow
def test_mutated_members_in_whole_archives(tmp_path):
    """Checksums that fit, so that the readers see the mutations."""
    rng, path = np.random.default_rng(3), tmp_path / "x.npz"
    members = {"images.npy": saved(np.save, PIXELS), "labels.npy": saved(np.save, np.arange(5))}
    for _ in range(200):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, mutated(rng, content))
        assert "x.npz" in refused(images.load_array, path, "x.npz")
