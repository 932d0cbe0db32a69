"""Readers of data sets for logistic regression, and their messages on bad files."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from helpers import expect_data_error

from benchmarks import data

X = np.array([[0.5, -1.0, 2.0], [1.5, 0.0, 3.0], [2.5, 1.0, -1.0], [0.0, 4.0, 0.5]], np.float32)
Y = np.array([0, 1, 1, 0], np.int8)
SHARED = Path(
    os.environ.get("SWJKO_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
)


def covtype_text(rows, classes):
    features = np.arange(rows * 54).reshape(rows, 54) % 11
    lines = [[*row, label] for row, label in zip(features, classes, strict=True)]
    return "".join(",".join(map(str, line)) + "\n" for line in lines)


def write_npz(folder):
    (folder / "logreg").mkdir()
    np.savez_compressed(folder / "logreg" / "tiny.npz", x=X, y=Y)


def write_raetsch(folder):
    struct = {"x": X.astype(float), "t": np.where(Y == 1, 1.0, -1.0)[:, None]}
    scipy.io.savemat(folder / "benchmarks.mat", {"tiny": struct, "other": struct})


def write_libsvm(folder):
    (folder / "tiny.libsvm").write_text(
        "2 1:0.5 2:-1 3:2\n+3 1:1.5 3:3 # a comment\n\n+3 1:2.5 2:1 3:-1\n2 2:4 3:.5\n"
    )


def write_csv(folder):
    rows = [f"{a},{b},{c},{y}\n" for (a, b, c), y in zip(X, "nyyn", strict=True)]
    (folder / "tiny.csv").write_text("a,b,c,sick\n" + "".join(rows))


@pytest.mark.parametrize("write", [write_npz, write_raetsch, write_libsvm, write_csv])
def test_each_kind_of_file_gives_the_same_table(tmp_path, write):
    write(tmp_path)
    table = data.load_logreg("tiny", tmp_path)
    np.testing.assert_array_equal(table.features, X)
    assert table.features.dtype == np.float64
    np.testing.assert_array_equal(table.labels, [-1.0, 1.0, 1.0, -1.0])
    assert len(table.names) == 3


@pytest.mark.parametrize("file", ["covtype.data", "covtype.data.gz"])
def test_covtype_text(tmp_path, monkeypatch, file):
    monkeypatch.setattr(data, "COVTYPE_ROWS", 14)
    classes = [1, 2, 3, 4, 5, 6, 7] * 2
    text = covtype_text(14, classes).encode()
    (tmp_path / file).write_bytes(gzip.compress(text, mtime=0) if file.endswith(".gz") else text)
    table = data.load_logreg("covtype", tmp_path)
    assert table.features.shape == (14, 54)
    np.testing.assert_array_equal(table.labels, np.where(np.array(classes) == 2, 1.0, -1.0))


BAD_ARRAYS = {
    "labels of one class": ({"y": np.zeros(4)}, "two classes"),
    "labels of three classes": ({"y": np.array([0, 1, 2, 0])}, "two classes"),
    "a missing label": ({"y": np.array([0, 1, np.nan, 0])}, "two classes"),
    "too few labels": ({"y": Y[:3]}, r"4 labels.*\(3,\)"),
    "a missing value": ({"x": np.where(X == 4.0, np.nan, X)}, "row 4, column '2': nan"),
    "a constant column": ({"x": X * [1, 0, 1] + [0, 7, 0]}, "column '2': every row"),
    "one row": ({"x": X[:1], "y": Y[:1]}, "at least two rows"),
    "rank 1": ({"x": X[:, 0]}, "real numbers"),
    "text": ({"x": X.astype(str)}, "real numbers"),
    "a pickle": ({"x": X.astype(object)}, "array 'x' holds pickled objects"),
    "a pickle of labels": ({"y": Y.astype(object)}, "array 'y' holds pickled objects"),
}


@pytest.mark.parametrize("what", BAD_ARRAYS)
def test_bad_arrays_are_named(tmp_path, what):
    changes, message = BAD_ARRAYS[what]
    np.savez(tmp_path / "bad.npz", **({"x": X, "y": Y} | changes))
    expect_error("bad", tmp_path, rf"bad\.npz.*{message}")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("bad.svm", b"1 0:1\n2 1:1\n", "cannot be read as libsvm"),
        ("bad.svm", b"1 1:1\n2 1\n", "cannot be read as libsvm"),
        ("bad.svm", b"1 1:1\n2 1:x\n", "cannot be read as libsvm"),
        ("bad.svm", b"1 1:1\n2 1:nan\n", "row 2, column '1': nan"),
        ("bad.svm", b"1 1:1\n1 1:2\n", "two classes"),
        ("bad.svm", b"", ""),
        ("bad.svm", b"1 1:1\n2 2000000000:2\n", "do not fit in memory"),
        ("bad.npz", b"PK\x03\x04", "not a readable .npz"),
        ("bad.npz", b"x,y\n1,2\n", "not a readable .npz"),
        ("benchmarks.mat", b"\x89HDF\r\n" + bytes(200), "cannot be read as a MATLAB file"),
        ("covtype.data", b"1,2,3\n", r"must have shape \(581012, 55\); got \(1, 3\)"),
        ("covtype.data", b"1,x,3\n", "cannot be read"),
        ("covtype.data.gz", gzip.compress(b"1,2,3\n" * 99, mtime=0)[:20], "cannot be read"),
    ],
)
def test_bad_files_are_named(tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content)
    expect_error("covtype" if "covtype" in file else "bad", tmp_path, rf"{file}.*{message}")


def test_covtype_of_other_classes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "COVTYPE_ROWS", 14)
    (tmp_path / "covtype.data").write_text(covtype_text(14, [1, 2] * 7))
    expect_error("covtype", tmp_path, "classes must be 1 to 7")


def test_sets_that_are_missing_are_named(tmp_path):
    expect_error("german", tmp_path, r"no data set 'german'.*german\.npz, benchmarks\.mat")
    np.savez(tmp_path / "other.npz", features=X)
    expect_error("other", tmp_path, "no array 'x'; it holds features")
    scipy.io.savemat(tmp_path / "benchmarks.mat", {"flat": {"x": X}})
    expect_error("absent", tmp_path, "no data set 'absent'; it holds flat")
    expect_error("flat", tmp_path, "'flat' must be a struct with fields x and t")


def test_a_false_header_allocates_nothing(tmp_path):
    np.savez(tmp_path / "whole.npz", x=X, y=Y)
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "vast.npz").write_bytes(whole.replace(b"(4, 3), }   ", b"(4000, 3), }"))
    expect_error("vast", tmp_path, "array 'x' is damaged, float32|array 'x' is damaged|not a read")


@pytest.mark.parametrize(
    "content",
    [
        b"1 1000000000:1\n2 1:1\n",
        b"1 1:1\n" * 9 + b"2 4000000:1\n",
        b"1 4000000:1\n" + b"2 1:1\n" * 9,
    ],
)
def test_wide_sparse_text_is_refused_before_it_is_dense(tmp_path, content):
    (tmp_path / "bad.svm").write_bytes(content)
    expect_error("bad", tmp_path, r"rows of \d+ columns do not fit in memory", peak=2**20)


def test_sparse_text_has_most_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_MAX_PAIRS", 9)
    write_libsvm(tmp_path)
    expect_error("tiny", tmp_path, "at most .* 9 pairs")


def test_a_packed_line_without_end_is_refused(tmp_path):
    with gzip.open(tmp_path / "covtype.data.gz", "wb", 1) as file:
        for _ in range(64):
            file.write(b"1," * 2**19)
    expect_error("covtype", tmp_path, "line 1: must have at most 4096 characters", peak=2**23)


@pytest.mark.parametrize("wrong", [b"1,2,3\n" * 300, b"1\n" * 15])
def test_more_numbers_than_covtype_has_are_refused(tmp_path, monkeypatch, wrong):
    monkeypatch.setattr(data, "COVTYPE_ROWS", 14)
    (tmp_path / "covtype.data").write_bytes(wrong)
    expect_error("covtype", tmp_path, r"must have shape \(14, 55\); got more numbers")


def test_numbers_that_float32_would_round_are_not_covtype(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "COVTYPE_ROWS", 14)
    text = covtype_text(14, [1, 2, 3, 4, 5, 6, 7] * 2).replace("10,", "16777217,", 1)
    (tmp_path / "covtype.data").write_text(text)
    expect_error("covtype", tmp_path, r"less than 2\^24")


@pytest.mark.parametrize("name", ["tiny.npz", "tiny.svm", "tiny.csv", "benchmarks.mat"])
def test_special_files_are_refused(tmp_path, name, monkeypatch):
    """A FIFO that takes the place of a file after it was found."""
    os.mkfifo(tmp_path / name)
    monkeypatch.setattr(Path, "is_file", lambda path: path.exists())
    expect_error("tiny", tmp_path, "regular file; got a FIFO")


@pytest.mark.parametrize("field", ["x", "t"])
def test_imaginary_parts_are_not_dropped(tmp_path, field):
    struct = {"x": X.astype(float), "t": np.where(Y == 1, 1.0, -1.0)[:, None]}
    struct[field] = struct[field] + 1j
    scipy.io.savemat(tmp_path / "benchmarks.mat", {"tiny": struct})
    expect_error("tiny", tmp_path, f"field {field} must hold real numbers; got complex128")
    arrays = {"x": X, "y": Y} | {"y" if field == "t" else "x": struct[field]}
    np.savez(tmp_path / "tiny.npz", x=arrays["x"], y=np.ravel(arrays["y"])[:4])
    expect_error("tiny", tmp_path, "must be real numbers")


def test_a_matlab_file_that_ends_its_reader_is_named(tmp_path, monkeypatch):
    write_raetsch(tmp_path)
    (tmp_path / "matlab_child.py").write_text("import os\nos.abort()\n")
    monkeypatch.setattr(data, "__file__", str(tmp_path / "data.py"))
    expect_error("tiny", tmp_path, "MATLAB file: the reader ended by -6")
    (tmp_path / "matlab_child.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(data, "_MAX_SECONDS", 0.5)
    expect_error("tiny", tmp_path, "MATLAB file in 0.5 seconds")


SHAPES = {"banana": (5300, 2), "diabetis": (768, 8), "german": (1000, 20), "image": (2310, 18)}
SHAPES |= {"ringnorm": (7400, 20), "splice": (3175, 60), "twonorm": (7400, 20)}
SHAPES |= {"waveform": (5000, 21)}


@pytest.mark.skipif(
    not (SHARED / "logreg").is_dir(), reason="no data sets here; set SWJKO_DATA to their directory"
)
@pytest.mark.parametrize("name", SHAPES)
def test_the_shared_sets(name):
    table = data.load_logreg(name, SHARED)
    assert table.features.shape == SHAPES[name]
    assert set(np.unique(table.labels)) == {-1.0, 1.0}


def expect_error(name, folder, message, peak=512 * 2**20):
    expect_data_error(message, data.load_logreg, name, folder, peak=peak)
