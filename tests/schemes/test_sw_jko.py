"""The SW-JKO scheme: the exact Gaussian step, its estimators, transformations and failures."""

import dataclasses
import functools

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    at_index,
    axes_of,
    exact_directions,
    gaussian_scheme,
    jitted_run,
    jitted_step,
    quadratic_log_prob,
    tiny_scheme,
)
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import swjko
from swjko import closed_form, flows
from swjko.schemes import inner_solve
from swjko.schemes.sw_jko import SWJKO

jitted_sample = jax.jit(swjko.sample, static_argnums=3)
objective_and_gradient = jax.jit(SWJKO.objective_and_gradient)


def params_of(state, info):
    del info
    return state.params


@pytest.mark.slow
def test_isotropic_flow_within_four_standard_errors_of_the_exact_one():
    scheme = gaussian_scheme(swjko.gaussian(2, init_mean=2.0, init_scale=2.0))

    def flow(key):
        state, _ = swjko.run(key, scheme, scheme.init(key), 10, record=swjko.infos)
        mean, cov = swjko.gaussian_moments(state.params)
        return jnp.mean(mean), jnp.sqrt(jnp.trace(cov) / 2)

    means, scales = jax.jit(jax.vmap(flow))(jax.random.split(jax.random.key(5), 20))
    for values, exact in ((means, 0.3230112), (scales, 1.0460475)):
        error = jnp.std(values, ddof=1) / jnp.sqrt(20.0)
        assert abs(float(jnp.mean(values)) - exact) < 4 * float(error)
        assert float(error) < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 5])
def test_anisotropic_flow_within_one_percent_of_the_exact_steps(dim):
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    precision = (basis * np.linspace(0.4, 2.5, dim)) @ basis.T
    precision = (precision + precision.T) / 2
    center = rng.normal(size=dim)
    scheme = gaussian_scheme(
        swjko.gaussian(dim),
        precision=precision,
        center=center,
        inner=250,
        rate=3e-2,
        samples=2048,
        projections=64,
        direction_fn=swjko.orthogonal_directions,
    )
    start = scheme.init(jax.random.key(0))
    _, params = jitted_run(jax.random.key(0), scheme, start, num_steps=10, record=params_of)
    means, covs = jax.vmap(swjko.gaussian_moments)(params)
    with jax.enable_x64(True):
        exact = closed_form.Gaussian(jnp.zeros(dim), jnp.eye(dim))
        step = jax.jit(
            functools.partial(closed_form.gaussian_sw_jko_step, directions=exact_directions(dim))
        )
        for mean, cov in zip(np.asarray(means), np.asarray(covs), strict=True):
            exact = step(*exact, jnp.asarray(precision), jnp.asarray(center), 0.1)
            assert np.linalg.norm(mean - exact.mean) < 0.01 * np.linalg.norm(exact.mean)
            assert np.linalg.norm(cov - exact.cov) < 0.01 * np.linalg.norm(exact.cov)


@pytest.mark.slow
def test_first_step_starts_at_mu_0_and_common_latents_give_distance_zero(key):
    scheme = gaussian_scheme(flows.coupling(2, num_layers=2, width=8, init_mean=2.0))
    state = scheme.init(key)
    (_, (_, proximity)), _ = objective_and_gradient(scheme, key, state.params, state.params)
    # The compiler may round the two pushes apart; the rest is the square of their rounding.
    assert float(proximity) < 1e-12
    independent = dataclasses.replace(scheme, common_latents=False, debias=False)
    (_, (_, proximity)), _ = objective_and_gradient(independent, key, state.params, state.params)
    assert float(proximity) > 1e-3
    np.testing.assert_allclose(
        np.mean(jitted_sample(scheme.family, state.params, key, 4000).points), 2.0, atol=0.1
    )


@pytest.mark.slow
def test_path_gradient_vanishes_at_the_target_and_the_plain_one_does_not(key):
    scheme = gaussian_scheme(swjko.gaussian(2))
    params = scheme.init(key).params

    def norm(path_gradient):
        variant = dataclasses.replace(scheme, path_gradient=path_gradient)
        return float(optax.tree.norm(objective_and_gradient(variant, key, params, params)[1]))

    assert norm(True) < 1e-5
    assert norm(False) > 1e-2


def test_only_entropies_get_path_gradients():
    """int rho^2 of N(0, S) is det(4 pi S)^{-1/2}; a path gradient would give half its slope."""
    functional = swjko.internal_energy(lambda r: r**2)
    scheme = helpers.sw_jko(functional=functional, num_samples=50_000, num_projections=2)
    params = scheme.init(jax.random.key(0)).params
    _, gradient = objective_and_gradient(scheme, jax.random.key(1), params, params)
    # The standard deviation of rho at a point over its mean is 1 / sqrt(3).
    error = 4 / np.sqrt(3 * 50_000)
    np.testing.assert_allclose(gradient["log_diagonal"], -1 / (4 * np.pi), rtol=error)


@pytest.mark.slow
def test_both_gradient_estimators_have_the_same_mean():
    """Away from the optimum they differ on each draw and agree on average."""
    scheme = gaussian_scheme(swjko.gaussian(2, init_scale=1.5), center=[1.0, 0.0])
    params = scheme.init(jax.random.key(0)).params
    keys = jax.random.split(jax.random.key(1), 400)

    def gradients(path_gradient):
        variant = dataclasses.replace(scheme, path_gradient=path_gradient)

        def gradient(key):
            return ravel_pytree(variant.objective_and_gradient(key, params, params)[1])[0]

        return jax.jit(jax.vmap(gradient))(keys)

    difference = np.asarray(gradients(True) - gradients(False))
    error = difference.std(axis=0, ddof=1) / np.sqrt(len(keys))
    assert np.all(np.abs(difference.mean(axis=0)) <= 4 * error + 1e-7)
    assert np.max(np.abs(difference)) > 1e-2


def test_grid_on_the_line_follows_the_exact_steps(key):
    """In one dimension SW is W and a grid holds any density, so the iterates are Gaussian."""
    cell, mean, scale = 0.05, jnp.array([1.0]), 0.6
    points = jnp.arange(-5.0, 5.0 + cell / 2, cell)[:, None]
    start = jax.nn.softmax(-0.5 * ((points[:, 0] - mean) / scale) ** 2)
    scheme = helpers.sw_jko(
        swjko.grid(points, cell, weights=start),
        swjko.kl_divergence(lambda x: -0.5 * jnp.sum(x**2)),
        optax.adam(optax.cosine_decay_schedule(5e-2, 400)),
        step_size=0.2,
        num_inner_steps=400,
        num_samples=len(points),
        num_projections=1,
    )
    _, states = jitted_run(key, scheme, scheme.init(key), num_steps=4, record=params_of)
    for logits in states:
        mean, scale = closed_form.isotropic_sw_jko_step(mean, scale, jnp.zeros(1), 0.2)
        weights = np.asarray(jax.nn.softmax(logits), np.float64)
        x = np.asarray(points[:, 0], np.float64)
        np.testing.assert_allclose(weights @ x, mean[0], atol=0.01)
        np.testing.assert_allclose(np.sqrt(weights @ x**2 - (weights @ x) ** 2), scale, atol=0.01)


def test_energy_never_rises_along_a_flow(key):
    scheme = gaussian_scheme(swjko.gaussian(2, init_mean=2.0, init_scale=2.0))
    _, info = jitted_run(key, scheme, scheme.init(key), num_steps=8, record=swjko.infos)
    assert np.all(np.diff(info.energy) < 0.02)
    np.testing.assert_allclose(info.objective, info.energy + info.proximity, rtol=1e-5)
    np.testing.assert_allclose(info.time, 0.1 * np.arange(1, 9), rtol=1e-5)
    assert float(info.energy[-1]) < -1.0


# Each functional with one family, and each family with one functional of every kind.
SLOW = ("cnf", "icnn", "spline")
PAIRS = [("gaussian", functional) for functional in helpers.FUNCTIONALS] + [
    pytest.param(
        name,
        functional,
        marks=pytest.mark.slow if name in SLOW and functional != "kl_divergence" else (),
    )
    for name in helpers.FAMILIES
    for functional in ("kl_divergence", "sw_to_target")
    if name != "gaussian"
]


@pytest.mark.slow_except_first
@pytest.mark.parametrize(("name", "functional"), PAIRS)
def test_every_family_and_every_functional_make_a_scheme(name, functional, key):
    needs_density = swjko.functionals.needs_density(helpers.FUNCTIONALS[functional]())
    if needs_density and not helpers.FAMILIES[name]().has_density:
        with pytest.raises(ValueError, match=r"needs the density.*swjko\.gaussian"):
            tiny_scheme(name, functional)
        return
    scheme = tiny_scheme(name, functional)
    start = scheme.init(key)
    state, info = jitted_step(key, scheme, start)
    assert int(info.result) == swjko.Result.OK
    assert int(state.step) == 1
    moved = jax.tree.map(lambda new, old: jnp.max(jnp.abs(new - old)), state.params, start.params)
    assert max(map(float, jax.tree.leaves(moved))) > 1e-4


@pytest.mark.slow
def test_ring_of_particles_reaches_its_energy(key):
    ring = swjko.interaction(lambda x: jnp.sum(x**2) ** 2 / 4 - jnp.sum(x**2) / 2)
    scheme = helpers.sw_jko(
        swjko.particles(0.25 * jax.random.normal(key, (100, 2))),
        ring,
        optax.adam(optax.cosine_decay_schedule(3e-2, 60)),
        step_size=0.5,
        num_inner_steps=60,
        num_samples=100,
        num_projections=24,
    )
    state, _ = jitted_run(key, scheme, scheme.init(key), num_steps=15, record=swjko.infos)
    # As a measure of n atoms the energy counts the pairs of a point with itself, zero here.
    energy = float(ring(key, swjko.Cloud(state.params))) * 99 / 100
    np.testing.assert_allclose(energy, -1 / 12, rtol=0.01)
    np.testing.assert_allclose(jnp.linalg.norm(state.params, axis=1), 1 / np.sqrt(3), rtol=0.1)


@pytest.mark.slow
def test_sweep_over_step_sizes_by_vmap_equals_single_runs(key):
    with jax.enable_x64(True):
        scheme = tiny_scheme(step_size=jnp.asarray(0.1, jnp.float64))
        sizes = jnp.asarray([0.05, 0.1, 0.4])
        swept = dataclasses.replace(scheme, step_size=sizes)

        def end(scheme):
            return swjko.run(key, scheme, scheme.init(key), 3, record=swjko.infos)[0].params

        many = jax.jit(jax.vmap(end, in_axes=(axes_of(scheme, step_size=0),)))(swept)
        for index, size in enumerate(sizes):
            one = jax.jit(end)(dataclasses.replace(scheme, step_size=size))
            chex.assert_trees_all_close(at_index(many, index), one, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_vmapped_flows_equal_single_ones_and_jit_equals_eager(key):
    scheme = tiny_scheme("gaussian", "kl_divergence", num_inner_steps=2)
    keys = jax.random.split(key, 3)

    def step(key):
        return scheme.step(key, scheme.init(key))[0].params

    many = jax.jit(jax.vmap(step))(keys)
    for index, single in enumerate((step, jax.jit(step), jax.jit(step))):
        one = single(keys[index])
        chex.assert_trees_all_close(at_index(many, index), one, rtol=1e-5, atol=1e-5)


def test_one_trace_over_ten_calls_and_new_data_do_not_retrace(key):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(key, scheme, state):
        return scheme.step(key, state)

    scheme = gaussian_scheme(swjko.gaussian(2), inner=3, samples=8, projections=3)
    state = scheme.init(key)
    for index in range(10):
        moved = jax.tree.map(lambda leaf, shift=index: leaf + 0.01 * shift, scheme.functional)
        other = dataclasses.replace(scheme, functional=moved)
        state, _ = step(jax.random.fold_in(key, index), other, state)


def test_no_data_are_compiled_in(key):
    target = jnp.asarray(np.random.default_rng(0).normal(size=(500, 2)))
    scheme = helpers.sw_jko(functional=swjko.sw_to_target(target, 5))
    sizes = helpers.constant_bytes(jitted_step, key, scheme, scheme.init(key))
    assert max(sizes, default=0) <= 1024


@pytest.mark.slow
def test_a_run_in_two_parts_is_the_same_run(key):
    scheme = tiny_scheme()
    whole, _ = jitted_run(key, scheme, scheme.init(key), num_steps=6, record=swjko.infos)
    part, _ = jitted_run(key, scheme, scheme.init(key), num_steps=3, record=swjko.infos)
    resumed, _ = jitted_run(key, scheme, part, num_steps=3, record=swjko.infos)
    chex.assert_trees_all_equal(whole, resumed)


@pytest.mark.slow
def test_gradient_through_a_short_flow_against_finite_differences(key):
    with jax.enable_x64(True):
        functional = swjko.kl_divergence(lambda x: -jnp.sum((x - 1.0) ** 2) / 2)
        options = {"step_size": 0.5, "num_samples": 16, "num_projections": 4}
        scheme = helpers.sw_jko(functional=functional, optimizer=optax.sgd(0.05), **options)
        start = scheme.init(key)

        def end(mean):
            state = start._replace(params=start.params | {"mean": mean})
            state, _ = swjko.run(key, scheme, state, 2, record=swjko.infos)
            return jnp.sum(state.params["mean"] ** 2)

        at = np.array([0.3, -0.2])
        gradient = jax.jit(jax.grad(end))(jnp.asarray(at))
        expected = helpers.central_difference(jax.jit(end), at)
        np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.slow
def test_a_non_finite_flow_stops_and_leaves_the_others_alone(key):
    def broken_past(limit, x):
        return jnp.sum(x**2) / 2 + jnp.where(jnp.isnan(limit), jnp.nan, 0.0)

    def flow(limit, key):
        scheme = helpers.sw_jko(functional=swjko.potential(Partial(broken_past, limit)))
        return swjko.run(key, scheme, scheme.init(key), 3, record=swjko.infos)[0]

    keys = jax.random.split(key, 3)
    clean = jax.jit(jax.vmap(flow))(jnp.zeros(3), keys)
    hurt = jax.jit(jax.vmap(flow))(jnp.array([0.0, jnp.nan, 0.0]), keys)
    assert list(np.asarray(hurt.result)) == [0, swjko.Result.NON_FINITE, 0]
    assert list(np.asarray(hurt.step)) == [3, 0, 3]
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(hurt.params))
    for survivor in (0, 2):
        chex.assert_trees_all_equal(at_index(clean, survivor), at_index(hurt, survivor))


def test_a_diverging_optimizer_is_reported_with_the_last_good_state(key):
    scheme = helpers.sw_jko(optimizer=optax.sgd(30.0), num_inner_steps=10)
    start = scheme.init(key)
    state, info = jitted_step(key, scheme, start)
    assert int(info.result) in (swjko.Result.DIVERGED, swjko.Result.NON_FINITE)
    chex.assert_trees_all_equal(state.params, start.params)
    assert float(state.time) == 0.0


@pytest.mark.slow
def test_the_line_search_of_lbfgs_follows_the_gradient_of_the_update(key):
    """The gradient of its value_fn is the path gradient, for a functional with an entropy."""

    def update(gradient, state, params, *, value_fn, grad, **unused):
        del unused
        apart = jax.tree.map(jnp.subtract, jax.grad(value_fn)(params), grad)
        # The parameters become the difference, and stay there: a step reports it.
        return jax.tree.map(jnp.subtract, apart, params), state

    spy = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    scheme = tiny_scheme("coupling", "kl_divergence", num_inner_steps=1)
    scheme = dataclasses.replace(scheme, optimizer=spy)
    start = scheme.init(key)

    def solved(params, key):
        return scheme.objective(key, params, start.params)

    apart = inner_solve.minimize(solved, spy, start.params, jax.random.split(key, 1))
    assert float(optax.tree.norm(apart)) < 1e-5
    lbfgs = dataclasses.replace(scheme, optimizer=optax.lbfgs(), num_inner_steps=3)
    _, info = jitted_step(key, lbfgs, start)
    assert int(info.result) == swjko.Result.OK
    assert float(info.objective) < float(lbfgs.objective(key, start.params, start.params)[0])


@pytest.mark.slow
def test_coupling_flow_on_a_gaussian_target(key):
    precision = np.array([[1.4, 0.5], [0.5, 0.8]])
    center = np.array([0.7, -0.4])
    scheme = gaussian_scheme(
        flows.coupling(2, num_layers=4, width=32),
        precision=precision,
        center=center,
        inner=80,
        rate=3e-3,
        samples=256,
        step_size=0.4,
    )
    state, _ = jitted_run(key, scheme, scheme.init(key), num_steps=15, record=swjko.infos)
    factor = np.linalg.cholesky(np.linalg.inv(precision))

    def target_sample(key, num):
        return (
            jnp.asarray(center)[None, :] + jax.random.normal(key, (num, 2)) @ jnp.asarray(factor).T
        )

    target_log_prob = Partial(quadratic_log_prob, jnp.asarray(precision), jnp.asarray(center))
    divergence = swjko.symmetric_kl(
        key, scheme.family, state.params, target_log_prob, target_sample, num_samples=10_000
    )
    assert np.log10(float(divergence.value)) < -2.5


@pytest.mark.slow
def test_the_jackknife_takes_most_of_the_bias_of_samples():
    # A small step from N(0, I) rotates the points: the coupling costs, the measures hardly move.
    family = swjko.gaussian(3)
    anchor = family.init(jax.random.key(0))
    params = anchor | {
        "lower": jnp.array([[0.0, 0.0, 0.0], [0.2, 0.0, 0.0], [-0.1, 0.15, 0.0]]),
        "mean": jnp.array([0.1, 0.0, 0.0]),
    }
    directions = swjko.orthogonal_directions(jax.random.key(1), 30_000, 3)
    exact = closed_form.gaussian_sw2_pow(
        *swjko.gaussian_moments(anchor), *swjko.gaussian_moments(params), directions
    )

    def bias(**options):
        scheme = helpers.sw_jko(
            family,
            step_size=0.5,
            num_samples=256,
            num_projections=30,
            direction_fn=swjko.orthogonal_directions,
            **options,
        )
        keys = jax.random.split(jax.random.key(2), 500)
        found = jax.lax.map(lambda key: scheme.objective(key, params, anchor)[1], keys)
        values = np.asarray(found[1])
        return values.mean() - float(exact), values.std() / np.sqrt(len(values))

    (plain, plain_error), (debiased, error) = bias(debias=False), bias()
    assert plain > 10 * plain_error
    assert abs(debiased) < 0.4 * plain + 2 * error


def test_the_distance_of_particles_is_not_corrected():
    points = jax.random.normal(jax.random.key(0), (24, 2))
    moved = points + 0.1 * jax.random.normal(jax.random.key(1), (24, 2))

    def proximity(debias):
        scheme = helpers.sw_jko(swjko.particles(points), num_samples=24, debias=debias)
        return objective_and_gradient(scheme, jax.random.key(2), moved, points)[0][1][1]

    assert float(proximity(True)) == float(proximity(False))


def counting():
    """An optimizer whose every update lowers every parameter by one."""

    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda leaf: -jnp.ones_like(leaf), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def test_updates_stop_at_the_inner_tolerance_and_each_flow_at_its_own(key):
    """The gradient of the sum of coordinates is constant: the first mean that counts passes."""
    scheme = helpers.sw_jko(
        swjko.particles(jnp.zeros((4, 2))),
        swjko.potential(jnp.sum),
        counting(),
        step_size=1e6,
        num_inner_steps=25,
        num_samples=4,
        inner_tolerance=1.0,
    )

    def moved(tolerance):
        changed = dataclasses.replace(scheme, inner_tolerance=tolerance)
        return -changed.step(key, changed.init(key))[0].params[0, 0]

    np.testing.assert_allclose(jax.jit(jax.vmap(moved))(jnp.array([1.5, 0.5])), [10.0, 25.0])
    assert float(jax.jit(moved)(jnp.asarray(1.5))) == 10.0


@pytest.mark.slow
def test_a_tolerance_that_is_not_reached_changes_nothing(key):
    without, with_one = (
        tiny_scheme("gaussian", "kl_divergence", num_inner_steps=12, inner_tolerance=tolerance)
        for tolerance in (None, 1e-9)
    )
    moved = [jitted_step(key, one, one.init(key))[0].params for one in (without, with_one)]
    chex.assert_trees_all_close(*moved, rtol=1e-6)


def direct(inner=150, **options):
    """Direct minimisation towards N((1, 1), diag(1/2, 2))."""
    energy = swjko.kl_divergence(lambda x: -jnp.sum((x - 1.0) ** 2 * jnp.array([2.0, 0.5])) / 2)
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-2, inner))
    counts = {"num_inner_steps": inner, "num_samples": 128}
    return swjko.direct_minimization(swjko.gaussian(2), energy, optimizer, **(counts | options))


def test_direct_minimization_reaches_the_minimum_in_two_steps(key):
    scheme = direct()
    state, infos = jitted_run(key, scheme, scheme.init(key), num_steps=2, record=swjko.infos)
    mean, cov = swjko.gaussian_moments(state.params)
    np.testing.assert_allclose(mean, 1.0, atol=0.02)
    np.testing.assert_allclose(cov, np.diag([0.5, 2.0]), atol=0.05)
    # -log of the normalisation, det(2 pi Sigma)^{1/2} = 2 pi.
    np.testing.assert_allclose(infos.energy[-1], -np.log(2 * np.pi), atol=0.01)
    assert np.all(infos.proximity == 0)
    np.testing.assert_array_equal(infos.objective, infos.energy)
    np.testing.assert_array_equal(infos.time, [1.0, 2.0])


def test_direct_minimization_is_the_limit_of_large_steps(key):
    """The same draws and updates: a proximity divided by 1e12 vanishes."""
    scheme = direct(inner=5)
    jko = dataclasses.replace(scheme.jko, step_size=jnp.asarray(1e12))
    ends = [jitted_step(key, one, one.init(key))[0].params for one in (scheme, jko)]
    chex.assert_trees_all_close(*ends, rtol=1e-5, atol=1e-6)


def test_direct_minimization_computes_no_distance_and_refuses_what_sw_jko_refuses(key):
    scheme = direct(inner=2)
    assert isinstance(scheme, swjko.Scheme)
    assert " sort(" not in jitted_step.lower(key, scheme, scheme.init(key)).compile().as_text()
    with pytest.raises(ValueError, match=r"num_samples.* must be at least 1"):
        direct(num_samples=0)


@pytest.mark.slow
def test_a_step_reports_as_separate_evaluations_do(key):
    scheme = tiny_scheme("coupling", "kl_divergence", num_inner_steps=3)
    start = scheme.init(key)

    @jax.jit
    def separate(key, scheme, start):
        def objective(params, key):
            return scheme.objective(key, params, start.params)

        inner_key, report_key = jax.random.split(key)
        keys = jax.random.split(inner_key, 3)
        params = inner_solve.minimize(objective, scheme.optimizer, start.params, keys)
        at_start, _ = objective(start.params, report_key)
        report = inner_solve.evaluate(objective, params, report_key)
        return params, report, at_start, scheme.energy(report_key, start.params)

    params, report, at_start, energy = separate(key, scheme, start)
    state, info = jitted_step(key, scheme, start)
    chex.assert_trees_all_close(state.params, params, atol=1e-6)
    np.testing.assert_allclose(info.objective, report.value, rtol=1e-5)
    np.testing.assert_allclose((info.energy, info.proximity), report.aux, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(info.gradient_norm, optax.tree.norm(report.gradient), rtol=1e-5)
    # The proximity of the anchor to itself is zero with common latents.
    np.testing.assert_allclose(energy, at_start, rtol=1e-6)


@pytest.mark.slow
def test_the_score_carried_forward_gives_the_gradient_of_the_inverse_route(key):
    with jax.enable_x64(True):
        scheme = tiny_scheme("coupling", "kl_divergence")
        params = helpers.perturbed(scheme.family, key, 0.05)
        family = swjko.Family(
            *(getattr(scheme.family, name) for name in ("init", "latent", "push", "log_prob")),
            scheme.family.dim,
            has_density=True,
        )
        assert family.push_with_score is None
        inverse = dataclasses.replace(scheme, family=family)
        found = [objective_and_gradient(one, key, params, params) for one in (scheme, inverse)]
        chex.assert_trees_all_close(*found, rtol=1e-10, atol=1e-12)
