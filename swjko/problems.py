"""Named targets and data sets, for the command line, the benchmarks and your own comparisons: each comes with what is known exactly.

Data are bound with ``jax.tree_util.Partial``, so they are leaves of every functional built from them. Random problems take an integer
seed, since scikit-learn draws them on the host; scikit-learn itself is imported only where it is needed.
"""

import csv
import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko import closed_form, validation
from swjko.directions import orthogonal_directions, quasi_directions
from swjko.functionals import interaction, potential, weighted_sum
from swjko.types import Functional, Key, Scalar


class DataError(ValueError):
    """A data file that cannot be used; the message names the file, and the line or the column."""


class Target(NamedTuple):
    """A law nu on R^dim to flow to by ``kl_divergence(target.log_prob)``, whose minimum is then 0.

    Attributes:
      log_prob: normalised log-density of one point [d].
      sample: ``(key, num) -> [num d]`` independent points.
      dim: dimension.
    """

    log_prob: Partial
    sample: Partial
    dim: int


class GaussianTarget(NamedTuple):
    """N(center, precision^{-1}) and its ``Target``. precision [d d] and center [d] are float64 NumPy arrays."""

    precision: Float[np.ndarray, "d d"]
    center: Float[np.ndarray, " d"]
    target: Target


class Equilibrium(NamedTuple):
    """An energy in the plane, its exact minimum, and the radii between which its minimiser is uniform (equal radii: a circle)."""

    functional: Functional
    exact_energy: float
    inner_radius: float
    outer_radius: float


class Table(NamedTuple):
    """features [n p] float64; labels [n], -1 or +1; names of the p columns; the labels as the file writes them, of -1 and of +1."""

    features: Float[np.ndarray, "n p"]
    labels: Float[np.ndarray, " n"]
    names: tuple[str, ...]
    classes: tuple[str, str]


def gaussian(mean: Any, cov: Any) -> Target:
    """N(mean, cov), from arrays [d] and [d d]; factored in float64 on the host. Raises ValueError when cov is not positive definite."""
    mean, cov = (np.asarray(mean, np.float64), np.asarray(cov, np.float64))
    dim = mean.shape[0]
    if cov.shape != (dim, dim):
        raise ValueError(f"cov must have shape {(dim, dim)} beside a mean of shape {mean.shape}; received {cov.shape}.")
    try:
        factor = np.linalg.cholesky(cov)
    except np.linalg.LinAlgError as error:
        raise ValueError("cov must be symmetric positive definite; its Cholesky factor does not exist.") from error
    whitening = jnp.asarray(np.linalg.inv(factor), float)
    log_normaliser = jnp.asarray(-np.sum(np.log(np.diag(factor))) - dim * math.log(2 * math.pi) / 2, float)
    center = jnp.asarray(mean, float)
    return Target(
        Partial(_gaussian_log_prob, center, whitening, log_normaliser), Partial(_gaussian_sample, center, jnp.asarray(factor, float)), dim
    )


def gaussian_target(seed: int, dim: int) -> GaussianTarget:
    """A random Gaussian: precision ``sklearn.datasets.make_spd_matrix(dim)``, center ~ N(0, I); the Fokker-Planck problem of Bonet et al.
    (2022), arXiv 2110.10972, figure 1. Its slowest modes need SW times of about 8."""
    dim = validation.as_count(dim, "dim")
    precision = np.asarray(require_extra("sklearn.datasets").make_spd_matrix(dim, random_state=seed), np.float64)
    center = np.random.default_rng(seed).standard_normal(dim)
    return GaussianTarget(precision, center, gaussian(center, np.linalg.inv(precision)))


def exact_sw_jko_flow(
    problem: GaussianTarget, step_size: float, num_steps: int, *, num_directions: int = 2000, second_order: bool = False
) -> closed_form.Gaussian:
    """The exact SW-JKO iterates from N(0, I) in float64, on the host: means [k d], covariances [k d d], start included, k = num_steps + 1.

    With ``second_order``, those of ``closed_form.gaussian_sw_bdf2_flow``: in small steps, the SW flow in continuous time.
    Directions stand for the average over the sphere: equal angles in the plane, exact there to rounding; whole orthogonal blocks
    elsewhere, whose noise of order 1 / sqrt(num_directions) in the covariances is then the oracle's own.
    """
    dim = len(problem.center)
    directions_of = quasi_directions if dim == 2 else orthogonal_directions
    with jax.enable_x64(True):
        directions = directions_of(jax.random.key(0), dim * math.ceil(num_directions / dim), dim)
        flow = closed_form.gaussian_sw_bdf2_flow if second_order else closed_form.gaussian_sw_jko_flow
        flow = jax.jit(flow, static_argnames="num_steps")
        precision, center = jnp.asarray(problem.precision), jnp.asarray(problem.center)
        return jax.device_get(flow(jnp.zeros(dim), jnp.eye(dim), precision, center, step_size, num_steps=num_steps, directions=directions))


def gaussian_mixture(centers: Array) -> Target:
    """Equal parts of unit Gaussians: rho = mean_j N(centers_j, I). centers: [k d]."""
    centers = validation.as_points(centers, "centers")
    return Target(Partial(_mixture_log_prob, centers), Partial(_mixture_sample, centers), centers.shape[1])


def random_mixture(seed: int, dim: int, *, num: int = 5) -> Target:
    """``num`` unit Gaussians with centres uniform in [-5, 5]^dim. Five in the plane are the mixture of Bonet et al. (2022)."""
    dim, num = (validation.as_count(dim, "dim"), validation.as_count(num, "num"))
    return gaussian_mixture(jnp.asarray(np.random.default_rng(seed).uniform(-5.0, 5.0, (num, dim)), float))


def ring() -> Equilibrium:
    """W = |x|^4/4 - |x|^2/2: the uniform circle of radius 1/sqrt(3)."""
    return Equilibrium(interaction(Partial(_ring_kernel)), -1 / 12, 1 / math.sqrt(3), 1 / math.sqrt(3))


def disk() -> Equilibrium:
    """W = |x|^2/2 - log|x|: the uniform unit disk."""
    return Equilibrium(interaction(Partial(_coulomb_kernel)), 3 / 8, 0.0, 1.0)


def annulus() -> Equilibrium:
    """W = |x|^2/2 - log|x| and V = -log|x|/4: uniform on 1/2 < |x| < sqrt(5)/2.

    On it s = |x|^2 is uniform on (1/4, 5/4) and the minimum is 3/8 - (1/2) int s log(s) ds.
    """
    functional = weighted_sum((1.0, interaction(Partial(_coulomb_kernel))), (1.0, potential(Partial(_repulsive_center))))
    return Equilibrium(functional, 9 / 16 - 25 / 64 * math.log(5 / 4) - math.log(4) / 64, 0.5, math.sqrt(5) / 2)


def logistic_regression(features: Array, labels: Array) -> Partial:
    """The log-posterior of (w, log alpha) in R^{p+1}, up to the evidence, of Bayesian logistic regression without intercept.

      sum_i log sigmoid(y_i <x_i, w>) + log N(w; 0, I / alpha) + log Gamma(alpha; shape 1, rate 100) + log alpha,

    the last term since the density is that of log alpha. log alpha is not clipped: a clipped prior would be improper. All data enter each
    evaluation, and under vmap the draws meet them in one matrix product.

    Args: features [n p]; labels [n], each -1 or +1. Returns a function of one point [p + 1]; the last coordinate is log alpha.
    """
    features, labels = (validation.as_points(features, "features"), validation.as_values(labels, "labels"))
    if labels.shape[0] != features.shape[0]:
        raise ValueError(f"labels must have one value for each of {features.shape[0]} rows; received {labels.shape[0]}.")
    if validation.is_concrete(labels) and not bool(jnp.all(jnp.abs(labels) == 1)):
        raise ValueError(f"labels must be -1 or +1; received {np.unique(np.asarray(labels))[:5].tolist()}.")
    return Partial(_posterior_log_prob, features * labels[:, None])


def load_table(path: str | Path, label: str) -> Table:
    """A CSV file with a header, as features and labels; ``label`` names the column of labels, whose two values become -1 and +1 in order.

    Raises DataError naming the file, and the line or column, when it cannot be read, misses the column, holds a field that is not a finite
    number, has a row too short or too long, fewer than two rows, a constant column, or labels of other than two classes.
    """
    header, lines = _read_csv(Path(path))
    if label not in header:
        raise DataError(f"{path}: no column {label!r} to take as labels; the header names {', '.join(header)}.")
    _require_distinct(path, header)
    at = header.index(label)
    written = [fields[at].strip() for _, fields in lines]
    classes = sorted(set(written), key=_sort_key)
    if len(classes) != 2 or {"", "nan"} & {name.lower() for name in classes}:
        shown = ", ".join(repr(name) for name in classes[:5])
        raise DataError(f"{path}, column {label!r}: labels must be of exactly two classes; found {len(classes)}: {shown}.")
    names = tuple(name for name in header if name != label)
    if not names:
        raise DataError(f"{path}: no column beside the labels {label!r}.")
    features = _numbers(path, [(number, fields[:at] + fields[at + 1 :]) for number, fields in lines], names)
    labels = np.where(np.asarray(written) == classes[1], 1.0, -1.0)
    return Table(features, labels, names, (classes[0], classes[1]))


def load_points(path: str | Path) -> Float[np.ndarray, "n d"]:
    """Points [n d] as float64, from a .npy file of rank 2 (never a pickle) or a CSV file of numbers, with a header or without one.

    Raises DataError as ``load_table`` does.
    """
    if Path(path).suffix != ".npy":
        header, lines = _read_csv(Path(path))
        if all(_is_number(name) for name in header):
            lines = [(1, header), *lines]
            header = [str(index + 1) for index in range(len(header))]
        _require_distinct(path, header)
        return _numbers(path, lines, tuple(header))
    try:
        # A memory map allocates nothing, whatever size a damaged header claims.
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable .npy file of numbers ({str(error) or type(error).__name__}).") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu" or values.ndim != 2 or values.size == 0:
        received = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise DataError(f"{path}: must hold real numbers of shape [points, dimension]; it holds {received}.")
    values = np.array(values, np.float64)
    _require_usable(path, values, tuple(str(index + 1) for index in range(values.shape[1])), range(1, len(values) + 1), "row")
    return values


def breast_cancer() -> Table:
    """scikit-learn's Wisconsin breast cancer table, 569 x 30; +1 is benign."""
    data = require_extra("sklearn.datasets").load_breast_cancer()
    labels = np.where(data.target == 1, 1.0, -1.0)
    return Table(np.asarray(data.data, np.float64), labels, tuple(str(name) for name in data.feature_names), ("malignant", "benign"))


def digits() -> Float[np.ndarray, "n 64"]:
    """scikit-learn's 1797 images of digits, 8 x 8, as rows of grey levels 0 to 16."""
    return np.asarray(require_extra("sklearn.datasets").load_digits().data, np.float64)


def require_extra(module: str) -> ModuleType:
    """The module, or an ImportError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module.split('.')[0]} is not installed; get it with: pip install 'swjko[cli]'") from error


def _gaussian_log_prob(center, whitening, log_normaliser, x: Float[Array, " d"]) -> Scalar:
    return log_normaliser - 0.5 * jnp.sum((whitening @ (x - center)) ** 2)


def _gaussian_sample(center, factor, key: Key, num: int) -> Float[Array, "m d"]:
    return center[None, :] + jax.random.normal(key, (num, center.shape[0]), center.dtype) @ factor.T


def _mixture_log_prob(centers, x: Float[Array, " d"]) -> Scalar:
    num, dim = centers.shape
    logits = -0.5 * jnp.sum((x[None, :] - centers) ** 2, axis=1)
    return jax.nn.logsumexp(logits) - math.log(num) - dim * math.log(2 * math.pi) / 2


def _mixture_sample(centers, key: Key, num: int) -> Float[Array, "m d"]:
    component_key, noise_key = jax.random.split(key)
    component = jax.random.randint(component_key, (num,), 0, centers.shape[0])
    return centers[component] + jax.random.normal(noise_key, (num, centers.shape[1]), centers.dtype)


def _ring_kernel(x: Float[Array, " d"]) -> Scalar:
    square = jnp.sum(x**2)
    return square**2 / 4 - square / 2


def _coulomb_kernel(x: Float[Array, " d"]) -> Scalar:
    square = jnp.sum(x**2)
    return (square - jnp.log(square)) / 2


def _repulsive_center(x: Float[Array, " d"]) -> Scalar:
    return -jnp.log(jnp.sum(x**2)) / 8


def _posterior_log_prob(signed_features, point: Float[Array, " d"]) -> Scalar:
    w, log_alpha = (point[:-1], point[-1])
    alpha = jnp.exp(log_alpha)
    log_prior_w = 0.5 * (w.shape[0] * (log_alpha - math.log(2 * math.pi)) - alpha * jnp.sum(w**2))
    log_prior_log_alpha = math.log(100.0) - 100.0 * alpha + log_alpha
    # The weaker precision of a GPU's matrix product shows in log-likelihoods of hundreds.
    margins = jnp.dot(signed_features, w, precision=lax.Precision.HIGHEST)
    return jnp.sum(jax.nn.log_sigmoid(margins)) + log_prior_w + log_prior_log_alpha


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and the rows under it, each with its line number; blank lines are skipped."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, fields) for fields in reader if fields]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file of comma-separated values"
        raise DataError(f"{path}: cannot be read ({reason}).") from error
    if not lines:
        raise DataError(f"{path}: the file is empty.")
    header = [name.strip() for name in lines[0][1]]
    for number, fields in lines[1:]:
        if len(fields) != len(header):
            raise DataError(f"{path}, line {number}: {len(fields)} fields, and the first line has {len(header)}.")
    return header, lines[1:]


def _require_distinct(path, header: list[str]) -> None:
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{path}: the header names column {name!r} twice.")


def _numbers(path, lines: list[tuple[int, list[str]]], names: tuple[str, ...]) -> Float[np.ndarray, "n p"]:
    for number, fields in lines:
        for name, field in zip(names, fields, strict=True):
            if not _is_number(field):
                raise DataError(f"{path}, line {number}, column {name!r}: {field!r} is not a number.")
    values = np.array([[float(field) for field in fields] for _, fields in lines], np.float64).reshape(len(lines), len(names))
    _require_usable(path, values, names, [number for number, _ in lines], "line")
    return values


def _require_usable(path, values: np.ndarray, names: tuple[str, ...], numbers: Any, unit: str) -> None:
    if len(values) < 2:
        raise DataError(f"{path}: at least two rows of data are needed; found {len(values)}.")
    # Squares of larger numbers leave float64.
    bad = np.argwhere(~(np.abs(values) < 1e100))
    if len(bad):
        row, column = bad[0]
        raise DataError(f"{path}, {unit} {numbers[row]}, column {names[column]!r}: {values[row, column]} is not a usable finite number.")
    constant = np.flatnonzero(np.ptp(values, axis=0) == 0)
    if len(constant):
        raise DataError(f"{path}, column {names[constant[0]]!r}: every row has the same value; remove the column.")


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _sort_key(name: str) -> tuple[bool, float, str]:
    return (not _is_number(name), float(name) if _is_number(name) else 0.0, name)
