"""Gradient flows of probability measures in sliced-Wasserstein space.

Neural families are in ``swjko.flows`` (which imports flax), exact Gaussian solutions in
``swjko.closed_form``, and runs of several processes start with ``swjko.distributed``.

``import swjko`` is quick and does not import JAX. Each name is imported when it is first used.
"""

# ruff: noqa: I001 - reading order, from the pieces to the whole
import importlib
from typing import TYPE_CHECKING, Any

from swjko._version import __version__

# For type checkers and editors, which read these imports; the table below is what runs.
if TYPE_CHECKING:
    from swjko.types import Cloud, DirectionFn, Estimate, Functional
    from swjko.distances.directions import (
        orthogonal_directions,
        quasi_directions,
        recommended_directions,
        sharded_directions,
        uniform_directions,
    )
    from swjko.distances.sliced import (
        sliced_wasserstein,
        sliced_wasserstein_pow,
        wasserstein_1d_pow,
    )
    from swjko.distances.blocks import sliced_wasserstein_bytes
    from swjko.distances.plans import (
        sliced_displacement,
        wasserstein_1d_plan,
        wasserstein_1d_potentials,
    )
    from swjko.distances.estimates import (
        MaxSliced,
        max_sliced_wasserstein,
        sliced_wasserstein_estimate,
    )
    from swjko.functionals.energies import interaction, internal_energy, potential
    from swjko.functionals.entropies import (
        kl_divergence,
        nearest_neighbour_negative_entropy,
        negative_entropy,
    )
    from swjko.functionals.targets import forward_kl, mmd_to_target, sw_to_target
    from swjko.functionals.sums import weighted_sum
    from swjko.families.base import Family, sample
    from swjko.families.distribution import FlowDistribution
    from swjko.families.particles import grid, particles
    from swjko.families.bases import student_t
    from swjko.families.gaussians import gaussian, gaussian_mixture, gaussian_moments
    from swjko.families.pushforward import pushforward
    from swjko.schemes.direct import direct_minimization
    from swjko.schemes.base import Info, Result, Scheme, State, both, infos, run
    from swjko.schemes.sw_jko import sw_jko
    from swjko.schemes.sw_bdf2 import sw_bdf2
    from swjko.schemes.adaptive import adaptive
    from swjko.schemes.correction import corrected
    from swjko.schemes.icnn_jko import icnn_jko
    from swjko.schemes.particles import langevin, sliced_flow
    from swjko.schemes.retry import guarded
    from swjko.running.ensemble import flow_mesh, run_many, shard_flows, stack_flows
    from swjko.checkpoints.store import CheckpointError
    from swjko.running.solution import FlowError, Solution
    from swjko.running.solve import solve
    from swjko.diagnostics.evaluate import evaluate, replay, symmetric_kl
    from swjko.diagnostics.certificates import certificate
    from swjko.diagnostics.verdicts import Certificate
    from swjko.diagnostics.importance import Importance, importance
    from swjko.running.stopping import until_certified, until_stationary
    from swjko import closed_form, distributed
    from swjko import autoencoder as autoencoder, datasets as datasets, flows as flows
    from swjko import images as images, plots as plots, problems as problems

_NAMES = {
    "types": ("Cloud", "DirectionFn", "Estimate", "Functional"),
    "distances.directions": (
        "orthogonal_directions",
        "quasi_directions",
        "recommended_directions",
        "sharded_directions",
        "uniform_directions",
    ),
    "distances.sliced": ("sliced_wasserstein", "sliced_wasserstein_pow", "wasserstein_1d_pow"),
    "distances.blocks": ("sliced_wasserstein_bytes",),
    "distances.plans": ("sliced_displacement", "wasserstein_1d_plan", "wasserstein_1d_potentials"),
    "distances.estimates": ("MaxSliced", "max_sliced_wasserstein", "sliced_wasserstein_estimate"),
    "functionals.energies": ("interaction", "internal_energy", "potential"),
    "functionals.entropies": (
        "kl_divergence",
        "nearest_neighbour_negative_entropy",
        "negative_entropy",
    ),
    "functionals.targets": ("forward_kl", "mmd_to_target", "sw_to_target"),
    "functionals.sums": ("weighted_sum",),
    "families.base": ("Family", "sample"),
    "families.distribution": ("FlowDistribution",),
    "families.particles": ("grid", "particles"),
    "families.bases": ("student_t",),
    "families.gaussians": ("gaussian", "gaussian_mixture", "gaussian_moments"),
    "families.pushforward": ("pushforward",),
    "schemes.direct": ("direct_minimization",),
    "schemes.base": ("Info", "Result", "Scheme", "State", "both", "infos", "run"),
    "schemes.sw_jko": ("sw_jko",),
    "schemes.sw_bdf2": ("sw_bdf2",),
    "schemes.adaptive": ("adaptive",),
    "schemes.correction": ("corrected",),
    "schemes.icnn_jko": ("icnn_jko",),
    "schemes.particles": ("langevin", "sliced_flow"),
    "schemes.retry": ("guarded",),
    "running.ensemble": ("flow_mesh", "run_many", "shard_flows", "stack_flows"),
    "checkpoints.store": ("CheckpointError",),
    "running.solution": ("FlowError", "Solution"),
    "running.solve": ("solve",),
    "diagnostics.evaluate": ("evaluate", "replay", "symmetric_kl"),
    "diagnostics.certificates": ("certificate",),
    "diagnostics.verdicts": ("Certificate",),
    "diagnostics.importance": ("Importance", "importance"),
    "running.stopping": ("until_certified", "until_stationary"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}
# Public modules and packages, as attributes of ``swjko`` without an import of their own.
_MODULES = frozenset(
    (
        *("autoencoder", "checkpoints", "closed_form", "data", "datasets", "diagnostics"),
        *("distances", "distributed", "families", "flows", "functionals", "images", "linalg"),
        *("networks", "plots", "problems", "running", "schemes", "types", "validation"),
    )
)

__all__ = [
    "Certificate",
    "CheckpointError",
    "Cloud",
    "DirectionFn",
    "Estimate",
    "Family",
    "FlowDistribution",
    "FlowError",
    "Functional",
    "Importance",
    "Info",
    "MaxSliced",
    "Result",
    "Scheme",
    "Solution",
    "State",
    "__version__",
    "adaptive",
    "both",
    "certificate",
    "closed_form",
    "corrected",
    "direct_minimization",
    "distributed",
    "evaluate",
    "flow_mesh",
    "forward_kl",
    "gaussian",
    "gaussian_mixture",
    "gaussian_moments",
    "grid",
    "guarded",
    "icnn_jko",
    "importance",
    "infos",
    "interaction",
    "internal_energy",
    "kl_divergence",
    "langevin",
    "max_sliced_wasserstein",
    "mmd_to_target",
    "nearest_neighbour_negative_entropy",
    "negative_entropy",
    "orthogonal_directions",
    "particles",
    "potential",
    "pushforward",
    "quasi_directions",
    "recommended_directions",
    "replay",
    "run",
    "run_many",
    "sample",
    "shard_flows",
    "sharded_directions",
    "sliced_displacement",
    "sliced_flow",
    "sliced_wasserstein",
    "sliced_wasserstein_bytes",
    "sliced_wasserstein_estimate",
    "sliced_wasserstein_pow",
    "solve",
    "stack_flows",
    "student_t",
    "sw_bdf2",
    "sw_jko",
    "sw_to_target",
    "symmetric_kl",
    "uniform_directions",
    "until_certified",
    "until_stationary",
    "wasserstein_1d_plan",
    "wasserstein_1d_potentials",
    "wasserstein_1d_pow",
    "weighted_sum",
]


def __getattr__(name: str) -> Any:
    """Import a public name or module when it is first used."""
    if name in _HOMES:
        value = getattr(importlib.import_module(f"swjko.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"swjko.{name}")
    else:
        raise AttributeError(f"module 'swjko' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
