"""The SW-JKO scheme: against the exact Gaussian step, its estimators, transformations, failures."""

import dataclasses
import functools

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import exact_directions, gaussian_scheme, jitted_run, quadratic_log_prob, tiny_scheme
from jax.tree_util import Partial

import swjko
from swjko import closed_form, flows
from swjko.schemes.sw_jko import SWJKO

jitted_sample = jax.jit(swjko.sample, static_argnums=3)
objective_and_gradient = jax.jit(SWJKO.objective_and_gradient)


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
    _, params = jitted_run(
        jax.random.key(0),
        scheme,
        scheme.init(jax.random.key(0)),
        num_steps=10,
        record=lambda state, info: state.params,
    )
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


def test_path_gradient_vanishes_at_the_target_and_the_plain_one_does_not(key):
    scheme = gaussian_scheme(swjko.gaussian(2))
    params = scheme.init(key).params
    norms = [
        float(
            optax.tree.norm(
                objective_and_gradient(
                    dataclasses.replace(scheme, path_gradient=path), key, params, params
                )[1]
            )
        )
        for path in (True, False)
    ]
    assert norms[0] < 1e-5
    assert norms[1] > 1e-2


def test_only_entropies_get_path_gradients():
    """int rho^2 of N(0, S) is det(4 pi S)^{-1/2}: minus itself is its derivative in each log-scale, and a path gradient would give half."""
    functional = swjko.internal_energy(lambda r: r**2)
    scheme = swjko.sw_jko(
        swjko.gaussian(2),
        functional,
        optax.adam(1e-2),
        step_size=0.1,
        num_inner_steps=1,
        num_samples=50_000,
        num_projections=2,
    )
    params = scheme.init(jax.random.key(0)).params
    _, gradient = objective_and_gradient(scheme, jax.random.key(1), params, params)
    # The standard deviation of rho at a point over its mean is 1 / sqrt(3).
    np.testing.assert_allclose(
        gradient["log_diagonal"], -1 / (4 * np.pi), rtol=4 / np.sqrt(3 * 50_000)
    )


def test_both_gradient_estimators_have_the_same_mean():
    """Away from the optimum they differ on each draw and agree on average, within standard errors."""
    scheme = gaussian_scheme(swjko.gaussian(2, init_scale=1.5), center=[1.0, 0.0])
    params = scheme.init(jax.random.key(0)).params
    keys = jax.random.split(jax.random.key(1), 400)

    def gradients(path):
        variant = dataclasses.replace(scheme, path_gradient=path)
        return jax.jit(
            jax.vmap(
                lambda key: jnp.concatenate(
                    [
                        g.ravel()
                        for g in jax.tree.leaves(
                            variant.objective_and_gradient(key, params, params)[1]
                        )
                    ]
                )
            )
        )(keys)

    path, plain = gradients(True), gradients(False)
    difference = np.asarray(path - plain)
    error = difference.std(axis=0, ddof=1) / np.sqrt(len(keys))
    assert np.all(np.abs(difference.mean(axis=0)) <= 4 * error + 1e-7)
    assert np.max(np.abs(difference)) > 1e-2


def test_grid_on_the_line_follows_the_exact_steps(key):
    """In one dimension SW is W and a grid holds any density: the iterates are Gaussian, up to the cells and the ends of the grid."""
    cell, mean, scale = 0.05, jnp.array([1.0]), 0.6
    points = jnp.arange(-5.0, 5.0 + cell / 2, cell)[:, None]
    start = jax.nn.softmax(-0.5 * ((points[:, 0] - mean) / scale) ** 2)
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-2, 400))
    scheme = swjko.sw_jko(
        swjko.grid(points, cell, weights=start),
        swjko.kl_divergence(lambda x: -0.5 * jnp.sum(x**2)),
        optimizer,
        step_size=0.2,
        num_inner_steps=400,
        num_samples=len(points),
        num_projections=1,
    )
    _, states = jitted_run(
        key, scheme, scheme.init(key), num_steps=4, record=lambda state, info: state.params
    )
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


# Each functional with a family that has all it may ask for, and each family with one of every kind of functional.
PAIRS = [("gaussian", functional) for functional in helpers.FUNCTIONALS] + [
    pytest.param(
        name,
        functional,
        marks=pytest.mark.slow
        if name in ("cnf", "icnn", "spline") and functional != "kl_divergence"
        else (),
    )
    for name in helpers.FAMILIES
    for functional in ("kl_divergence", "sw_to_target")
    if name != "gaussian"
]


@pytest.mark.parametrize(("name", "functional"), PAIRS)
def test_every_family_and_every_functional_make_a_scheme(name, functional, key):
    family = helpers.FAMILIES[name]()
    if (
        swjko.functionals.needs_density(helpers.FUNCTIONALS[functional]())
        and not family.has_density
    ):
        with pytest.raises(ValueError, match=r"needs the density.*swjko\.gaussian"):
            tiny_scheme(name, functional)
        return
    scheme = tiny_scheme(name, functional)
    state, info = jax.jit(type(scheme).step)(scheme, key, scheme.init(key))
    assert int(info.result) == swjko.Result.OK
    assert int(state.step) == 1
    moved = jax.tree.map(
        lambda new, old: float(jnp.max(jnp.abs(new - old))), state.params, scheme.init(key).params
    )
    assert max(jax.tree.leaves(moved)) > 1e-4


def test_ring_of_particles_reaches_its_energy(key):
    ring = swjko.interaction(lambda x: jnp.sum(x**2) ** 2 / 4 - jnp.sum(x**2) / 2)
    points = 0.25 * jax.random.normal(key, (100, 2))
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-2, 60))
    scheme = swjko.sw_jko(
        swjko.particles(points),
        ring,
        optimizer,
        step_size=0.5,
        num_inner_steps=60,
        num_samples=100,
        num_projections=24,
    )
    state, _ = jitted_run(key, scheme, scheme.init(key), num_steps=15, record=swjko.infos)
    # As a measure of n atoms the energy counts the pairs of a point with itself, which are zero here.
    energy = float(ring(key, swjko.Cloud(state.params))) * 99 / 100
    np.testing.assert_allclose(energy, -1 / 12, rtol=0.01)
    np.testing.assert_allclose(jnp.linalg.norm(state.params, axis=1), 1 / np.sqrt(3), rtol=0.1)


def test_sweep_over_step_sizes_by_vmap_equals_single_runs(key):
    with jax.enable_x64(True):
        scheme = tiny_scheme(step_size=jnp.asarray(0.1, jnp.float64))
        sizes = jnp.asarray([0.05, 0.1, 0.4])
        axes = dataclasses.replace(jax.tree.map(lambda leaf: None, scheme), step_size=0)
        swept = dataclasses.replace(scheme, step_size=sizes)

        def end(scheme):
            return swjko.run(key, scheme, scheme.init(key), 3, record=swjko.infos)[0].params

        many = jax.jit(jax.vmap(end, in_axes=(axes,)))(swept)
        single = jax.jit(end)
        for index, size in enumerate(sizes):
            one = single(dataclasses.replace(scheme, step_size=size))
            chex.assert_trees_all_close(
                jax.tree.map(lambda leaf, i=index: leaf[i], many), one, rtol=1e-12, atol=1e-12
            )


def test_vmapped_flows_equal_single_ones_and_jit_equals_eager(key):
    scheme = tiny_scheme("gaussian", "kl_divergence", num_inner_steps=2)
    keys = jax.random.split(key, 3)

    def step(key):
        return scheme.step(key, scheme.init(key))[0].params

    many = jax.jit(jax.vmap(step))(keys)
    for index, single in enumerate((step, jax.jit(step), jax.jit(step))):
        one = single(keys[index])
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, i=index: leaf[i], many), one, rtol=1e-5, atol=1e-5
        )


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
        state, _ = step(
            jax.random.fold_in(key, index), dataclasses.replace(scheme, functional=moved), state
        )


def test_no_data_are_compiled_in(key):
    target = jnp.asarray(np.random.default_rng(0).normal(size=(500, 2)))
    scheme = swjko.sw_jko(
        swjko.gaussian(2),
        swjko.sw_to_target(target, 5),
        optax.adam(1e-2),
        step_size=0.1,
        num_inner_steps=2,
        num_samples=8,
        num_projections=5,
    )
    sizes = helpers.constant_bytes(
        lambda key, scheme, state: scheme.step(key, state), key, scheme, scheme.init(key)
    )
    assert max(sizes, default=0) <= 1024


def test_a_run_in_two_parts_is_the_same_run(key):
    scheme = tiny_scheme()
    whole, _ = jitted_run(key, scheme, scheme.init(key), num_steps=6, record=swjko.infos)
    part, _ = jitted_run(key, scheme, scheme.init(key), num_steps=3, record=swjko.infos)
    resumed, _ = jitted_run(key, scheme, part, num_steps=3, record=swjko.infos)
    chex.assert_trees_all_equal(whole, resumed)


def test_gradient_through_a_short_flow_against_finite_differences(key):
    with jax.enable_x64(True):
        scheme = swjko.sw_jko(
            swjko.gaussian(2),
            swjko.kl_divergence(lambda x: -jnp.sum((x - 1.0) ** 2) / 2),
            optax.sgd(0.05),
            step_size=0.5,
            num_inner_steps=3,
            num_samples=16,
            num_projections=4,
        )
        start = scheme.init(key)

        def end(mean):
            state = start._replace(params=start.params | {"mean": mean})
            return jnp.sum(
                swjko.run(key, scheme, state, 2, record=swjko.infos)[0].params["mean"] ** 2
            )

        at = np.array([0.3, -0.2])
        gradient = jax.jit(jax.grad(end))(jnp.asarray(at))
        np.testing.assert_allclose(
            gradient, helpers.central_difference(jax.jit(end), at), rtol=1e-6
        )


def test_a_non_finite_flow_stands_still_and_leaves_the_others_alone(key):
    def broken_past(limit, x):
        return jnp.sum(x**2) / 2 + jnp.where(jnp.isnan(limit), jnp.nan, 0.0)

    def scheme_for(limit):
        functional = swjko.potential(Partial(broken_past, limit))
        return swjko.sw_jko(
            swjko.gaussian(2),
            functional,
            optax.adam(1e-2),
            step_size=0.1,
            num_inner_steps=3,
            num_samples=8,
            num_projections=3,
        )

    def flow(limit, key):
        scheme = scheme_for(limit)
        return swjko.run(key, scheme, scheme.init(key), 3, record=swjko.infos)[0]

    keys = jax.random.split(key, 3)
    clean = jax.jit(jax.vmap(flow))(jnp.zeros(3), keys)
    hurt = jax.jit(jax.vmap(flow))(jnp.array([0.0, jnp.nan, 0.0]), keys)
    assert list(np.asarray(hurt.result)) == [0, swjko.Result.NON_FINITE, 0]
    assert list(np.asarray(hurt.step)) == [3, 0, 3]
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(hurt.params))
    for survivor in (0, 2):
        chex.assert_trees_all_equal(
            *(jax.tree.map(lambda leaf, i=survivor: leaf[i], state) for state in (clean, hurt))
        )


def test_a_diverging_optimiser_is_reported_with_the_last_good_state(key):
    scheme = swjko.sw_jko(
        swjko.gaussian(2),
        swjko.potential(lambda x: jnp.sum(x**2) / 2),
        optax.sgd(30.0),
        step_size=0.1,
        num_inner_steps=10,
        num_samples=8,
        num_projections=3,
    )
    state, info = jax.jit(type(scheme).step)(scheme, key, scheme.init(key))
    assert int(info.result) in (swjko.Result.DIVERGED, swjko.Result.NON_FINITE)
    chex.assert_trees_all_equal(state.params, scheme.init(key).params)
    assert float(state.time) == 0.0


def test_lbfgs_gets_the_value_function_it_asks_for(key):
    scheme = dataclasses.replace(tiny_scheme(), optimizer=optax.lbfgs())
    _, info = jax.jit(type(scheme).step)(scheme, key, scheme.init(key))
    assert int(info.result) == swjko.Result.OK


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


def test_the_jackknife_takes_most_of_the_bias_of_samples():
    # From N(0, I) by a small step: a rotation of the points costs a coupling, and the measures hardly anything.
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
        scheme = swjko.sw_jko(
            family,
            swjko.potential(jnp.sum),
            optax.adam(1e-2),
            step_size=0.5,
            num_inner_steps=1,
            num_samples=256,
            num_projections=30,
            direction_fn=swjko.orthogonal_directions,
            **options,
        )
        keys = jax.random.split(jax.random.key(2), 500)
        values = np.asarray(
            jax.lax.map(
                lambda key: scheme.objective_and_gradient(key, params, anchor)[0][1][1], keys
            )
        )
        return values.mean() - float(exact), values.std() / np.sqrt(len(values))

    (plain, plain_error), (debiased, error) = bias(debias=False), bias()
    assert plain > 10 * plain_error
    assert abs(debiased) < 0.4 * plain + 2 * error


def test_particles_are_no_samples_and_their_distance_is_not_corrected():
    points = jax.random.normal(jax.random.key(0), (24, 2))
    moved = points + 0.1 * jax.random.normal(jax.random.key(1), (24, 2))

    def proximity(debias):
        scheme = swjko.sw_jko(
            swjko.particles(points),
            swjko.potential(jnp.sum),
            optax.adam(1e-2),
            step_size=0.1,
            num_inner_steps=1,
            num_samples=24,
            num_projections=8,
            debias=debias,
        )
        return objective_and_gradient(scheme, jax.random.key(2), moved, points)[0][1][1]

    assert float(proximity(True)) == float(proximity(False))


def counting():
    """An optimiser whose every update lowers every parameter by one."""

    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda leaf: -jnp.ones_like(leaf), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def test_updates_stop_at_the_inner_tolerance_and_each_flow_at_its_own(key):
    """The gradient of the sum of coordinates is constant: the first mean that counts passes, or none does."""
    scheme = swjko.sw_jko(
        swjko.particles(jnp.zeros((4, 2))),
        swjko.potential(jnp.sum),
        counting(),
        step_size=1e6,
        num_inner_steps=25,
        num_samples=4,
        num_projections=4,
        inner_tolerance=1.0,
    )

    def moved(tolerance):
        changed = dataclasses.replace(scheme, inner_tolerance=tolerance)
        return -changed.step(key, changed.init(key))[0].params[0, 0]

    np.testing.assert_allclose(jax.jit(jax.vmap(moved))(jnp.array([1.5, 0.5])), [10.0, 25.0])
    assert float(jax.jit(moved)(jnp.asarray(1.5))) == 10.0


def test_a_tolerance_that_is_not_reached_changes_nothing(key):
    options = {"step_size": 0.1, "num_inner_steps": 12, "num_samples": 16, "num_projections": 4}
    without, with_one = (
        swjko.sw_jko(
            swjko.gaussian(2),
            helpers.FUNCTIONALS["kl_divergence"](),
            optax.adam(1e-2),
            **options,
            inner_tolerance=tolerance,
        )
        for tolerance in (None, 1e-9)
    )
    moved = [
        jax.jit(type(scheme).step)(scheme, key, scheme.init(key))[0].params
        for scheme in (without, with_one)
    ]
    chex.assert_trees_all_close(*moved, rtol=1e-6)
