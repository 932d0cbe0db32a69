"""Twelve tables with two classes, as people have them, and fresh rows of the same laws."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Columns = dict[str, np.ndarray]


class UserTable(NamedTuple):
    """A table and what its user asks for.

    Attributes:
      draw: ``(rng, n) -> (columns, labels)``; labels are bools.
      rows: Number of rows.
      options: Options of ``load_table``.
      refused: Word that the message has if the table is loaded without the options; "" if it loads.
    """

    draw: Callable[[np.random.Generator, int], tuple[Columns, np.ndarray]]
    rows: int
    options: dict[str, Any]
    refused: str = ""


def _labels(rng: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    return rng.random(len(logits)) < 1 / (1 + np.exp(-logits))


def _numbered(values: np.ndarray, stem: str = "x") -> Columns:
    return {f"{stem}{at + 1}": column for at, column in enumerate(values.T)}


def _unbalanced(rng, n):
    x = rng.normal(size=(n, 5))
    return _numbered(x), _labels(rng, -3.2 + x @ [1.0, -0.8, 0.5, 0.0, 0.0])


def _mixed_scales(rng, n):
    z = rng.normal(size=(n, 4))
    columns = {
        "income": 5e4 + 1e4 * z[:, 0],
        "age": 45 + 12 * z[:, 1],
        "ratio": 1e-3 + 2e-4 * z[:, 2],
        "visits": rng.poisson(np.exp(1 + 0.3 * z[:, 3])).astype(float),
    }
    return columns, _labels(rng, 0.5 + z @ [0.9, -0.6, 0.7, 0.4])


def _collinear(rng, n):
    x = rng.normal(size=(n, 3))
    near, exact = x[:, 0] + 1e-3 * rng.normal(size=n), x[:, 1] + x[:, 2]
    return _numbered(np.c_[x, near, exact]), _labels(rng, x @ [1.0, -1.0, 0.5])


def _constant(rng, n):
    x = rng.normal(size=(n, 3))
    columns = _numbered(x) | {"country": np.full(n, 7.0), "version": np.full(n, 0.0)}
    return columns, _labels(rng, 0.3 + x @ [1.0, 0.5, 0.0])


def _missing(rng, n):
    x = rng.normal(size=(n, 4))
    labels = _labels(rng, x @ [1.0, -0.5, 0.5, 0.0])
    x[rng.random(x.shape) < 0.1] = np.nan
    return _numbered(x), labels


def _categories(rng, n):
    x, city, smokes = rng.normal(size=n), rng.integers(0, 4, n), rng.random(n) < 0.3
    logits = 0.8 * x + np.array([-1.0, 0.0, 0.5, 1.0])[city] + smokes
    names = np.array(["Bergen", "Lyon", "Porto", "Turin"])
    columns = {"x1": x, "city": names[city], "smokes": np.where(smokes, "yes", "no")}
    return columns, _labels(rng, logits)


def _dates(rng, n):
    x = rng.normal(size=(n, 3))
    days = np.datetime64("2021-01-01") + rng.integers(0, 900, n).astype("timedelta64[D]")
    return {"admitted": days.astype(str), **_numbered(x)}, _labels(rng, x @ [1.0, 1.0, -0.5])


def _few_rows(rng, n):
    x = rng.normal(size=(n, 4))
    return _numbered(x), _labels(rng, x @ [1.0, -1.0, 0.0, 0.0])


def _many_rows(rng, n):
    x = rng.normal(size=(n, 10)) @ np.triu(np.full((10, 10), 0.3) + 0.7 * np.eye(10))
    return _numbered(x), _labels(rng, -1 + x @ np.linspace(-0.5, 0.5, 10))


def _separable(rng, n):
    x = rng.normal(size=(n, 3))
    return _numbered(x), x @ [1.0, 1.0, 0.0] > 0


def _heavy_tails(rng, n):
    x = np.c_[rng.standard_t(2, n), np.exp(1.5 * rng.normal(size=n)), rng.standard_t(3, n)]
    return _numbered(x), _labels(rng, x @ [0.5, 0.1, -0.3] - 0.3)


def _likert(rng, n):
    factor = rng.normal(size=(n, 2))
    answers = factor @ rng_of("likert").normal(size=(2, 10)) + rng.normal(size=(n, 10))
    columns = _numbered(np.clip(np.round(3 + answers), 1, 5), "question")
    return columns, _labels(rng, factor @ [1.5, -1.0])


def rng_of(*parts: Any) -> np.random.Generator:
    """A generator that depends on names and numbers alone."""
    return np.random.default_rng(list("/".join(map(str, parts)).encode()))


TABLES = {
    "unbalanced classes": UserTable(_unbalanced, 1000, {}),
    "mixed scales": UserTable(_mixed_scales, 800, {}),
    "collinear columns": UserTable(_collinear, 500, {}),
    "constant columns": UserTable(
        _constant, 300, {"drop_columns": ("country", "version")}, "the same value"
    ),
    "10 % missing": UserTable(_missing, 1500, {"drop_missing": True}, "missing"),
    "categories": UserTable(_categories, 600, {"one_hot": ("city", "smokes")}, "one-hot"),
    "dates": UserTable(_dates, 500, {"drop_columns": ("admitted",)}, "date"),
    "40 rows": UserTable(_few_rows, 40, {}),
    "100,000 rows": UserTable(_many_rows, 100_000, {}),
    "separable": UserTable(_separable, 200, {}),
    "heavy tails": UserTable(_heavy_tails, 800, {}),
    "Likert": UserTable(_likert, 400, {}),
}
