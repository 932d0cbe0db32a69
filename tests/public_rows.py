"""Small calls of every public name, for tests of what holds for all of them.

Rows call ``key(number)``, whose kind ``keys_of_kind`` chooses. ``test_checkers`` demands that each
public name is called here or excused there.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

import swjko
from swjko import closed_form, flows

POINTS = np.linspace(-1.0, 1.0, 16).reshape(8, 2)
SIZES = {"step_size": 0.1, "num_inner_steps": 2, "num_samples": 8}
UNIFORM = np.full(8, 1 / 8)
KINDS = {
    "typed": jax.random.key,
    "rbg": lambda number: jax.random.key(number, impl="rbg"),
    "old": jax.random.PRNGKey,
}
_kind = ["typed"]


@contextlib.contextmanager
def keys_of_kind(kind):
    _kind.append(kind)
    try:
        yield
    finally:
        _kind.pop()


def key(number):
    return KINDS[_kind[-1]](number)


def points():
    return jnp.asarray(POINTS)


def weights():
    return jnp.asarray(UNIFORM)


def line():
    return points()[:, 0]


def sphere():
    three = jnp.concatenate([points(), jnp.ones((8, 1))], axis=1)
    return three / jnp.linalg.norm(three, axis=1, keepdims=True)


def directions():
    return swjko.uniform_directions(key(5), 4, 2)


def log_prob(x):
    return -jnp.sum((x - 1.0) ** 2) / 2


def kernel(x):
    return jnp.exp(-jnp.sum(x**2) / 2)


def sw_jko(family=None, functional=None, optimizer=None, **options):
    family = swjko.gaussian(2) if family is None else family
    functional = swjko.kl_divergence(log_prob) if functional is None else functional
    optimizer = optax.sgd(1e-3) if optimizer is None else optimizer
    return swjko.sw_jko(family, functional, optimizer, **(SIZES | {"num_projections": 4} | options))


def direct(family, functional):
    return swjko.direct_minimization(
        family, functional, optax.sgd(1e-3), num_inner_steps=2, num_samples=8
    )


def moved(functional=None, drift=None, optimizer=None, temperature=0.0):
    return swjko.particle_flow(
        *(points(), functional, optimizer),
        drift=drift,
        step_size=0.1,
        num_inner_steps=2,
        temperature=temperature,
    )


def weighted_target():
    return swjko.sw_to_target(points() + 1.0, 3, weights=weights(), batch_size=4)


def conditional():
    return flows.conditional(2, points(), kind="coupling", num_layers=2, width=4)


def distribution():
    family = swjko.gaussian(2)
    return swjko.FlowDistribution(family, family.init(key(8)))


SCHEMES = {
    "sw_jko with a tolerance": lambda: sw_jko(inner_tolerance=0.5, num_inner_steps=12),
    "sw_jko with independent latents": lambda: sw_jko(common_latents=False),
    "sw_jko with a line search": lambda: sw_jko(optimizer=optax.lbfgs()),
    "mixture": lambda: sw_jko(swjko.gaussian_mixture(2, 2, learned_weights=True)),
    "particles": lambda: sw_jko(
        swjko.particles(points(), learned_weights=True), weighted_target(), debias=False
    ),
    "grid": lambda: sw_jko(
        swjko.grid(points()[:, :1], 0.3), swjko.internal_energy(lambda u: u**2), num_projections=1
    ),
    "cells": lambda: sw_jko(
        swjko.cells(jnp.linspace(-1.0, 1.0, 9)), swjko.negative_entropy(), num_projections=1
    ),
    "student_t": lambda: sw_jko(swjko.student_t(2)),
    "pushforward": lambda: sw_jko(
        swjko.pushforward(lambda key: jnp.ones(2), lambda params, z: params[None] * z, dim=2),
        swjko.interaction(kernel),
    ),
    "coupling": lambda: sw_jko(
        flows.coupling(2, num_layers=2, width=4), swjko.forward_kl(points(), batch_size=4)
    ),
    "spline": lambda: sw_jko(flows.spline(2, num_layers=1, width=4, num_bins=2)),
    "conditional": lambda: direct(
        conditional(), swjko.forward_kl(jnp.concatenate([points()] * 2, axis=1), batch_size=4)
    ),
    "sw_bdf2": lambda: swjko.sw_bdf2(
        *(swjko.gaussian(2), swjko.kl_divergence(log_prob), optax.sgd(1e-3)),
        num_projections=4,
        **SIZES,
    ),
    "adaptive": lambda: swjko.adaptive(sw_jko(), min_step_size=0.01, max_step_size=1.0),
    "guarded": lambda: swjko.guarded(sw_jko()),
    "annealed": lambda: swjko.annealed(sw_jko(), log_prob, distribution(), num_draws=32),
    "corrected": lambda: swjko.corrected(
        *(sw_jko(), log_prob, optax.sgd(1e-3)),
        num_inner_steps=2,
        num_draws=32,
        batch_size=8,
        step_size=0.1,
        proposal=distribution(),
    ),
    "corrected in closed form": lambda: swjko.corrected(
        *(
            sw_jko(swjko.gaussian_mixture(2, 2, learned_weights=True)),
            log_prob,
            swjko.expectation_maximization(),
        ),
        num_inner_steps=2,
        num_draws=32,
    ),
    "drifting": lambda: swjko.drifting(
        *(flows.mlp(2, 2, width=4), swjko.sw_to_target(points(), 3, batch_size=4), optax.sgd(0.1)),
        num_drift_steps=2,
        batch_size=4,
        **SIZES,
    ),
    "icnn_jko": lambda: swjko.icnn_jko(
        *(2, swjko.potential(jnp.sum), optax.sgd(1e-3)),
        **(SIZES | {"num_points": 8, "max_steps": 2, "width": 4, "rank": 1}),
    ),
    "direct": lambda: direct(swjko.gaussian(2), swjko.kl_divergence(log_prob)),
    "langevin": lambda: swjko.langevin(points(), log_prob, step_size=0.1),
    "sliced_flow": lambda: swjko.sliced_flow(
        points(), points() + 1.0, step_size=0.1, num_projections=4, temperature=0.1
    ),
    "particle_flow": lambda: moved(weighted_target(), temperature=0.1),
    "particle_flow with an optimizer": lambda: moved(
        swjko.ksd_to_target(log_prob), optimizer=optax.sgd(0.1, momentum=0.9)
    ),
    "svgd": lambda: moved(drift=swjko.svgd(log_prob)),
    "kernel_density_drift": lambda: moved(drift=swjko.kernel_density_drift(log_prob)),
    "mmd_drift": lambda: moved(drift=swjko.mmd_drift(points() + 1.0, noise=0.5)),
    "radon_wasserstein": lambda: moved(
        drift=swjko.radon_wasserstein(log_prob, 2, num_bins=16, regularized=True)
    ),
}


def all_directions():
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((1,), ("directions",), auto, devices=jax.devices()[:1])
    sharded = swjko.sharded_directions(swjko.uniform_directions, mesh, "directions")
    makers = [
        (swjko.uniform_directions, 2),
        (swjko.orthogonal_directions, 2),
        (swjko.quasi_directions, 3),
        (swjko.quasi_directions, 5),
        (swjko.recommended_directions, 2),
        (sharded, 2),
        (swjko.convolutional_directions(2, 3), 6),
    ]
    drawn = [make(key(number), 4, dim) for number, (make, dim) in enumerate(makers)]
    return drawn, swjko.uniform_planes(key(9), 3, 3)


def one_dimensional():
    u, v = line(), points()[:5, 1]
    return (
        swjko.wasserstein_1d_pow(u, v, p=1.0, u_weights=weights()),
        swjko.wasserstein_1d_plan(u, v),
        swjko.wasserstein_1d_potentials(u, v),
        swjko.wasserstein_circle_pow(u, v),
    )


def quantiles():
    with jax.ensure_compile_time_eval():  # it is made on the host
        table = swjko.sliced_quantiles(points() + 1.0, directions(), 4)
    functional = swjko.sw_to_target(table, 2)
    return (
        swjko.sliced_wasserstein_to_quantiles_pow(points(), table),
        functional(key(1), swjko.Cloud(points())),
    )


def slices_of_other_kinds():
    x, y, planes = sphere(), sphere()[:5], swjko.uniform_planes(key(1), 3, 3)
    stereographic = swjko.stereographic_projection
    weighed = swjko.energy_based_weights(points(), points()[:5] + 1.0, directions())
    polynomial = swjko.polynomial_projection(2, 3)
    cubic = swjko.uniform_directions(key(2), 3, 4)
    return (
        weighed,
        swjko.spherical_sliced_wasserstein_pow(x, y, planes),
        swjko.sliced_wasserstein_pow(x, y, directions(), projection=stereographic),
        swjko.sliced_wasserstein_pow(points(), points()[:5], cubic, projection=polynomial),
    )


def unbalanced():
    arguments = points(), points()[:5] + 1.0, directions()
    return (
        swjko.sliced_unbalanced_ot(*arguments, rho=1.0),
        swjko.unbalanced_sliced_ot(*arguments, rho=(1.0, 2.0)),
    )


def cloud():
    return swjko.Cloud(points(), weights(), jnp.zeros(8))


def fitted():
    family, states = swjko.gaussian(2), sw_jko()
    trajectory = swjko.run(key(1), states, states.init(key(2)), 2, record=swjko.both)[1][0]
    run = swjko.run(key(3), states, states.init(key(4)), 2, record=swjko.infos)[1]
    return (
        swjko.replay(key(5), family, trajectory.params, 4),
        swjko.sample(family, family.init(key(6)), key(7), 4),
        swjko.gaussian_moments(family.init(key(8))),
        run,
    )


def posterior():
    target = swjko.raveled(
        swjko.bounded(lambda at: log_prob(at["a"]) + log_prob(at["b"]), {"a": None}),
        {"a": 0.5, "b": jnp.zeros(2)},
    )
    start = swjko.laplace(target.log_prob, target.start, num_steps=3)
    return start.sample(key(1), 4), target.whitened(start).constrain(jnp.zeros((2, 3)))


def rejected():
    once = swjko.rejection(key(1), distribution(), log_prob, num_draws=32)
    twice = swjko.rejection(key(2), once, log_prob, num_draws=32)
    return twice.sample(key(3), 4), twice.log_prob(points())


def given():
    law = conditional()
    one = law.given(law.init(key(1)), jnp.ones(2))
    return one.sample(key(2), 4), one.log_prob(points())


def matched():
    law = swjko.slice_matching(key(1), points(), num_steps=2, num_knots=3, held_out=points() / 2)
    return law.sample(key(2), 4), law.log_prob(points())


def certified():
    scheme = sw_jko()
    start = scheme.init(key(1))
    states, _ = swjko.run(key(2), scheme, start, 2)[1]
    sizes = {"num_samples": 8, "num_repeats": 2}
    with jax.ensure_compile_time_eval():
        rule = swjko.until_certified(key(3), scheme, **sizes)
    return (
        swjko.certificate(key(4), scheme, states, start=start, **sizes),
        rule.judge(scheme, key(5), states.step[-1], states.params),
    )


FUNCTIONS = {
    "directions": all_directions,
    "distance": lambda: jax.value_and_grad(swjko.sliced_wasserstein)(
        points(), points()[:5] + 1.0, directions(), p=1.5, x_weights=weights()
    ),
    "displacement": lambda: swjko.sliced_displacement(points(), points()[:5], directions()),
    "plans": lambda: (
        swjko.best_sliced_plan(points(), points()[::-1], directions()),
        swjko.expected_sliced_plan(points(), points()[::-1], directions()),
    ),
    "one-dimensional": one_dimensional,
    "quantiles": quantiles,
    "slices of other kinds": slices_of_other_kinds,
    "unbalanced": unbalanced,
    "estimate": lambda: swjko.sliced_wasserstein_estimate(key(0), points(), points()[:5], 4),
    "max_sliced": lambda: swjko.max_sliced_wasserstein(
        key(0), points(), points()[:5], num_iterations=2, num_starts=2
    ),
    "mmd": lambda: swjko.mmd_to_target(points(), kernel, weights=weights())(key(0), cloud()),
    "ksd": lambda: swjko.ksd_to_target(log_prob, bandwidth=1.0)(key(0), cloud()),
    "sum": lambda: swjko.weighted_sum((0.5, swjko.negative_entropy()), (1.0, weighted_target()))(
        key(0), cloud()
    ),
    "neighbours": lambda: swjko.nearest_neighbour_negative_entropy()(key(0), swjko.Cloud(points())),
    "forward_kl": lambda: swjko.forward_kl(points(), weights(), batch_size=4)(
        key(0), cloud(), distribution().log_prob
    ),
    "run_many": lambda: swjko.run_many(jax.random.split(key(0), 2), sw_jko(), 2),
    "runs": fitted,
    "certificate": certified,
    "evaluate": lambda: swjko.evaluate(
        *(key(0), swjko.gaussian(2), swjko.kl_divergence(log_prob), distribution().params),
        num_samples=8,
        num_repeats=2,
    ),
    "symmetric_kl": lambda: swjko.symmetric_kl(
        *(key(0), swjko.gaussian(2), distribution().params, log_prob, points()), num_samples=8
    ),
    "importance": lambda: swjko.importance(
        key(0), distribution(), log_prob, 32, wide=distribution(), reference=points()
    ).resample(key(1), 4),
    "posterior": posterior,
    "rejection": rejected,
    "conditional": given,
    "slice_matching": matched,
    "closed form": lambda: closed_form.gaussian_sw_jko_step(
        jnp.zeros(2), jnp.eye(2), jnp.eye(2), jnp.ones(2), 0.1, directions()
    ),
    "bound data": lambda: swjko.potential(Partial(lambda data, x: jnp.sum(data * x), jnp.ones(2)))(
        key(0), cloud()
    ),
}
