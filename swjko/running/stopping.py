"""Rules for ``swjko.solve(..., stop=...)``, which end a flow that has converged to its noise.

``solve`` calls a rule on the host after every ``stop_steps`` steps, with the state and what
``record`` kept of these steps. The rule returns one answer, or one for each of many flows; any
such function is a rule. The two rules here have no state of their own, so a resumed run stops
at the same step.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from swjko.diagnostics.certificates import certificate, gradient_of_energy
from swjko.running.batching import Batching, on_host, prepare_one_or_many
from swjko.running.plan import StopFn
from swjko.schemes.base import Info, Result, State
from swjko.schemes.sw_jko import SWJKO
from swjko.types import Key, Params, validation

# Sums of floats are rounded even if nothing is random and the standard error is zero.
_ROUNDINGS = 8.0


def until_stationary(*, num_standard_errors: float = 2.0) -> "UntilStationary":
    """Stop a flow when its energy falls by no more than the noise of the reported energies.

    The rule fits a line to the energies of the last ``stop_steps`` steps by least squares. It
    compares the fall of the line with ``num_standard_errors`` standard errors of this fall, which
    are estimated from the scatter around the line. More samples, or more steps between two
    calls, detect smaller falls. Without noise every fall beyond rounding counts.

    It works with any scheme, for one flow or many, and needs ``stop_steps`` of at least 4 and
    records with energies: the default, or ``record="trajectory"``.

    Args:
      num_standard_errors: Fall that counts as none, in standard errors; above 0.

    Example:
      ``solve(key, scheme, 1000, stop=until_stationary(), stop_steps=20)``
    """
    number = validation.as_positive(num_standard_errors, "num_standard_errors")
    return UntilStationary(float(number))


def until_certified(
    key: Key,
    scheme: SWJKO,
    *,
    num_samples: int,
    axes: PyTree = None,
    num_repeats: int = 16,
    gradient_tolerance: float = 0.25,
    num_standard_errors: float = 2.0,
) -> "UntilCertified":
    """Stop a flow when fresh samples show no further decrease of F and little gradient of F.

    The rule judges the measures recorded since its last call. Both conditions must hold:

    - The steps between the measures lowered F, in total, by at most ``num_standard_errors``
      standard errors. Both measures of a step share their samples, so this detects smaller falls
      than the reported energies do. The standard error is that of the samples, or the one implied
      by steps that raised F if this is larger. Exact steps never raise F; inner solves with
      stochastic gradients do, when they end beside the minimum.
    - The gradient of F in the parameters at the last measure has at most ``gradient_tolerance``
      times its norm at mu_0, within its noise. So a flow whose inner solves do not move it does
      not count as converged.

    It needs the measures, ``record="trajectory"``, and ``stop_steps`` of at least 2.

    Args:
      key: Random key of the fresh samples; keys [flows] for many flows.
      scheme: Scheme that runs, from ``sw_jko``.
      num_samples: Points for each estimate, as in ``certificate``.
      axes: Stacked leaves of the scheme for many flows, as in ``run_many``.
      num_repeats: Independent estimates, as in ``certificate``. A call costs about as much as
        2 ``num_repeats`` updates of ``num_samples`` points for each of the steps.
      gradient_tolerance: Largest gradient at the end, as a fraction of that at mu_0; above 0.
      num_standard_errors: Fall that counts as none, in standard errors; above 0.

    Example::

        rule = until_certified(check_key, scheme, num_samples=1000)
        solve(key, scheme, 200, stop=rule, record="trajectory")
    """
    if not isinstance(scheme, SWJKO):
        raise TypeError(
            "scheme must come from swjko.sw_jko, whose steps can be certified; "
            f"got {type(scheme).__name__}."
        )
    key, scheme, batching = prepare_one_or_many(key, scheme, axes=axes)
    return UntilCertified(
        key,
        scheme,
        batching,
        validation.as_count(num_samples, "num_samples"),
        validation.as_count(num_repeats, "num_repeats", 2),
        float(validation.as_positive(gradient_tolerance, "gradient_tolerance")),
        float(validation.as_positive(num_standard_errors, "num_standard_errors")),
    )


@dataclasses.dataclass(frozen=True)
class UntilStationary:
    """The rule of ``until_stationary``."""

    num_standard_errors: float

    def __call__(self, state: State | None, history: PyTree) -> np.ndarray:
        """Return whether to stop, [] or [flows], for energies [steps] or [flows steps]."""
        reported = np.asarray(_recorded_infos(history).energy)
        count = reported.shape[-1]
        if count < 4:
            raise ValueError(
                f"stop_steps must be at least 4, to estimate the scatter of energies; got {count}."
            )
        energies, steps = reported.astype(np.float64), np.arange(count) - (count - 1) / 2
        with np.errstate(invalid="ignore"):
            centred = energies - np.mean(energies, axis=-1, keepdims=True)
            slope = centred @ steps / np.sum(steps**2)
            scatter = np.sum((centred - slope[..., None] * steps) ** 2, axis=-1) / (count - 2)
            error = np.sqrt(scatter / np.sum(steps**2)) * (count - 1)
            eps = float(jnp.finfo(reported.dtype).eps)
            rounding = _ROUNDINGS * eps * (1.0 + np.abs(energies[..., -1]))
            fall = -slope * (count - 1)
            return np.asarray(fall <= self.num_standard_errors * error + rounding)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UntilCertified:
    """The rule of ``until_certified``."""

    key: Key
    scheme: Any
    batching: Batching = dataclasses.field(metadata={"static": True})
    num_samples: int = dataclasses.field(metadata={"static": True})
    num_repeats: int = dataclasses.field(metadata={"static": True})
    gradient_tolerance: float = dataclasses.field(metadata={"static": True})
    num_standard_errors: float = dataclasses.field(metadata={"static": True})

    def __call__(self, state: State, history: PyTree) -> np.ndarray:
        """Return whether to stop, [] or [flows]."""
        trajectory = _recorded_states(history).params
        count = jax.tree.leaves(trajectory)[0].shape[self.batching.step_axis]
        if count < 2:
            raise ValueError(
                f"stop_steps must be at least 2, for a step between two measures; got {count}."
            )
        return np.asarray(_judge_flows(self, jnp.asarray(state.step), trajectory))

    def judge(self, scheme: SWJKO, key: Key, step: jax.Array, trajectory: Params) -> jax.Array:
        """Return whether one flow has converged; for measures [steps ...]."""
        keys = jax.random.split(jax.random.fold_in(key, step), 3)
        steps_key, gradient_key, start_key = keys
        found = certificate(
            steps_key,
            scheme,
            trajectory,
            num_samples=self.num_samples,
            num_repeats=self.num_repeats,
        )
        energy = found.energy.value
        rounding = _ROUNDINGS * jnp.finfo(energy.dtype).eps * (1.0 + jnp.abs(energy[-1]))
        falls, errors = found.decrease
        # If the scatter is symmetric around zero, rises are half of it.
        variance = jnp.maximum(jnp.sum(errors**2), 2.0 * jnp.sum(jnp.minimum(falls, 0.0) ** 2))
        gains = jnp.sum(falls) > self.num_standard_errors * jnp.sqrt(variance) + rounding
        paired = dataclasses.replace(scheme, num_samples=self.num_samples, common_latents=True)
        last = jax.tree.map(lambda leaf: leaf[-1], trajectory)
        first = scheme.init(start_key).params
        start, left = (
            gradient_of_energy(gradient_key, paired, params, self.num_repeats)
            for params in (first, last)
        )
        noise = self.num_standard_errors * left.standard_error
        return ~gains & (left.value <= self.gradient_tolerance * start.value + noise)


@jax.jit
def _judge_flows(rule: UntilCertified, step, trajectory):
    return rule.batching.over_flows(rule.judge, rule.scheme, rule.key, step, trajectory)


def mark_stopped(stop: StopFn, state: State, history: PyTree, batching: Batching) -> State:
    """Give the code STOPPED to the flows that ``stop`` ends."""
    shown = batching.unpad(state)
    codes = on_host(shown.result)
    answer = np.asarray(stop(on_host(shown) if batching.spans_processes else shown, history))
    if answer.dtype != bool or answer.shape not in {(), codes.shape}:
        expected = f", or {codes.size} bools, one for each flow" if batching.step_axis else ""
        raise ValueError(f"stop must return a bool{expected}; got {answer!r}.")
    ended = answer & (codes == Result.OK)
    if not np.any(ended):
        return state
    marked = np.where(ended, Result.STOPPED, codes).astype(codes.dtype)
    sharding = shown.result.sharding if shown.result.committed else None
    # Padding repeats the first flows, so it stops together with them.
    return state._replace(result=batching.shard(jax.device_put(marked, sharding)))


def _recorded_infos(history: PyTree) -> Info:
    if hasattr(history, "energy"):
        return history
    if isinstance(history, tuple) and len(history) == 2 and hasattr(history[1], "energy"):
        return history[1]
    raise TypeError(
        "record must keep the energies for this rule. Use the default, record=swjko.infos, or "
        "record=swjko.both."
    )


def _recorded_states(history: PyTree) -> State:
    if isinstance(history, tuple) and len(history) == 2 and hasattr(history[0], "params"):
        return history[0]
    raise TypeError(
        "record must keep the parameters for this rule. Use record=swjko.both, or 'trajectory'."
    )
