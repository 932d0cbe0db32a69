"""Rules for ``swjko.solve(..., stop=...)``: when a flow has come as far as it can be seen to come.

A rule is asked on the host after every ``stop_steps`` steps, with the state and what ``record`` kept of those steps, and answers for one
flow or for each of many. Any function that does so is one. The two here hold nothing that changes, so their answers depend on the steps
alone, and runs that go on from checkpoints stop where they would have stopped.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from swjko import validation
from swjko.diagnostics.certificates import certificate, gradient_of_energy
from swjko.running.batching import Layout, are_many, laid_out
from swjko.schemes.base import State
from swjko.schemes.sw_jko import SWJKO
from swjko.types import Key

# Sums of floats round where nothing is random and the standard error is zero.
_ROUNDINGS = 8.0
_FEWEST_ENERGIES, _FEWEST_MEASURES = 4, 2


def until_stationary(*, num_standard_errors: float = 2.0) -> "UntilStationary":
    """Stops a flow whose energies, over the last ``stop_steps`` steps, fall no more than their standard error.

    A line is fitted to the reported energies by least squares, and its fall compared with ``num_standard_errors`` standard errors of that
    fall, found from what the energies scatter around the line. So noise decides how little still counts as falling: more samples, or more
    steps between two questions, find smaller falls. Of a flow without noise every fall counts, down to rounding.

    Args:
      num_standard_errors: of the fall, above 0.

    For any scheme, one flow or many, with ``record`` left alone or ``swjko.both``. Raises ValueError for ``stop_steps`` below 4.

    Example: ``solve(key, scheme, 1000, stop=until_stationary(), stop_steps=20)``.
    """
    return UntilStationary(_as_number(num_standard_errors, "num_standard_errors"))


def until_certified(
    key: Key,
    scheme: SWJKO,
    *,
    num_samples: int,
    axes: Any = None,
    num_repeats: int = 16,
    gradient_tolerance: float = 0.25,
    num_standard_errors: float = 2.0,
) -> "UntilCertified":
    """Stops a flow that has arrived: by a ``certificate`` its last steps gained nothing, and little is left of the gradient of F.

    Asked after ``stop_steps`` steps, it judges the measures recorded since the last question on fresh samples:

    - the steps between them lowered F, together, by no more than ``num_standard_errors`` standard errors. Each fall is estimated from
      samples that the two measures share, and so smaller ones are found than the reported energies can show. The standard error is that
      of the samples, or where it is more, what the steps that raised F rose by says of it: no step of the flow does so, and inner solves
      by stochastic gradients do, when they end a little to this or that side of the minimum;
    - the gradient of F in the parameters at the last of them has at most ``gradient_tolerance`` of the norm it has at mu_0, within its
      noise: a flow whose inner solves do not move it does not pass for one that has arrived.

    Args:
      key: for the fresh samples; keys [flows] of many flows.
      scheme: the one that runs, from ``sw_jko``.
      num_samples, num_repeats: as for ``certificate``. A question costs about as much as 2 ``num_repeats`` updates of ``num_samples``
        points for each of the steps.
      axes: of many flows, as in ``run_many``.
      gradient_tolerance, num_standard_errors: see above; both above 0.

    It needs the measures, ``solve(..., record=swjko.both)``, and ``stop_steps`` of at least 2, and raises TypeError or ValueError without.

    Example::

        solve(key, scheme, 200, stop=until_certified(check_key, scheme, num_samples=1000), record=swjko.both)
    """
    if not isinstance(scheme, SWJKO):
        raise TypeError(
            f"scheme must come from swjko.sw_jko, whose steps are certified; received {type(scheme).__name__}."
        )
    layout = None
    if are_many(key):
        key, scheme, layout = laid_out(key, scheme, axes, None, None)
    elif axes is not None:
        raise ValueError(
            "axes is for many flows, and key is one key. Give one for each: jax.random.split(key, flows)."
        )
    return UntilCertified(
        key,
        scheme,
        layout,
        validation.as_count(num_samples, "num_samples"),
        validation.as_count(num_repeats, "num_repeats", 2),
        _as_number(gradient_tolerance, "gradient_tolerance"),
        _as_number(num_standard_errors, "num_standard_errors"),
    )


@dataclasses.dataclass(frozen=True)
class UntilStationary:
    """Made by ``until_stationary``."""

    num_standard_errors: float

    def __call__(self, state: State, history: Any) -> np.ndarray:
        """Whether to stop, [] or [flows], from energies [steps] or [flows steps]."""
        del state
        reported = np.asarray(_infos(history).energy)
        count = reported.shape[-1]
        if count < _FEWEST_ENERGIES:
            raise ValueError(
                f"stop_steps must be at least {_FEWEST_ENERGIES}, for the scatter of energies to be seen; received {count}."
            )
        energies, steps = reported.astype(np.float64), np.arange(count) - (count - 1) / 2
        with np.errstate(invalid="ignore"):
            centred = energies - np.mean(energies, axis=-1, keepdims=True)
            slope = centred @ steps / np.sum(steps**2)
            scatter = np.sum((centred - slope[..., None] * steps) ** 2, axis=-1) / (count - 2)
            fall, error = -slope * (count - 1), np.sqrt(scatter / np.sum(steps**2)) * (count - 1)
            rounding = (
                _ROUNDINGS
                * float(jnp.finfo(reported.dtype).eps)
                * (1.0 + np.abs(energies[..., -1]))
            )
            return np.asarray(fall <= self.num_standard_errors * error + rounding)


@dataclasses.dataclass(frozen=True)
class UntilCertified:
    """Made by ``until_certified``."""

    key: Key
    scheme: Any
    layout: Layout | None
    num_samples: int
    num_repeats: int
    gradient_tolerance: float
    num_standard_errors: float

    def __call__(self, state: State, history: Any) -> np.ndarray:
        """Whether to stop, [] or [flows]."""
        trajectory = _states(history).params
        count = jax.tree.leaves(trajectory)[0].shape[0 if self.layout is None else 1]
        if count < _FEWEST_MEASURES:
            raise ValueError(
                f"stop_steps must be at least {_FEWEST_MEASURES}, for one step between measures; received {count}."
            )
        return np.asarray(
            _certified(
                self.key,
                self.scheme,
                jnp.asarray(state.step),
                trajectory,
                layout=self.layout,
                num_samples=self.num_samples,
                num_repeats=self.num_repeats,
                gradient_tolerance=self.gradient_tolerance,
                num_standard_errors=self.num_standard_errors,
            )
        )


def _certify(
    key,
    scheme,
    step,
    trajectory,
    layout,
    num_samples,
    num_repeats,
    gradient_tolerance,
    num_standard_errors,
):
    def one(scheme, key, step, trajectory):
        steps_key, gradient_key, start_key = jax.random.split(jax.random.fold_in(key, step), 3)
        found = certificate(
            steps_key, scheme, trajectory, num_samples=num_samples, num_repeats=num_repeats
        )
        rounding = (
            _ROUNDINGS
            * jnp.finfo(found.energy.value.dtype).eps
            * (1.0 + jnp.abs(found.energy.value[-1]))
        )
        falls = found.dissipation.value + found.proximity.value
        errors = found.dissipation.standard_error + found.proximity.standard_error
        # Of scatter to both sides of zero, half is rises.
        variance = jnp.maximum(jnp.sum(errors**2), 2.0 * jnp.sum(jnp.minimum(falls, 0.0) ** 2))
        gains = jnp.sum(falls) > num_standard_errors * jnp.sqrt(variance) + rounding
        paired = dataclasses.replace(scheme, num_samples=num_samples, common_latents=True)
        last = jax.tree.map(lambda leaf: leaf[-1], trajectory)
        start = gradient_of_energy(gradient_key, paired, scheme.init(start_key).params, num_repeats)
        left = gradient_of_energy(gradient_key, paired, last, num_repeats)
        return ~gains & (
            left.value
            <= gradient_tolerance * start.value + num_standard_errors * left.standard_error
        )

    if layout is None:
        return one(scheme, key, step, trajectory)
    return layout.over_flows(one, scheme, key, step, trajectory)


_certified = jax.jit(
    _certify,
    static_argnames=(
        "layout",
        "num_samples",
        "num_repeats",
        "gradient_tolerance",
        "num_standard_errors",
    ),
)


def _infos(history: Any) -> Any:
    """Those that ``swjko.infos`` or ``swjko.both`` recorded."""
    for part in (history, history[1] if isinstance(history, tuple) and len(history) == 2 else None):
        if hasattr(part, "energy"):
            return part
    raise TypeError(
        "stop needs the energies of the steps: solve with record=swjko.infos, the default, or record=swjko.both."
    )


def _states(history: Any) -> Any:
    if isinstance(history, tuple) and len(history) == 2 and hasattr(history[0], "params"):
        return history[0]
    raise TypeError("stop needs the measures of the steps: solve with record=swjko.both.")


def _as_number(value: Any, name: str) -> float:
    number = validation.as_positive(value, name)
    if number.ndim:
        raise ValueError(f"{name} must be one number; received shape {number.shape}.")
    return float(number)
