"""Tables of features and labels, and points, from files; data sets that scikit-learn ships."""

from swjko.data.tables import (
    DataError,
    Table,
    breast_cancer,
    digits,
    load_logreg,
    load_points,
    load_table,
    wine,
)

__all__ = [
    "DataError",
    "Table",
    "breast_cancer",
    "digits",
    "load_logreg",
    "load_points",
    "load_table",
    "wine",
]
