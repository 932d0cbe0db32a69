"""Tables of features and labels, and points: from files, and from scikit-learn."""

from swjko.data.tables import (
    DataError,
    Table,
    breast_cancer,
    digits,
    load_points,
    load_table,
    wine,
)

__all__ = [
    "DataError",
    "Table",
    "breast_cancer",
    "digits",
    "load_points",
    "load_table",
    "wine",
]
