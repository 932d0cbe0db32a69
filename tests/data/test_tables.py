"""Tables and points from files, and messages on bad files."""

import sys

import numpy as np
import pytest

from swjko import datasets, problems
from swjko.data import tables


def test_load_table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("\ufeffa, sick ,b\n1,yes,2.5\n\n-3e1,no,0\n", encoding="utf-8")
    table = tables.load_table(path, "sick")
    np.testing.assert_array_equal(table.features, [[1.0, 2.5], [-30.0, 0.0]])
    np.testing.assert_array_equal(table.labels, [1.0, -1.0])
    assert table.names == ("a", "b")
    assert table.classes == ("no", "yes")


def test_labels_that_are_numbers_are_ordered_as_numbers(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,y\n1,10\n2,9\n")
    assert tables.load_table(path, "y").classes == ("9", "10")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("a,b\n1,0\n2,1\n", "no column 'y'.*a, b"),
        ("a,y\n1,0\nx,1\n", "line 3, column 'a': 'x' is not a number"),
        ("a,y\n1,0\n,1\n", "missing values in 'a' .1 rows., first in line 3"),
        ("a,y\n1,0\nnan,1\n", "missing values in 'a'"),
        ("a,y\n1,0\ninf,1\n", "line 3, column 'a': inf is not"),
        ("a,y\n1,0\n2\n", "line 3: not 2 fields"),
        ("a,y\n1,0\n2,1\n3,2\n", "column 'y'.*two classes; got 3"),
        ("a,y\n1,0\n2,0\n", "column 'y'.*two classes; got 1"),
        ("a,y\n1,0\n2,nan\n", "column 'y'.*two classes"),
        ("a,b,y\n1,5,0\n2,5,1\n", "column 'b': every row has the same value"),
        ("a,a,y\n1,5,0\n2,5,1\n", "column 'a' twice"),
        ("a,y,y\n1,5,0\n2,5,1\n", "column 'y' twice"),
        ("y\n0\n1\n", "no column besides"),
    ],
)
def test_load_table_names_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(tables.DataError, match=rf"bad\.csv.*{message}"):
        tables.load_table(path, "y")


def test_all_problems_of_a_table_are_told_at_once(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(
        'id,when,colour,price,size,y\n1,2024-01-02,red,"1,5",3,a\n2,2024-01-03,blue,"2,5",,b\n'
        '3,2024-01-04,red\n4,2024-01-05,red,"3,5",5,b\n'
    )
    with pytest.raises(tables.DataError) as found:
        tables.load_table(path, "y", drop_columns=["sise"])
    message = str(found.value)
    for words in (
        "6 problems",
        "line 4: not 6 fields",
        "no column 'sise'. Did you mean 'size'?",
        "missing values in 'size' (1 rows), first in line 3",
        "'when': '2024-01-02' is not a number. The column has dates",
        "'colour': 'red' is not a number. The column has text ('red')",
        "'price': '1,5' is not a number. The column has numbers with a decimal comma",
    ):
        assert words in message


def test_columns_categories_and_missing_rows_are_chosen(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("id;colour;size;y\n1;red;3;0\n2;blue;NA;1\n3;blue;5;1\n4;green;7;0\n")
    table = tables.load_table(path, "y", drop_columns=["id"], drop_missing=True, one_hot=["colour"])
    assert table.names == ("colour=green", "colour=red", "size")
    np.testing.assert_array_equal(table.features, [[0, 1, 3], [0, 0, 5], [1, 0, 7]])
    assert table.dropped == 1
    points = tables.load_named_points(path, columns=["size", "id"], drop_missing=True)
    assert points.names == ("id", "size")
    np.testing.assert_array_equal(points.values, [[1, 3], [3, 5], [4, 7]])


def test_load_points(tmp_path):
    values = np.array([[1, 2], [3, 5]])
    np.save(tmp_path / "x.npy", values)
    (tmp_path / "bare.csv").write_text("1,2\n3,5\n")
    (tmp_path / "named.csv").write_text("u,v\n1,2\n3,5\n")
    for name in ("x.npy", "bare.csv", "named.csv"):
        points = tables.load_points(tmp_path / name)
        np.testing.assert_array_equal(points, values)
        assert points.dtype == np.float64


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("object.npy", np.array([[1, None]], dtype=object), "not a readable .npy"),
        ("rank.npy", np.zeros(3), "shape \\[points, dimension\\].*\\(3,\\)"),
        ("complex.npy", np.zeros((3, 2), complex), "real numbers.*complex128"),
        ("nan.npy", np.array([[0.0, 1.0], [2.0, np.nan]]), "row 2, column '2': nan"),
        ("one.npy", np.ones((1, 2)), "at least two rows.*got 1"),
        ("huge.npy", np.array([[0.0], [1e200]]), "row 2, column '1'"),
        ("constant.npy", np.array([[0.0, 7.0], [1.0, 7.0]]), "column '2': every row"),
    ],
)
def test_load_points_names_what_is_wrong(tmp_path, name, array, message):
    np.save(tmp_path / name, array, allow_pickle=True)
    with pytest.raises(tables.DataError, match=f"{name}.*{message}"):
        tables.load_points(tmp_path / name)


def test_unreadable_files(tmp_path):
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "cut.npy", np.zeros((100, 3)))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:400])
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)))
    for name in ("empty.npy", "cut.npy", "binary.csv", "missing.csv", "missing.npy"):
        with pytest.raises(tables.DataError, match=name):
            tables.load_points(tmp_path / name)


def test_data_sets_of_scikit_learn():
    table = tables.breast_cancer()
    assert table.features.shape == (569, 30)
    # The data set's description: 212 malignant, 357 benign.
    assert (int(np.sum(table.labels == -1)), int(np.sum(table.labels == 1))) == (212, 357)
    assert tables.digits().shape == (1797, 64)


def test_missing_scikit_learn_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'swjko\[cli\]'"):
        tables.digits()


def test_scikit_learn_wine():
    for cultivar, count in enumerate((59, 71, 48)):
        table = tables.wine(cultivar)
        assert table.features.shape == (178, 13)
        assert int(np.sum(table.labels == 1)) == count
    with pytest.raises(ValueError, match="cultivar must be 0, 1 or 2; got 3"):
        tables.wine(3)


def test_problems_and_datasets_have_the_same_names():
    for name in datasets.__all__:
        assert getattr(problems, name) is getattr(datasets, name)
