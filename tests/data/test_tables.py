"""Readers of data sets: tiny files of each kind, and what each says of a file that is wrong."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from swjko import problems
from swjko.data import tables as datasets
from swjko.data.tables import DataError

X = np.array([[0.5, -1.0, 2.0], [1.5, 0.0, 3.0], [2.5, 1.0, -1.0], [0.0, 4.0, 0.5]], np.float32)
Y = np.array([0, 1, 1, 0], np.int8)
SHARED = Path(
    os.environ.get("SWJKO_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
)


def save_raetsch(path, **structs):
    scipy.io.savemat(path, structs | {"benchmarks": np.array(list(structs), dtype=object)})


def covtype_text(rows, classes):
    features = np.arange(rows * 54).reshape(rows, 54) % 11
    return "".join(
        ",".join(map(str, [*row, label])) + "\n"
        for row, label in zip(features, classes, strict=True)
    )


def expect(table, *, classes):
    np.testing.assert_array_equal(table.features, X)
    assert table.features.dtype == np.float64
    np.testing.assert_array_equal(table.labels, [-1.0, 1.0, 1.0, -1.0])
    assert table.classes == classes
    assert len(table.names) == 3


def test_npz_in_the_directory_or_in_its_folder(tmp_path):
    (tmp_path / "logreg").mkdir()
    np.savez(tmp_path / "logreg" / "tiny.npz", x=X, y=Y)
    np.savez_compressed(tmp_path / "packed.npz", x=X, y=Y)
    for name in ("tiny", "packed"):
        expect(datasets.load_logreg(name, tmp_path), classes=("0", "1"))


def test_raetsch_collection(tmp_path):
    labels = np.where(Y == 1, 1.0, -1.0)[:, None]
    save_raetsch(
        tmp_path / "benchmarks.mat",
        tiny={"x": X.astype(float), "t": labels, "train": np.ones((2, 3))},
        other={"x": X, "t": labels},
    )
    expect(datasets.load_logreg("tiny", tmp_path), classes=("-1.0", "1.0"))


def test_libsvm_text(tmp_path):
    (tmp_path / "tiny.libsvm").write_text(
        "2 1:0.5 2:-1 3:2\n+3 1:1.5 3:3 # a comment\n\n+3 1:2.5 2:1 3:-1\n2 2:4 3:.5\n"
    )
    expect(datasets.load_logreg("tiny", tmp_path), classes=("2", "+3"))


@pytest.mark.parametrize("file", ["covtype.data", "covtype.data.gz"])
def test_covtype_text(tmp_path, monkeypatch, file):
    monkeypatch.setattr(datasets, "_COVTYPE_ROWS", 14)
    classes = [1, 2, 3, 4, 5, 6, 7] * 2
    text = covtype_text(14, classes).encode()
    (tmp_path / file).write_bytes(gzip.compress(text) if file.endswith(".gz") else text)
    table = datasets.load_logreg("covtype", tmp_path)
    assert table.features.shape == (14, 54)
    np.testing.assert_array_equal(table.labels, np.where(np.array(classes) == 2, 1.0, -1.0))


def test_csv_of_yours(tmp_path):
    (tmp_path / "mine.csv").write_text(
        "a,b,c,sick\n"
        + "".join(f"{a},{b},{c},{y}\n" for (a, b, c), y in zip(X, "nyyn", strict=True))
    )
    expect(datasets.load_logreg("mine", tmp_path), classes=("n", "y"))
    (tmp_path / "other.csv").write_text("sick,a\n0,1\n1,2\n")
    assert datasets.load_logreg("other", tmp_path, label="sick").names == ("a",)


BAD_ARRAYS = {
    "labels of one class": ({"y": np.zeros(4)}, "two classes; found 1: 0.0"),
    "labels of three classes": ({"y": np.array([0, 1, 2, 0])}, "two classes; found 3: 0, 1, 2"),
    "a missing label": ({"y": np.array([0, 1, np.nan, 0])}, "row 3: the label is missing"),
    "too few labels": ({"y": Y[:3]}, r"one label is needed for each of 4 rows.*\(3,\)"),
    "a missing value": ({"x": np.where(X == 4.0, np.nan, X)}, "row 4, column '2': nan"),
    "a constant column": ({"x": X * [1, 0, 1] + [0, 7, 0]}, "column '2': every row"),
    "one row": ({"x": X[:1], "y": Y[:1]}, "at least two rows"),
    "rank 1": ({"x": X[:, 0]}, r"real numbers of shape \[rows, columns\]"),
    "text": ({"x": X.astype(str)}, "real numbers"),
    "a pickle": (
        {"x": X.astype(object)},
        "array 'x' holds pickled objects, which are never loaded",
    ),
    "a pickle of labels": ({"y": Y.astype(object)}, "array 'y' holds pickled objects"),
}


@pytest.mark.parametrize("what", BAD_ARRAYS)
def test_bad_arrays_are_named(tmp_path, what):
    changes, message = BAD_ARRAYS[what]
    np.savez(tmp_path / "bad.npz", **({"x": X, "y": Y} | changes))
    raises_one_line(lambda: datasets.load_logreg("bad", tmp_path), rf"bad\.npz.*{message}")


BAD_LINES = {
    "an index of 0": ("1 0:1\n2 1:1\n", "line 1: index 0 must be above 0"),
    "indices that fall": ("1 2:1 1:1\n2 1:1\n", "line 1: index 1 must be above 2"),
    "no pair": ("1 1:1\n2 1\n", "line 2: '1' is no index:value pair"),
    "no number": ("1 1:1\n2 1:x\n", "line 2: '1:x' is no index:value pair"),
    "a missing value": ("1 1:1\n2 1:nan\n", "row 2, column '1': nan"),
    "nothing": ("", "the file is empty"),
    "one class": ("1 1:1\n1 1:2\n", "two classes; found 1"),
    "too wide": ("1 1:1\n2 99999999999:2\n", "too many for a table"),
    "bytes": ("1 1:1\n2 1:\xe9\n", "cannot be read"),
}


@pytest.mark.parametrize("what", BAD_LINES)
def test_bad_lines_are_named(tmp_path, what):
    text, message = BAD_LINES[what]
    (tmp_path / "bad.svm").write_text(text, encoding="latin-1")
    raises_one_line(lambda: datasets.load_logreg("bad", tmp_path), rf"bad\.svm.*{message}")


def test_bad_covtype_is_named(tmp_path, monkeypatch):
    path = tmp_path / "covtype.data"
    path.write_text(covtype_text(14, [1, 2] * 7))
    raises_one_line(
        lambda: datasets.load_logreg("covtype", tmp_path),
        "covtype.data: 14 rows, and covtype has 581012",
    )
    monkeypatch.setattr(datasets, "_COVTYPE_ROWS", 14)
    raises_one_line(
        lambda: datasets.load_logreg("covtype", tmp_path),
        "column '55': classes must be 1 to 7; found 1.0, 2.0",
    )
    path.write_text(covtype_text(14, [1, 2] * 7).replace("0,1,2", "0,x,2", 1))
    raises_one_line(
        lambda: datasets.load_logreg("covtype", tmp_path), "line 1, column '2': 'x' is not a number"
    )
    path.write_text("1,2,3\n")
    raises_one_line(
        lambda: datasets.load_logreg("covtype", tmp_path), "line 1: 3 fields, and covtype has 55"
    )
    path.unlink()
    packed = gzip.compress(covtype_text(14, [1, 2] * 7).encode())
    (tmp_path / "covtype.data.gz").write_bytes(packed[: len(packed) // 2])
    raises_one_line(
        lambda: datasets.load_logreg("covtype", tmp_path), "covtype.data.gz: cannot be read"
    )


def test_damaged_containers_are_named(tmp_path):
    np.savez(tmp_path / "whole.npz", x=X, y=Y)
    whole = (tmp_path / "whole.npz").read_bytes()
    for name, content in {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"x,y\n1,2\n",
        "flipped": whole.replace(b"\x00\x00\x00?", b"\x01\x02\x03?"),
    }.items():
        (tmp_path / f"{name}.npz").write_bytes(content)
        raises_one_line(
            lambda name=name: datasets.load_logreg(name, tmp_path),
            rf"{name}\.npz: not a readable \.npz",
        )
    np.savez(tmp_path / "other.npz", features=X)
    raises_one_line(
        lambda: datasets.load_logreg("other", tmp_path),
        "other.npz: no array 'x'; it holds features.npy",
    )
    # A header that asks for a thousand times what is there is refused before anything is allocated.
    (tmp_path / "vast.npz").write_bytes(whole.replace(b"(4, 3), }   ", b"(4000, 3), }"))
    raises_one_line(
        lambda: datasets.load_logreg("vast", tmp_path),
        r"array 'x' is damaged, float32 of shape \(4000, 3\)|not a readable",
    )


def test_damaged_collections_are_named(tmp_path):
    path = tmp_path / "benchmarks.mat"
    save_raetsch(path, tiny={"x": X, "t": Y[:, None].astype(float)}, flat={"x": X})
    raises_one_line(
        lambda: datasets.load_logreg("absent", tmp_path),
        "benchmarks.mat: no data set 'absent'; it holds .*tiny",
    )
    raises_one_line(
        lambda: datasets.load_logreg("flat", tmp_path),
        "'flat' must be a struct with fields x and t; it has x",
    )
    raises_one_line(
        lambda: datasets.load_logreg("benchmarks", tmp_path),
        "must be a struct with fields x and t; it has none",
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    raises_one_line(lambda: datasets.load_logreg("tiny", tmp_path), "benchmarks.mat")
    path.write_bytes(b"\x89HDF\r\n" + whole)
    raises_one_line(lambda: datasets.load_logreg("tiny", tmp_path), "not a MATLAB 5.0 file")


def test_a_missing_set_says_where_it_was_looked_for(tmp_path):
    raises_one_line(
        lambda: datasets.load_logreg("german", tmp_path),
        r"no data set 'german'.*german\.npz, benchmarks\.mat.*german\.csv",
    )
    raises_one_line(lambda: datasets.load_logreg("german", tmp_path / "nowhere"), "nowhere")


def test_scikit_learn_wine():
    for cultivar, count in enumerate((59, 71, 48)):
        table = datasets.wine(cultivar)
        assert table.features.shape == (178, 13)
        assert int(np.sum(table.labels == 1)) == count
    with pytest.raises(ValueError, match="cultivar must be 0, 1 or 2; received 3"):
        datasets.wine(3)


def test_names_are_found_in_problems_too():
    for name in (
        "DataError",
        "Table",
        "breast_cancer",
        "digits",
        "load_logreg",
        "load_points",
        "load_table",
        "require_extra",
        "wine",
    ):
        assert getattr(problems, name) is getattr(datasets, name)


SHAPES = {
    "banana": (5300, 2),
    "diabetis": (768, 8),
    "german": (1000, 20),
    "image": (2310, 18),
    "ringnorm": (7400, 20),
}
SHAPES |= {"splice": (3175, 60), "twonorm": (7400, 20), "waveform": (5000, 21)}


@pytest.mark.skipif(
    not (SHARED / "logreg").is_dir(),
    reason="the data sets are not here; set SWJKO_DATA to their directory",
)
@pytest.mark.parametrize("name", SHAPES)
def test_the_shared_sets(name):
    table = datasets.load_logreg(name, SHARED)
    assert table.features.shape == SHAPES[name]
    assert set(np.unique(table.labels)) == {-1.0, 1.0}


def raises_one_line(call, message):
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
