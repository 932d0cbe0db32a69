"""Gradient flows of probability measures in sliced-Wasserstein space.

Neural families are in ``swjko.flows`` (which imports flax), exact Gaussian solutions in
``swjko.closed_form``, and runs of several processes start with ``swjko.distributed``.

``import swjko`` is quick and does not import JAX. Each name is imported when it is first used.
"""

# ruff: noqa: I001 - reading order, from the pieces to the whole
import importlib
from typing import TYPE_CHECKING, Any

from swjko._names import MODULES, NAMES, __version__

# For type checkers and editors, which read these imports; the table of ``_names`` is what runs.
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
    from swjko.distances.native import native_kernels
    from swjko.distances.projections import (
        convolutional_directions,
        energy_based_weights,
        polynomial_projection,
        stereographic_projection,
    )
    from swjko.distances.circle import (
        spherical_sliced_wasserstein_pow,
        uniform_planes,
        wasserstein_circle_pow,
    )
    from swjko.distances.plans import (
        sliced_displacement,
        wasserstein_1d_plan,
        wasserstein_1d_potentials,
    )
    from swjko.distances.quantiles import (
        QuantileTable,
        sliced_quantiles,
        sliced_wasserstein_to_quantiles_pow,
    )
    from swjko.distances.sliced_plans import best_sliced_plan, expected_sliced_plan
    from swjko.distances.unbalanced import sliced_unbalanced_ot, unbalanced_sliced_ot
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
    from swjko.functionals.targets import forward_kl, sw_to_target
    from swjko.functionals.mmd import mmd_to_target
    from swjko.functionals.stein import ksd_to_target
    from swjko.functionals.sums import weighted_sum
    from swjko.families.base import Family, sample
    from swjko.families.distribution import FlowDistribution
    from swjko.families.cells import cells
    from swjko.families.particles import grid, particles
    from swjko.families.bases import student_t
    from swjko.families.rejection import rejection
    from swjko.families.expectation_maximization import expectation_maximization
    from swjko.families.gaussians import gaussian, gaussian_mixture, gaussian_moments
    from swjko.families.pushforward import pushforward
    from swjko.families.slice_matching import slice_matching
    from swjko.schemes.direct import direct_minimization
    from swjko.schemes.base import Info, Result, Scheme, State, both, infos, run
    from swjko.schemes.sw_jko import sw_jko
    from swjko.schemes.sw_bdf2 import sw_bdf2
    from swjko.schemes.adaptive import adaptive
    from swjko.schemes.annealing import annealed
    from swjko.schemes.correction import corrected
    from swjko.schemes.drifting import drifting
    from swjko.schemes.icnn_jko import icnn_jko
    from swjko.schemes.particles import langevin, sliced_flow
    from swjko.schemes.particle_flow import particle_flow
    from swjko.schemes.drifts import kernel_density_drift, mmd_drift, svgd
    from swjko.schemes.radon import radon_wasserstein
    from swjko.schemes.retry import guarded
    from swjko.running.ensemble import flow_mesh, run_many, shard_flows, stack_flows
    from swjko.checkpoints.store import CheckpointError
    from swjko.checkpoints.reading import SavedRun, load
    from swjko.running.solution import FlowError, Solution
    from swjko.running.solve import solve
    from swjko.diagnostics.evaluate import evaluate, replay, symmetric_kl
    from swjko.diagnostics.certificates import certificate
    from swjko.diagnostics.verdicts import Certificate
    from swjko.diagnostics.importance import Importance, importance
    from swjko.interop.raveled import Raveled, raveled
    from swjko.interop.bounded import bounded
    from swjko.interop.laplace import laplace
    from swjko.running.stopping import until_certified, until_stationary
    from swjko import closed_form, distributed
    from swjko import autoencoder as autoencoder, datasets as datasets, flows as flows
    from swjko import images as images, interop as interop, plots as plots, problems as problems

_HOMES = {name: module for module, names in NAMES.items() for name in names}

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
    "QuantileTable",
    "Raveled",
    "Result",
    "SavedRun",
    "Scheme",
    "Solution",
    "State",
    "__version__",
    "adaptive",
    "annealed",
    "best_sliced_plan",
    "both",
    "bounded",
    "cells",
    "certificate",
    "closed_form",
    "convolutional_directions",
    "corrected",
    "direct_minimization",
    "distributed",
    "drifting",
    "energy_based_weights",
    "evaluate",
    "expectation_maximization",
    "expected_sliced_plan",
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
    "kernel_density_drift",
    "kl_divergence",
    "ksd_to_target",
    "langevin",
    "laplace",
    "load",
    "max_sliced_wasserstein",
    "mmd_drift",
    "mmd_to_target",
    "native_kernels",
    "nearest_neighbour_negative_entropy",
    "negative_entropy",
    "orthogonal_directions",
    "particle_flow",
    "particles",
    "polynomial_projection",
    "potential",
    "pushforward",
    "quasi_directions",
    "radon_wasserstein",
    "raveled",
    "recommended_directions",
    "rejection",
    "replay",
    "run",
    "run_many",
    "sample",
    "shard_flows",
    "sharded_directions",
    "slice_matching",
    "sliced_displacement",
    "sliced_flow",
    "sliced_quantiles",
    "sliced_unbalanced_ot",
    "sliced_wasserstein",
    "sliced_wasserstein_bytes",
    "sliced_wasserstein_estimate",
    "sliced_wasserstein_pow",
    "sliced_wasserstein_to_quantiles_pow",
    "solve",
    "spherical_sliced_wasserstein_pow",
    "stack_flows",
    "stereographic_projection",
    "student_t",
    "svgd",
    "sw_bdf2",
    "sw_jko",
    "sw_to_target",
    "symmetric_kl",
    "unbalanced_sliced_ot",
    "uniform_directions",
    "uniform_planes",
    "until_certified",
    "until_stationary",
    "wasserstein_1d_plan",
    "wasserstein_1d_potentials",
    "wasserstein_1d_pow",
    "wasserstein_circle_pow",
    "weighted_sum",
]


def __getattr__(name: str) -> Any:
    """Import a public name or module when it is first used."""
    if name in _HOMES:
        value = getattr(importlib.import_module(f"swjko.{_HOMES[name]}"), name)
    elif name in MODULES:
        value = importlib.import_module(f"swjko.{name}")
    else:
        raise AttributeError(f"module 'swjko' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *MODULES})
