"""Many Fokker-Planck flows in one ensemble, a problem and a seed of its own for each: on one device, on all, or on those of many processes.

What ``python -m swjko fokker-planck --flows N`` runs. Flow i is the one that ``--seed (seed + i)`` runs alone.
"""

import functools
import json
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from swjko import flows, problems
from swjko.cli import problems as experiments
from swjko.cli import report
from swjko.cli.problems import Settings
from swjko.diagnostics.evaluate import evaluate
from swjko.families.base import Family, gaussian
from swjko.functionals.energies import kl_divergence
from swjko.running.batching import laid_out, on_host
from swjko.running.ensemble import flow_mesh, stack_flows
from swjko.running.solve import Solution, solve
from swjko.schemes.base import Result, Scheme
from swjko.schemes.sw_jko import sw_jko
from swjko.types import Estimate, Key

# Flows that have a line of their own on the terminal.
_SHOWN = 16


class Sweep(NamedTuple):
    """Flows that have ended, the same on all processes.

    Attributes:
      config: every number that the run depends on.
      seeds: [flows].
      solution: of all flows.
      results: [flows] codes.
      energy_start, energy_end: of KL(mu | target), ``Estimate`` of [flows].
      references: [flows] KL of the exact SW-JKO iterates after as many steps.
    """

    config: dict[str, Any]
    seeds: np.ndarray
    solution: Solution
    results: np.ndarray
    energy_start: Estimate
    energy_end: Estimate
    references: np.ndarray


def fokker_planck(
    settings: Settings,
    *,
    num_flows: int | None,
    seed: int,
    dim: int = 2,
    progress: bool = True,
    checkpoint_dir: str | None = None,
) -> Sweep:
    """The flows over all devices; None for ``num_flows`` takes one for each device."""
    mesh = flow_mesh()
    seeds = seed + np.arange(mesh.size if num_flows is None else num_flows)
    targets = [problems.gaussian_target(int(one), dim) for one in seeds]
    family = gaussian(1) if dim == 1 else flows.coupling(dim)
    optimizer = optax.adam(
        optax.cosine_decay_schedule(settings.learning_rate, settings.inner_steps)
    )
    scheme, axes = stack_flows([_scheme(family, one, optimizer, settings) for one in targets])
    solve_keys, start_keys, energy_keys = _keys(seeds)
    solution = solve(
        solve_keys,
        scheme,
        settings.steps,
        axes=axes,
        mesh=mesh,
        checkpoint_dir=checkpoint_dir,
        progress=progress,
        throw=False,
    )
    with warnings.catch_warnings():  # of padding, as ``solve`` has said
        warnings.simplefilter("ignore")
        _, placed, layout = laid_out(solve_keys, scheme, axes, mesh, None)
    start, end = _energies(
        placed,
        *layout.placed((start_keys, energy_keys, solution.state.params)),
        settings.samples,
        layout,
    )
    start, end = (
        Estimate(*(leaf[: len(seeds)] for leaf in on_host(energy))) for energy in (start, end)
    )
    references = np.array([_exact_energy(one, settings) for one in targets])
    config = {
        **settings._asdict(),
        "seed": seed,
        "dim": dim,
        "flows": len(seeds),
        "devices": mesh.size,
        "processes": jax.process_count(),
    }
    return Sweep(config, seeds, solution, on_host(solution.state.result), start, end, references)


def _scheme(
    family: Family,
    problem: problems.GaussianTarget,
    optimizer: optax.GradientTransformation,
    settings: Settings,
) -> Scheme:
    return sw_jko(
        family,
        kl_divergence(problem.target.log_prob),
        optimizer,
        step_size=settings.step_size,
        num_inner_steps=settings.inner_steps,
        num_samples=settings.samples,
        num_projections=settings.projections,
    )


def _keys(seeds: np.ndarray) -> tuple[Key, Key, Key]:
    """Of each flow, those with which ``experiments.fokker_planck`` solves, starts and evaluates."""

    def one(seed):
        flow_key, _, _ = jax.random.split(jax.random.key(seed), 3)
        solve_key, start_key, energy_key, _ = jax.random.split(flow_key, 4)
        return solve_key, start_key, energy_key

    return jax.vmap(one)(seeds.astype(np.uint32))


@functools.partial(jax.jit, static_argnames=("num_samples", "layout"))
def _energies(scheme, start_keys, energy_keys, params, num_samples, layout):
    def both_ends(scheme, start_key, energy_key, params):
        ends = (scheme.family.init(start_key), params)
        return tuple(
            evaluate(energy_key, scheme.family, scheme.functional, end, num_samples=num_samples)
            for end in ends
        )

    return layout.over_flows(both_ends, scheme, start_keys, energy_keys, params)


def _exact_energy(problem: problems.GaussianTarget, settings: Settings) -> float:
    means, covs = problems.exact_sw_jko_flow(problem, settings.step_size, settings.steps)
    return experiments._gaussian_kl(means[-1], covs[-1], problem.precision, problem.center)


def write(sweep: Sweep, directory: Path) -> None:
    """``report.json``, by a rename, so that one that exists is whole."""
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / "report.json.partial"
    partial.write_text(
        json.dumps(as_dict(sweep), indent=2, allow_nan=False) + "\n", encoding="utf-8"
    )
    os.replace(partial, directory / "report.json")


def as_dict(sweep: Sweep) -> dict[str, Any]:
    """Energies of each flow and their spread over flows, as numbers, strings, lists and dictionaries; None where one is not finite."""
    timing, infos = sweep.solution.timing, sweep.solution.history
    columns = [
        np.asarray(values).tolist()
        for values in (*sweep.energy_start, *sweep.energy_end, sweep.references)
    ]
    rows = [
        {
            "seed": int(seed),
            "result": Result(int(code)).name,
            "energy_start": {"value": start, "standard_error": start_error},
            "energy_end": {"value": end, "standard_error": end_error},
            "reference": reference,
            "error": end - reference,
        }
        for seed, code, start, start_error, end, end_error, reference in zip(
            sweep.seeds, sweep.results, *columns, strict=True
        )
    ]
    content = {
        "problem": "fokker-planck",
        "config": sweep.config,
        "versions": report.versions(),
        "device": jax.devices()[0].device_kind,
        "seconds": {"compile": timing.compile_seconds, "run": timing.run_seconds},
        "reference": "exact SW-JKO",
        "spread": {name: spread(values) for name, values in _columns(sweep).items()},
        "flows": rows,
        "history": {
            "time": np.asarray(infos.time).tolist(),
            "energy": np.asarray(infos.energy).tolist(),
        },
    }
    return _finite(content)


def spread(values: np.ndarray) -> dict[str, float]:
    """Mean, standard deviation and extremes over the flows that have a finite value."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return {}
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {
        "mean": float(np.mean(values)),
        "standard_deviation": deviation,
        "least": float(values.min()),
        "largest": float(values.max()),
    }


def summary(sweep: Sweep) -> str:
    """A line for each of the first flows, and the spread over all, for the terminal."""
    columns = _columns(sweep)
    lines = [f"{'seed':>10}  {'result':12}" + "".join(f"{name:>14}" for name in columns)]
    for index in range(min(len(sweep.seeds), _SHOWN)):
        numbers = "".join(f"{values[index]:>14.5g}" for values in columns.values())
        lines.append(
            f"{sweep.seeds[index]:>10}  {Result(int(sweep.results[index])).name:12}" + numbers
        )
    if len(sweep.seeds) > _SHOWN:
        lines.append(f"{'...':>10}  and {len(sweep.seeds) - _SHOWN} more")
    for label, name in (("mean", "mean"), ("deviation", "standard_deviation")):
        numbers = "".join(
            f"{spread(values).get(name, np.nan):>14.5g}" for values in columns.values()
        )
        lines.append(f"{label:>10}  {'of all':12}" + numbers)
    ok, timing = int(np.sum(sweep.results == Result.OK)), sweep.solution.timing
    where = f"{sweep.config['devices']} devices of {sweep.config['processes']} processes"
    seconds = f"{timing.compile_seconds:.1f} s to compile and {timing.run_seconds:.1f} s to run"
    return "\n".join([*lines, f"{ok} of {len(sweep.seeds)} flows OK on {where}, {seconds}"])


def _columns(sweep: Sweep) -> dict[str, np.ndarray]:
    end = np.asarray(sweep.energy_end.value, np.float64)
    columns = {
        "energy start": sweep.energy_start.value,
        "energy end": end,
        "reference": sweep.references,
        "error": end - sweep.references,
    }
    return {name: np.asarray(values, np.float64) for name, values in columns.items()}


def _finite(value: Any) -> Any:
    """As JSON holds it."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
