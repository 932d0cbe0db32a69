"""Targets and data sets with known answers, for benchmarks and your own comparisons.

Data are bound with ``jax.tree_util.Partial``, so they are leaves of every functional. Random
problems take an integer seed, since scikit-learn draws them on the host; it is imported where it is
needed.
"""

from swjko.data.images import (
    Images,
    digits_images,
    load_array,
    load_cifar10,
    load_idx,
    load_image_folder,
    load_images,
)
from swjko.data.tables import (
    DataError,
    Points,
    Table,
    breast_cancer,
    digits,
    load_named_points,
    load_points,
    load_table,
    wine,
)
from swjko.problems.equilibria import Equilibrium, annulus, disk, ring
from swjko.problems.posteriors import logistic_regression, logistic_regression_kl
from swjko.problems.targets import (
    GaussianTarget,
    Target,
    exact_sw_jko_flow,
    gaussian,
    gaussian_mixture,
    gaussian_target,
    random_mixture,
)

__all__ = [
    "DataError",
    "Equilibrium",
    "GaussianTarget",
    "Images",
    "Points",
    "Table",
    "Target",
    "annulus",
    "breast_cancer",
    "digits",
    "digits_images",
    "disk",
    "exact_sw_jko_flow",
    "gaussian",
    "gaussian_mixture",
    "gaussian_target",
    "load_array",
    "load_cifar10",
    "load_idx",
    "load_image_folder",
    "load_images",
    "load_named_points",
    "load_points",
    "load_table",
    "logistic_regression",
    "logistic_regression_kl",
    "random_mixture",
    "ring",
    "wine",
]
