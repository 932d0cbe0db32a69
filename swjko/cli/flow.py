"""What all problems of the command line share: settings, the solved flow, files and plots."""

import functools
import io
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import lax

from swjko import plots
from swjko.cli.memory import require_memory
from swjko.cli.report import Outcome
from swjko.cli.settings import Settings
from swjko.cli.terminal import say, say_compiling
from swjko.diagnostics.evaluate import evaluate, replay
from swjko.distances.directions import uniform_directions
from swjko.families.base import Family, sample
from swjko.running.solution import Solution
from swjko.running.solve import solve
from swjko.schemes.base import Scheme, both
from swjko.schemes.sw_jko import sw_jko
from swjko.types import Cloud, DirectionFn, Estimate, Functional, Key

_PLOTTED_POINTS = 1000
# How many clouds are compared and with how many points each, and the most that are drawn. Clouds
# look alike if they are closer than this part of the largest distance from the start.
_COMPARED_CLOUDS, _COMPARED_POINTS, _PLOTTED_CLOUDS, _ALIKE = 100, 100, 5, 0.2
_replay = jax.jit(replay, static_argnames=("num",))
sample_cloud = jax.jit(sample, static_argnames=("num",))


class Flow(NamedTuple):
    """A solved flow.

    Attributes:
      family: Family of the flow.
      solution: From ``solve``; its history has the states and infos.
      energies: F at mu_0 and after each step [t], evaluated anew, on more points.
      clouds: Points at the plotted times.
      times: The plotted times.
    """

    family: Family
    solution: Solution
    energies: Estimate
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
            self._energy(0),
            self._energy(-1),
            **parts,
        )

    def _energy(self, at: int) -> Estimate:
        return Estimate(*(part[at] for part in self.energies))

    @property
    def advice(self) -> str:
        """What to try if the fit is poor, from whether the energy still fell at the end."""
        energies = self.energies.value
        last = max(1, len(energies) // 5)
        fall = energies[-1 - last] - energies[-1]
        noise = 2 * self.energies.standard_error[-1]
        if fall > max(noise, 0.01 * (energies[0] - energies[-1])):
            return f"the energy still fell by {fall:.2g} in the last {last} steps: use more --steps"
        return "the energy no longer falls: use more --inner-steps or --samples"


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
    require_memory(family, settings)
    say_compiling(progress)
    scheme = make_scheme(family, functional, settings, adam(settings))
    solution = solve(solve_key, scheme, settings.steps, progress=progress, record=both)
    say("evaluating the energies of all steps on fresh draws", progress)
    states, _ = solution.history
    # A family starts at mu_0 for every key; only weights without influence there differ.
    start = jax.jit(family.init)(start_key)
    trajectory = jax.tree.map(
        lambda first, rest: np.concatenate([np.asarray(first)[None], rest]), start, states.params
    )
    energies = jax.device_get(
        _energies(energy_key, family, functional, trajectory, num_samples=num_evaluated)
    )
    times = np.concatenate([[0.0], states.time])

    def cut(steps: np.ndarray) -> Any:
        return jax.tree.map(lambda leaf: leaf[steps], trajectory)

    steps = np.unique(np.rint(np.geomspace(1, len(times), _COMPARED_CLOUDS)).astype(int) - 1)
    compared = _replay(replay_key, family, cut(steps), num=_COMPARED_POINTS)
    shown = steps[unlike_clouds(np.asarray(compared.points))]
    clouds = _replay(replay_key, family, cut(shown), num=_PLOTTED_POINTS)
    return Flow(family, solution, energies, clouds, times[shown])


@functools.partial(jax.jit, static_argnames=("num_samples",))
def _energies(key, family, functional, trajectory, num_samples):
    """Evaluate F along a trajectory of params from the same draws: an ``Estimate`` [t]."""
    return lax.map(
        lambda params: evaluate(key, family, functional, params, num_samples=num_samples),
        trajectory,
    )


def unlike_clouds(points: np.ndarray) -> np.ndarray:
    """Return the numbers, in order, of a few clouds that look different.

    They are the first, the last, and then always the one that is farthest from those chosen.

    Args:
      points: Clouds [t n d]; each point moves from one to the next.
    """

    def distances(at: int) -> np.ndarray:
        return np.sqrt(np.mean(np.sum((points - points[at]) ** 2, axis=-1), axis=-1))

    chosen = {0, len(points) - 1}
    nearest = np.min([distances(at) for at in chosen], axis=0)
    least = _ALIKE * np.max(distances(0))
    while len(chosen) < _PLOTTED_CLOUDS and np.max(nearest) > least:
        chosen.add(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, distances(int(np.argmax(nearest))))
    return np.sort(list(chosen))


def draw(
    flow: Flow,
    points: Any,
    cloud_options: dict[str, Any],
    energy_options: dict[str, Any],
    minimum: float = 0.0,
) -> dict[str, Any]:
    """Draw clouds [t n d] over the target, and energies less ``minimum`` beside exact ones.

    The energy axis is logarithmic if the first of these energies is positive.
    """
    value, error = flow.energies
    start = Estimate(value[0] - minimum, error[0])
    return {
        "clouds": plots.clouds(points, flow.times, **cloud_options),
        "energy": plots.progress(
            flow.solution.history[1],
            estimate=Estimate(value[1:] - minimum, error[1:]),
            start=start,
            log=bool(start.value > 0),
            **energy_options,
        ),
    }


def as_npz(**arrays: Any) -> bytes:
    """Return the bytes of a .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def parameters_npz(params: Any, **arrays: Any) -> bytes:
    """Return a .npz file with the leaves of params, named by their order, and more arrays."""
    leaves = {f"leaf_{at:04d}": leaf for at, leaf in enumerate(jax.tree.leaves(params))}
    return as_npz(**leaves, **arrays)
