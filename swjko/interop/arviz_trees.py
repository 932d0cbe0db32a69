"""Draws by name as the data that ArviZ works with."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from swjko.diagnostics.importance import Importance


def to_arviz(
    draws: Mapping[str, ArrayLike],
    found: Importance | None = None,
    *,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> Any:
    """Makes an ArviZ DataTree from draws by name (InferenceData for ArviZ 0.x).

    The draws are one chain of the group "posterior". ArviZ takes them as equally weighted: for
    draws of the posterior by importance weights, resample first (see the example).

    Args:
      draws: Arrays [n ...] by name, such as ``target.constrain(points)``.
      found: Result of ``swjko.importance``. k-hat, log-evidence and the verdict become attributes
        of "posterior". If ``draws`` are those of ``found.cloud``, in the same number and order,
        log-weights and smoothed weights become the group "sample_stats".
      coords: Labels of dimensions, as ArviZ takes them.
      dims: Dimensions of each name, as ArviZ takes them.

    Example::

        found = swjko.importance(key, solution.distribution, target.log_prob, 4000)
        proposed = to_arviz(target.constrain(found.cloud.points), found)
        posterior = to_arviz(target.constrain(found.resample(key, 4000)))
    """
    try:
        arviz = importlib.import_module("arviz")
    except ImportError as error:
        raise ImportError(
            'to_arviz needs arviz. Install it: pip install "swjko[interop]".'
        ) from error
    posterior = {name: np.asarray(value)[None] for name, value in draws.items()}
    counts = {value.shape[1] if value.ndim > 1 else 0 for value in posterior.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"`draws` must hold arrays of one leading axis [n]; got {sorted(counts)} draws. "
            "Use target.constrain(points)."
        )
    groups = {"posterior": posterior}
    if found is not None:
        weights = (found.cloud.weights, found.log_weights)
        if {len(weights[1])} == counts:
            names = ("weight", "log_weight")
            groups["sample_stats"] = {
                name: np.asarray(value)[None] for name, value in zip(names, weights, strict=True)
            }
    options = {"coords": coords, "dims": dims}
    if int(arviz.__version__.split(".")[0]) == 0:
        tree = arviz.from_dict(**groups, **options)
    else:
        tree = arviz.from_dict(groups, **options)
    if found is not None:
        names = ("pareto_k", "log_evidence", "standard_error", "effective_fraction")
        figures = {name: float(getattr(found, name)) for name in names}
        tree["posterior"].attrs |= figures | {"verdict": found.verdict}
    return tree
