"""Run a checked command line. Importing this module imports JAX and all problems."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from swjko import distributed
from swjko.checkpoints.store import CheckpointError
from swjko.cli import fokker_planck, generate, many, match, posterior, report, sheets
from swjko.cli.job import JOINING, Job
from swjko.cli.options import GENERATE, PROBLEMS, Problem
from swjko.cli.terminal import RunError, UsageError, first_line, tell
from swjko.running.solution import FlowError

_SOLVE = {
    "fokker-planck": fokker_planck.fokker_planck,
    "posterior": posterior.posterior,
    "match": match.match,
    "generate": generate.generate,
}


def execute(job: Job) -> int:
    """Run a job and write its results.

    Args:
      job: The job.

    Returns:
      The exit code: 0 on success, 1 if one of many flows failed.

    Raises:
      UsageError: If the run cannot start.
      RunError: If it failed.
    """
    with _errors_of_the_command_line():
        if job.many and job.options.distributed:
            _join(job)
        _require_device()
        if job.many:
            return _run_many(job)
        if job.names == ["generate"]:
            _generate(job)
        else:
            _run_all(job)
        return 0


@contextlib.contextmanager
def _errors_of_the_command_line() -> Iterator[None]:
    try:
        yield
    except (CheckpointError, distributed.DistributedError) as error:
        raise UsageError(first_line(error)) from error
    except (FlowError, jax.errors.JaxRuntimeError) as error:
        raise RunError(first_line(error)) from error


def _require_device() -> None:
    try:
        jax.devices()
    except RuntimeError as error:
        platforms = os.environ.get("JAX_PLATFORMS")
        cure = f"Change JAX_PLATFORMS, which is {platforms!r}, or unset it." if platforms else ""
        raise UsageError(f"JAX cannot use its devices: {first_line(error)}. {cure}") from error


def _run_all(job: Job) -> None:
    start = time.perf_counter()
    outcomes = []
    for name, directory in zip(job.names, job.paths, strict=True):
        outcome = _solve(name, PROBLEMS[name], job)
        report.write(outcome, directory, overwrite=job.options.overwrite)
        outcomes.append(outcome)
        tell(report.summary(outcome, directory), end="\n\n")
    tell(report.table(outcomes))
    if any(outcome.verdict.fit != "good" for outcome in outcomes):
        tell("\nThe reasons of every fit that is not good are listed above, and in report.json.")
    tell(f"\n{time.perf_counter() - start:.0f} seconds in total")


def _generate(job: Job) -> None:
    (out,) = job.paths
    outcome, sheet, _ = _solve("generate", GENERATE, job)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheets.save_sheet(sheet, out, overwrite=job.options.overwrite)
    report.write(outcome, out.parent, overwrite=job.options.overwrite)
    tell(report.summary(outcome, out))


def _join(job: Job) -> None:
    given = {name: getattr(job.options, name) for name in JOINING}
    try:
        distributed.initialize(
            **{name: value for name, value in given.items() if value is not None}
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _run_many(job: Job) -> int:
    """Run many flows. All processes return the same exit code; only process 0 writes."""
    (directory,) = job.paths
    problem = PROBLEMS["fokker-planck"]._replace(options=("dim", "checkpoint_dir"))
    flows = _solve("many", problem, job, num_flows=job.options.flows)
    if jax.process_index() == 0:
        many.write(flows, directory, overwrite=job.options.overwrite)
        tell(many.summary(flows))
        tell(f"written to {directory}")
    return int(np.any(flows.results))


def _solve(name: str, problem: Problem, job: Job, **more: Any) -> Any:
    """Call the problem's function with its settings and its options."""
    given = {name: value for name, value in vars(job.options).items() if value is not None}
    fields = problem.defaults._fields
    settings = {name: value for name, value in given.items() if name in fields}
    if job.loaded is not None:
        more["loaded"] = job.loaded
    solve = many.fokker_planck if name == "many" else _SOLVE[name]
    return solve(
        problem.defaults._replace(**settings),
        seed=job.options.seed,
        progress=not job.options.no_progress,
        **{name: value for name, value in given.items() if name in problem.options},
        **more,
    )
