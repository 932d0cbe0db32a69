"""Many Fokker-Planck flows in one ensemble: ``python -m swjko fokker-planck --flows N``.

Each flow has its own problem and seed. Flow i equals the single run with ``--seed (seed + i)``.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from swjko import problems
from swjko.cli.flow import adam, make_scheme
from swjko.cli.fokker_planck import SYMMETRIC_KL_SAMPLES, check
from swjko.cli.memory import require_memory, require_memory_for_matrices
from swjko.cli.report import provenance, write_json
from swjko.cli.scores import gaussian_kl
from swjko.cli.settings import Settings
from swjko.cli.terminal import say_compiling
from swjko.cli.verdict import Verdict, judge
from swjko.diagnostics.evaluate import evaluate, symmetric_kl
from swjko.families.gaussians import gaussian
from swjko.flows import coupling
from swjko.functionals.entropies import kl_divergence
from swjko.running.batching import prepare
from swjko.running.ensemble import flow_mesh, stack_flows
from swjko.running.solution import Solution
from swjko.running.solve import solve
from swjko.schemes.base import Result
from swjko.types import Estimate, Key

# Number of flows with their own line on the terminal.
_SHOWN = 16


class ManyFlows(NamedTuple):
    """The result of many flows, the same on all processes.

    Attributes:
      config: All numbers that the run depends on.
      seeds: [flows].
      solution: Of all flows.
      results: [flows] result codes.
      energy_start: KL(mu | target) at the start, an ``Estimate`` of [flows].
      energy_end: KL(mu | target) at the end, an ``Estimate`` of [flows].
      references: [flows] KL of the exact SW-JKO iterates after as many steps.
      divergences: Symmetric KL to these iterates, an ``Estimate`` of [flows].
    """

    config: dict[str, Any]
    seeds: np.ndarray
    solution: Solution
    results: np.ndarray
    energy_start: Estimate
    energy_end: Estimate
    references: np.ndarray
    divergences: Estimate

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdict on each flow, as of a single run."""
        pairs = zip(*(np.asarray(part) for part in self.divergences), strict=True)
        return [judge([check(float(value), float(error))]) for value, error in pairs]


def fokker_planck(
    settings: Settings,
    *,
    num_flows: int | None,
    seed: int,
    dim: int = 2,
    progress: bool = True,
    checkpoint_dir: str | None = None,
) -> ManyFlows:
    """Solve many Fokker-Planck problems on all devices.

    Args:
      settings: Numbers of the run.
      num_flows: Number of flows; None takes one for each device.
      seed: Seed of the first problem and flow; the others have the seeds after it.
      dim: Dimension.
      progress: Whether to show a progress bar.
      checkpoint_dir: See ``solve``.
    """
    mesh = flow_mesh()
    seeds = seed + np.arange(mesh.size if num_flows is None else num_flows)
    require_memory_for_matrices(dim, settings.steps)
    targets = [problems.gaussian_target(int(one), dim) for one in seeds]
    family = gaussian(1) if dim == 1 else coupling(dim)
    optimizer = adam(settings)
    functionals = [kl_divergence(one.target.log_prob) for one in targets]
    schemes = [make_scheme(family, one, settings, optimizer) for one in functionals]
    scheme, axes = stack_flows(schemes)
    require_memory(family, settings)
    say_compiling(progress and jax.process_index() == 0)
    solve_keys, start_keys, energy_keys, exact_keys = _keys(seeds)
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
    _, placed, batching = prepare(solve_keys, scheme, axes, mesh, None)
    iterates = [_exact_iterate(one, settings) for one in targets]
    laws = jax.tree.map(lambda *leaves: np.stack(leaves), *(one.law for one in iterates))
    given = (start_keys, energy_keys, exact_keys, solution.state.params, laws)
    found = _measure(placed, *batching.shard(given), settings.samples, batching)
    start, end, divergences = batching.fetch(found)
    config = {
        **settings._asdict(),
        "seed": seed,
        "dim": dim,
        "flows": len(seeds),
        "devices": mesh.size,
        "processes": jax.process_count(),
    }
    codes = batching.fetch(solution.state.result)
    references = np.array([one.energy for one in iterates])
    return ManyFlows(config, seeds, solution, codes, start, end, references, divergences)


def _keys(seeds: np.ndarray) -> tuple[Key, Key, Key, Key]:
    """Return the keys with which a single run of each seed solves, starts and is evaluated."""

    def one(seed):
        flow_key, _, exact_key = jax.random.split(jax.random.key(seed), 3)
        solve_key, start_key, energy_key, _ = jax.random.split(flow_key, 4)
        return solve_key, start_key, energy_key, exact_key

    return jax.vmap(one)(seeds.astype(np.uint32))


@functools.partial(jax.jit, static_argnames=("num_samples", "batching"))
def _measure(scheme, start_keys, energy_keys, exact_keys, params, laws, num_samples, batching):
    """Return the energies of start and end, and the divergence to the exact iterate."""

    def one(scheme, start_key, energy_key, exact_key, params, law):
        family = scheme.family
        start, end = (
            evaluate(energy_key, family, scheme.functional, measure, num_samples=num_samples)
            for measure in (family.init(start_key), params)
        )
        to_exact = symmetric_kl(
            exact_key, family, params, law.log_prob, law.sample, num_samples=SYMMETRIC_KL_SAMPLES
        )
        return start, end, to_exact

    return batching.over_flows(one, scheme, start_keys, energy_keys, exact_keys, params, laws)


class _Iterate(NamedTuple):
    """The last exact iterate, and its KL to the target."""

    law: Any
    energy: float


def _exact_iterate(problem: problems.GaussianTarget, settings: Settings) -> _Iterate:
    iterates = problems.exact_sw_jko_flow(problem, settings.step_size, settings.steps)
    mean, cov = (np.asarray(part)[-1] for part in iterates)
    energy = gaussian_kl(mean, cov, problem.precision, problem.center)
    return _Iterate(problems.gaussian(mean, cov), energy)


def write(flows: ManyFlows, directory: Path, *, overwrite: bool = True) -> None:
    """Write ``report.json`` with the energies of each flow and their spread over the flows.

    Args:
      flows: The flows.
      directory: Where to write; created if it does not exist.
      overwrite: Whether to replace a file.
    """
    infos = flows.solution.history
    columns = (flows.seeds, flows.results, *flows.energy_start, *flows.energy_end, flows.references)
    rows = [
        {
            "seed": int(seed),
            "result": Result(int(code)).name,
            "energy_start": {"value": start, "standard_error": start_error},
            "energy_end": {"value": end, "standard_error": end_error},
            "reference": reference,
            "error": end - reference,
            "verdict": verdict._asdict(),
        }
        for seed, code, start, start_error, end, end_error, reference, verdict in zip(
            *(np.asarray(column).tolist() for column in columns), flows.verdicts, strict=True
        )
    ]
    content = {
        "problem": "fokker-planck",
        "config": flows.config,
        **provenance(flows.solution),
        "reference": "exact SW-JKO",
        "spread": {name: spread(values) for name, values in _columns(flows).items()},
        "flows": rows,
        "history": {"time": infos.time, "energy": infos.energy},
    }
    write_json(content, directory, overwrite=overwrite)


def spread(values: np.ndarray) -> dict[str, float]:
    """Return mean, standard deviation and extremes over the flows with a finite value."""
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


def summary(flows: ManyFlows) -> str:
    """Return a line for each of the first flows and the spread over all, for the terminal."""
    columns = _columns(flows)
    fits = [verdict.fit for verdict in flows.verdicts]
    lines = [f"{'seed':>10}  {'result':12}" + "".join(f"{name:>14}" for name in columns) + "  fit"]
    for index in range(min(len(flows.seeds), _SHOWN)):
        numbers = "".join(f"{values[index]:>14.5g}" for values in columns.values())
        result = Result(int(flows.results[index])).name
        lines.append(f"{flows.seeds[index]:>10}  {result:12}{numbers}  {fits[index]}")
    if len(flows.seeds) > _SHOWN:
        lines.append(f"{'...':>10}  and {len(flows.seeds) - _SHOWN} more")
    for label, name in (("mean", "mean"), ("deviation", "standard_deviation")):
        numbers = "".join(
            f"{spread(values).get(name, np.nan):>14.5g}" for values in columns.values()
        )
        lines.append(f"{label:>10}  {'of all':12}" + numbers)
    ok, timing = int(np.sum(flows.results == Result.OK)), flows.solution.timing
    where = f"{flows.config['devices']} devices of {flows.config['processes']} processes"
    seconds = f"{timing.compile_seconds:.1f} s to compile and {timing.run_seconds:.1f} s to run"
    lines.append(f"{ok} of {len(flows.seeds)} flows OK on {where}, {seconds}")
    lines.append(f"{fits.count('good')} of {len(fits)} fits good ({flows.verdicts[0].rule})")
    return "\n".join(lines)


def _columns(flows: ManyFlows) -> dict[str, np.ndarray]:
    end = np.asarray(flows.energy_end.value, np.float64)
    columns = {
        "energy start": flows.energy_start.value,
        "energy end": end,
        "reference": flows.references,
        "error": end - flows.references,
        "SymKL": flows.divergences.value,
    }
    return {name: np.asarray(values, np.float64) for name, values in columns.items()}
