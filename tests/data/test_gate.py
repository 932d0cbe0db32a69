"""Hostile files: special files, bombs, endless lines. Each is refused in one line, cheaply."""

import gzip
import os

import numpy as np
import pytest
from helpers import expect_data_error as expect_error

from swjko.cli import match, posterior
from swjko.cli.settings import Settings
from swjko.data import csv_text, gate, tables
from swjko.data.tables import DataError, load_table

MEBIBYTE = 2**20


def test_only_regular_files_are_opened(tmp_path):
    """Opening a FIFO without a writer would wait for ever."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link to file").symlink_to(tmp_path / "file")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name, kind in (
        ("fifo", "regular file; got a FIFO"),
        ("link", "regular file; got a FIFO"),
        ("", "regular file; got a directory"),
        ("circle", "cannot be read"),
        ("missing", "cannot be read"),
        ("zero\0byte", "cannot be read"),
    ):
        expect_error(kind, gate.open_regular, tmp_path / name)
    for device in ("/dev/zero", "/dev/full", "/dev/null"):
        expect_error("regular file; got a character device", gate.open_regular, device)
    with gate.open_regular(tmp_path / "link to file") as file:
        assert file.read() == b"abc"
    expect_error("at most 2 bytes; got 3", gate.open_regular, tmp_path / "file", 2)


def test_sparse_files_beyond_the_limit_are_refused_before_reading(tmp_path):
    for name in ("x.csv", "x.npy"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**40)
        expect_error("must have at most .* bytes", tables.load_points, tmp_path / name, peak=10**6)


def test_lines_have_a_largest_length(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"1" * (gate.MAX_LINE_BYTES + 1))
    expect_error(
        "line 1: must have at most 16777216 characters",
        tables.load_points,
        path,
        peak=100 * MEBIBYTE,
    )
    path.write_bytes(b"1,2\n" + b"3" * 200_000 + b",4\n")
    expect_error("comma-separated values .field larger than", tables.load_points, path)
    path.write_bytes(b'1,2\n"3\n' + b"4\n" * 100_000)
    expect_error("comma-separated values .field larger than", tables.load_points, path)


def test_text_with_zero_bytes_or_other_encodings_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"1,2\n3,\0004\n")
    expect_error("line 2: not text", tables.load_points, path)
    path.write_text("1,2\n3,4\n", encoding="utf-16")
    expect_error("not a text file in UTF-8", tables.load_points, path)


def test_tables_have_most_columns_rows_and_numbers(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    path.write_text(",".join(f"c{at}" for at in range(200_000)) + "\n")
    expect_error("line 1: must have at most 32768 columns; got 200000", tables.load_points, path)
    path.write_text("1,2\n" * 9)
    monkeypatch.setattr(gate, "MAX_ROWS", 8)
    expect_error("at most 8 rows", tables.load_points, path)
    monkeypatch.setattr(gate, "MAX_FIELDS", 13)
    expect_error("13 fields. Use fewer", tables.load_points, path)


def test_categories_do_not_multiply_a_table(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    path.write_text("a,y\n" + "".join(f"{at},{at % 2}\n" for at in range(40)))
    monkeypatch.setattr(gate, "MAX_NUMBERS", 40 * 39)
    expect_error("one_hot makes more than 1560", tables.load_table, path, "y", one_hot=["a"])


@pytest.mark.parametrize("header", ["c=b,c,y", "c,c=b,y"])
def test_indicators_do_not_replace_a_column(tmp_path, header):
    path = tmp_path / "x.csv"
    rows = [("1", "a", 0), ("2", "b", 1), ("3", "b", 1)]
    if header == "c,c=b,y":
        rows = [(b, a, y) for a, b, y in rows]
    path.write_text(header + "\n" + "".join(f"{a},{b},{y}\n" for a, b, y in rows))
    expect_error("one_hot makes column 'c=b' twice", tables.load_table, path, "y", one_hot=["c"])


def test_blocks_of_numbers_and_of_text_give_the_same_table(tmp_path, monkeypatch):
    """Blocks of three rows: of numbers, with a missing value, and a last one that is shorter."""
    monkeypatch.setattr(csv_text, "_BLOCK_ROWS", 3)
    monkeypatch.setattr(csv_text, "_BLOCK_FIELDS", 1)
    path = tmp_path / "x.csv"
    path.write_text(
        "a,b,y\n" + "".join(f"{at},{'NA' if at == 4 else at**2},{at % 2}\n" for at in range(8))
    )
    table = tables.load_table(path, "y", drop_missing=True)
    rows = np.array([0, 1, 2, 3, 5, 6, 7])
    np.testing.assert_array_equal(table.features, np.stack([rows, rows**2], 1))
    np.testing.assert_array_equal(table.labels, np.where(rows % 2, 1, -1))
    expect_error("missing values in 'b' .1 rows., first in line 6", tables.load_table, path, "y")


def test_the_search_for_unusable_fields_ends(tmp_path, monkeypatch):
    """Blocks of three rows: of the 30 texts, those of the first two blocks are shown."""
    for name in ("_MOST_BAD", "_BLOCK_ROWS", "_BLOCK_FIELDS"):
        monkeypatch.setattr(csv_text, name, 3)
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,1\n" + "".join(f"x{at},2\n" for at in range(30)))
    expect_error(
        "line 3, column 'a': 'x0' is not a number. The column has text "
        r"\('x0', 'x1', 'x2', 'x3', 'x4'\). Use one_hot",
        tables.load_points,
        path,
    )


@pytest.mark.parametrize("field", ["9007199254740993", "-9007199254740993", "12345678901234567890"])
def test_integers_that_float64_cannot_hold_are_refused(tmp_path, field):
    path = tmp_path / "x.csv"
    path.write_text(f"id,b\n9007199254740992,1\n{field},2\n")
    expect_error(
        f"line 3, column 'id': '{field}' is an integer that float64 cannot hold",
        tables.load_points,
        path,
    )
    path.write_text("id,b\n9007199254740992,1\n-9007199254740994,2\n1e20,3\n")
    assert tables.load_points(path)[1, 0] == -9007199254740994


def test_messages_do_not_repeat_a_files_long_or_odd_text(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(f'"a\x1b[2J\n{"x" * 1000}",b\n1,2\n{"z" * 1000},3\n')
    with pytest.raises(DataError) as caught:
        tables.load_points(path)
    assert len(str(caught.value)) < 500 + len(str(path))
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 1])
def test_packed_content_is_the_same_by_gzip_and_by_the_gate(tmp_path, cut):
    """Two members, a long name in the header, zeros at the end."""
    named = (
        b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 100_000 + b"\0" + gzip.compress(b"abc" * 999)[10:]
    )
    path = tmp_path / "x.gz"
    path.write_bytes(named + gzip.compress(b"def") + bytes(99 * cut))
    with gate.open_regular(path) as file:
        content, packed = gate.inflated_if_packed(file)
        assert packed
        assert content.read() == b"abc" * 999 + b"def"


def test_no_square_matrix_of_a_wide_table_is_formed(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 5000))
    expect_error(
        "x.npy: must have at most 4096 columns; got 5000. Use --dim",
        match.scaled_points,
        values,
        None,
        "columns",
        "x.npy",
        peak=MEBIBYTE,
    )
    assert match.scaled_points(values, 2, "columns", "x.npy").points.shape == (3, 2)
    path, line = tmp_path / "x.csv", ",".join(f"c{at}" for at in range(5000))
    ones, twos = ",".join("1" * 5000), ",".join("2" * 5000)
    path.write_text(f"{line},y\n{ones},0\n{twos},1\n")
    with pytest.raises(DataError, match="at most 4096 columns; got 5000"):
        posterior.posterior(Settings(1, 0.0, 1, 1, 1), seed=0, loaded=load_table(path, "y"))
