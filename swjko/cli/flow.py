"""What all problems of the command line share: settings, the solved flow, and its plots."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import lax

from swjko import plots
from swjko.cli.report import Outcome
from swjko.diagnostics.evaluate import evaluate, replay
from swjko.distances.directions import uniform_directions
from swjko.families.base import Family
from swjko.running.solution import Solution
from swjko.running.solve import solve
from swjko.schemes.base import Info, Scheme, both
from swjko.schemes.sw_jko import sw_jko
from swjko.types import Cloud, DirectionFn, Estimate, Functional, Key

_PLOTTED_TIMES, _PLOTTED_POINTS = 5, 1000
_replay = jax.jit(replay, static_argnames=("num",))


class Settings(NamedTuple):
    """Numbers of a run. Adam starts at learning_rate, and falls to zero within each JKO step."""

    steps: int
    step_size: float
    inner_steps: int
    samples: int
    projections: int
    learning_rate: float = 3e-3


class Flow(NamedTuple):
    """A solved flow. The energies in ``history`` are evaluated anew, on more points."""

    family: Family
    solution: Solution
    energy_start: Estimate
    energy_end: Estimate
    history: Info
    clouds: Cloud
    times: np.ndarray

    def outcome(
        self, problem: str, settings: Settings, config: dict[str, Any], **parts: Any
    ) -> Outcome:
        """Return the outcome of a problem; ``parts`` are its other fields."""
        return Outcome(
            problem,
            self.family.dim,
            {**settings._asdict(), **config},
            self.solution,
            self.energy_start,
            self.energy_end,
            **parts,
        )


def adam(settings: Settings) -> optax.GradientTransformation:
    """Return Adam with a cosine schedule over the updates of one JKO step."""
    return optax.adam(optax.cosine_decay_schedule(settings.learning_rate, settings.inner_steps))


def make_scheme(
    family: Family,
    functional: Functional,
    settings: Settings,
    optimizer: optax.GradientTransformation,
    direction_fn: DirectionFn = uniform_directions,
) -> Scheme:
    """Return ``sw_jko`` with the numbers of ``settings``."""
    return sw_jko(
        family,
        functional,
        optimizer,
        step_size=settings.step_size,
        num_inner_steps=settings.inner_steps,
        num_samples=settings.samples,
        num_projections=settings.projections,
        direction_fn=direction_fn,
    )


def solve_and_measure(
    key: Key,
    family: Family,
    functional: Functional,
    settings: Settings,
    num_evaluated: int,
    progress: bool,
) -> Flow:
    """Solve the flow, evaluate its energies anew and replay it at a few times."""
    solve_key, start_key, energy_key, replay_key = jax.random.split(key, 4)
    scheme = make_scheme(family, functional, settings, adam(settings))
    solution = solve(solve_key, scheme, settings.steps, progress=progress, record=both)
    states, infos = solution.history
    # A family starts at mu_0 for every key; only weights without influence there differ.
    start = jax.jit(family.init)(start_key)
    trajectory = jax.tree.map(
        lambda first, rest: np.concatenate([np.asarray(first)[None], rest]), start, states.params
    )
    energies = jax.device_get(
        _energies(energy_key, family, functional, trajectory, num_samples=num_evaluated)
    )
    energy_start, energy_end = (Estimate(*(part[at] for part in energies)) for at in (0, -1))
    times = np.concatenate([[0.0], states.time])
    shown = np.unique(np.linspace(0, len(times) - 1, _PLOTTED_TIMES).round().astype(int))
    kept = jax.tree.map(lambda leaf: leaf[shown], trajectory)
    clouds = _replay(replay_key, family, kept, num=_PLOTTED_POINTS)
    history = infos._replace(energy=energies.value[1:])
    return Flow(family, solution, energy_start, energy_end, history, clouds, times[shown])


@functools.partial(jax.jit, static_argnames=("num_samples",))
def _energies(key, family, functional, trajectory, num_samples):
    """Evaluate F along a trajectory of params from the same draws: an ``Estimate`` [t]."""
    return lax.map(
        lambda params: evaluate(key, family, functional, params, num_samples=num_samples),
        trajectory,
    )


def draw(
    flow: Flow, cloud_options: dict[str, Any], energy_options: dict[str, Any]
) -> dict[str, Any]:
    """Draw the clouds over the target, and the energies beside the exact ones."""
    start = float(flow.energy_start.value)
    return {
        "clouds": plots.clouds(flow.clouds.points, flow.times, **cloud_options),
        "energy": plots.progress(flow.history, start=start, **energy_options),
    }
