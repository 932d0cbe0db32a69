"""Runs under ``jax_debug_nans`` and ``jax_disable_jit`` end as the compiled ones do."""

import contextlib
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import swjko
from swjko import flows

KEY = jax.random.key(0)
POINTS = jnp.linspace(-1.0, 1.0, 16).reshape(8, 2)
SIZES = {"step_size": 0.1, "num_inner_steps": 2, "num_samples": 8}
# Adam would enlarge the rounding of gradients that vanish.
OPTIMIZER = optax.sgd(1e-3)
MODES = {
    "debug_nans": {"jax_debug_nans": True},
    "disable_jit": {"jax_disable_jit": True},
    "both": {"jax_debug_nans": True, "jax_disable_jit": True},
}


def kl():
    return swjko.kl_divergence(lambda x: -jnp.sum((x - 1.0) ** 2) / 2)


def sw_jko(family, functional=None, **options):
    sizes = SIZES | {"num_projections": 4} | options
    return swjko.sw_jko(family, functional or kl(), OPTIMIZER, **sizes)


SCHEMES = {
    "gaussian": lambda: sw_jko(swjko.gaussian(2), debias=True),
    "tolerance": lambda: sw_jko(swjko.gaussian(2), inner_tolerance=0.5, num_inner_steps=12),
    "mixture": lambda: sw_jko(swjko.gaussian_mixture(2, 2)),
    "particles": lambda: sw_jko(
        swjko.particles(POINTS), swjko.interaction(lambda x: jnp.sqrt(jnp.sum(x**2)))
    ),
    "grid": lambda: sw_jko(swjko.grid(POINTS, 1.0)),
    "coupling": lambda: sw_jko(flows.coupling(2, num_layers=2, width=4)),
    "spline": lambda: sw_jko(flows.spline(2, num_layers=1, width=4, num_bins=2)),
    "cnf": lambda: sw_jko(flows.cnf(2, width=4, num_layers=1, num_integration_steps=1)),
    "icnn": lambda: sw_jko(flows.icnn(2, width=4, rank=1)),
    "mlp": lambda: sw_jko(flows.mlp(2, 2, width=4), swjko.sw_to_target(POINTS, 3)),
    "bdf2": lambda: swjko.sw_bdf2(swjko.gaussian(2), kl(), OPTIMIZER, num_projections=4, **SIZES),
    "adaptive": lambda: swjko.adaptive(
        sw_jko(swjko.gaussian(2)), min_step_size=0.01, max_step_size=1.0
    ),
    "guarded": lambda: swjko.guarded(sw_jko(swjko.gaussian(2))),
    "direct": lambda: swjko.direct_minimization(
        swjko.gaussian(2), kl(), OPTIMIZER, num_inner_steps=2, num_samples=8
    ),
    "drifting": lambda: swjko.drifting(
        flows.mlp(2, 2, width=4),
        swjko.sw_to_target(POINTS, 3),
        optax.sgd(0.1),
        step_size=0.2,
        num_drift_steps=2,
        num_inner_steps=2,
        num_samples=8,
        batch_size=4,
    ),
    "langevin": lambda: swjko.langevin(POINTS, lambda x: -jnp.sum(x**2) / 2, step_size=0.1),
    "sliced_flow": lambda: swjko.sliced_flow(
        POINTS, POINTS + 1.0, step_size=0.1, num_projections=4
    ),
}


@contextlib.contextmanager
def configured(settings):
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name in settings:
            jax.config.update(name, False)


def outcome(name):
    solution = swjko.solve(KEY, SCHEMES[name](), 2, progress=False)
    return solution.state, solution.history


@functools.cache
def compiled_outcome(name):
    return outcome(name)


def cases():
    """Most schemes under both settings; a few under each alone, the others in the slow tests."""
    quick, costly = ("gaussian", "langevin"), ("icnn", "spline", "cnf", "mixture", "tolerance")
    for name in SCHEMES:
        for mode in MODES:
            is_quick = name in quick or (mode == "both" and name not in costly)
            slow = () if is_quick else (pytest.mark.slow,)
            yield pytest.param(name, mode, marks=slow, id=f"{name}-{mode}")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), list(cases()))
def test_solve_ends_as_the_compiled_run(name, mode):
    expected = compiled_outcome(name)
    with configured(MODES[mode]):
        found = outcome(name)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)


def many():
    keys = jax.random.split(KEY, 2)
    return swjko.run_many(keys, SCHEMES["gaussian"](), 2)


def certified():
    scheme = SCHEMES["gaussian"]()
    states, _ = swjko.run(KEY, scheme, scheme.init(KEY), 2)[1]
    return swjko.certificate(
        KEY, scheme, states.params, num_samples=8, num_repeats=2, start=scheme.init(KEY).params
    )


def distances():
    directions = swjko.uniform_directions(KEY, 4, 2)
    weights = jnp.arange(8.0) / 28.0

    def distance(x, y_weights):
        return swjko.sliced_wasserstein(x, POINTS[:5] + 1.0, directions) + (
            swjko.sliced_wasserstein_pow(POINTS + 0.5, x, directions, p=1.5, y_weights=y_weights)
        )

    return (
        jax.value_and_grad(distance, argnums=(0, 1))(POINTS, weights),
        swjko.sliced_displacement(POINTS, POINTS[:5], directions),
        swjko.wasserstein_1d_plan(POINTS[:, 0], POINTS[:5, 1]),
        swjko.wasserstein_1d_potentials(POINTS[:, 0], POINTS[:5, 1]),
        swjko.sliced_wasserstein_estimate(KEY, POINTS, POINTS[:5], 4),
        swjko.max_sliced_wasserstein(KEY, POINTS, POINTS[:5] + 1.0, num_iterations=2, num_starts=2),
    )


def weighed():
    distribution = swjko.FlowDistribution(swjko.gaussian(2), swjko.gaussian(2).init(KEY))
    found = swjko.importance(KEY, distribution, lambda x: -jnp.sum((x - 1.0) ** 2) / 2, 32)
    return found, found.resample(KEY, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [pytest.param(mode, marks=[pytest.mark.slow] if mode != "both" else []) for mode in MODES],
)
@pytest.mark.parametrize("function", [many, certified, distances, weighed])
def test_other_functions_return_what_the_compiled_ones_do(function, mode):
    expected = function()
    with configured(MODES[mode]):
        found = function()
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_nan_gradient_of_an_unknown_distance_is_still_one():
    directions = swjko.uniform_directions(KEY, 4, 2)
    gradient = jax.jit(jax.grad(swjko.sliced_wasserstein_pow))(
        POINTS.at[0, 0].set(jnp.nan), POINTS, directions
    )
    assert np.all(np.isnan(gradient))
