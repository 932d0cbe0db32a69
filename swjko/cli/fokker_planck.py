"""The command-line problem ``fokker-planck``: a flow to a random Gaussian with a known answer."""

import math
from typing import Any

import jax
import numpy as np

from swjko import flows, problems
from swjko.cli import scores
from swjko.cli.flow import as_npz, draw, parameters_npz, sample_cloud, solve_and_measure
from swjko.cli.memory import require_memory_for_matrices
from swjko.cli.report import Outcome
from swjko.cli.settings import Settings
from swjko.cli.verdict import Check, judge
from swjko.diagnostics.evaluate import symmetric_kl
from swjko.families.base import Family
from swjko.families.gaussians import gaussian
from swjko.functionals.entropies import kl_divergence
from swjko.types import Key, Params

SYMMETRIC_KL_SAMPLES = 10_000
# Largest symmetric KL divergence to the exact iterate that counts as a good fit, in nats.
_LARGEST_DIVERGENCE, _DRAWS = 0.05, 4096
_symmetric_kl = jax.jit(symmetric_kl, static_argnames=("num_samples",))


def fokker_planck(settings: Settings, *, seed: int, progress: bool = True, dim: int = 2) -> Outcome:
    """Flow from N(0, I) to a random Gaussian, and compare with the exact SW-JKO iterates.

    Args:
      settings: Numbers of the run.
      seed: Seed of the problem and of the flow.
      progress: Whether to show a progress bar.
      dim: Dimension.
    """
    require_memory_for_matrices(dim, settings.steps)
    problem = problems.gaussian_target(seed, dim)
    target = problem.target
    # A coupling needs two coordinates; in one dimension Gaussians hold all exact iterates.
    family = gaussian(1) if dim == 1 else flows.coupling(dim)
    flow_key, stationary_key, exact_key = jax.random.split(jax.random.key(seed), 3)
    functional = kl_divergence(target.log_prob)
    flow = solve_and_measure(flow_key, family, functional, settings, settings.samples, progress)
    iterates = problems.exact_sw_jko_flow(problem, settings.step_size, settings.steps)
    means, covs = map(np.asarray, iterates)
    pairs = zip(means, covs, strict=True)
    energies = np.array([scores.gaussian_kl(*pair, *problem[:2]) for pair in pairs])
    params = flow.solution.state.params
    laws = {
        "SymKL against the stationary law": (stationary_key, target),
        "SymKL against the exact SW-JKO step": (exact_key, problems.gaussian(means[-1], covs[-1])),
    }
    figures = _divergences(family, params, laws)
    figures["SymKL of the exact SW-JKO step against the stationary law"] = (
        scores.gaussian_symmetric_kl(problem, means[-1], covs[-1])
    )
    plane = problems.gaussian(problem.center[:2], np.linalg.inv(problem.precision)[:2, :2])
    drawn = draw(
        flow,
        flow.clouds.points,
        {"log_prob": plane.log_prob, "target_name": "stationary law"},
        {"exact": energies, "exact_name": "exact SW-JKO", "unit": "nats"},
    )
    fit = check(*map(float, figures["SymKL against the exact SW-JKO step"]))
    return flow.outcome(
        "fokker-planck",
        settings,
        {"seed": seed, "dim": dim},
        reference=float(energies[-1]),
        reference_name="exact SW-JKO",
        figures=figures,
        plots=drawn,
        files=_files(family, params, seed),
        verdict=judge([fit], flow.advice),
    )


def _files(family: Family, params: Params, seed: int) -> dict[str, bytes]:
    """Return draws of the end of the flow and its parameters."""
    cloud = sample_cloud(family, params, jax.random.fold_in(jax.random.key(seed), 3), num=_DRAWS)
    names = np.array([f"x{at + 1}" for at in range(family.dim)])
    return {
        "draws.npz": as_npz(points=cloud.points, names=names, log_density=cloud.log_density),
        "parameters.npz": parameters_npz(params),
    }


def _divergences(
    family: Family, params: Params, laws: dict[str, tuple[Key, problems.Target]]
) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name, (key, law) in laws.items():
        figures[name] = estimate = _symmetric_kl(
            key, family, params, law.log_prob, law.sample, num_samples=SYMMETRIC_KL_SAMPLES
        )
        # An estimate below its noise may be negative, so the standard error bounds it from below.
        figures[f"log10 {name}, or of its standard error where larger"] = math.log10(max(estimate))
    return figures


def check(divergence: float, standard_error: float) -> Check:
    """Return whether a symmetric KL divergence to the exact step is small.

    Args:
      divergence: The divergence, in nats.
      standard_error: Its standard error.
    """
    return Check(
        bool(divergence <= _LARGEST_DIVERGENCE + 2 * standard_error),
        f"SymKL against the exact SW-JKO step <= {_LARGEST_DIVERGENCE} nats",
        f"SymKL against the exact SW-JKO step is {float(divergence):.2g} nats",
    )
