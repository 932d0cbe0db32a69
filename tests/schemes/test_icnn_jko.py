"""The Wasserstein JKO scheme by convex networks: exact Gaussian steps, its pool, failures."""

import dataclasses
import functools

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import at_index, jitted_run, jitted_step, quadratic_log_prob
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import swjko
from swjko import closed_form
from swjko.schemes.icnn_jko import ICNNJKO

# One object for all schemes, so schemes of equal sizes are one program.
ADAM = optax.adam(1e-2)
jitted_sample = jax.jit(swjko.sample, static_argnums=3)
PRECISION = np.array([[1.5, 0.4], [0.4, 0.7]])
CENTER = np.array([1.5, -1.0])


def gaussian_scheme(inner=120, samples=128, **options):
    log_prob = Partial(quadratic_log_prob, jnp.asarray(PRECISION), jnp.asarray(CENTER))
    defaults = {
        "step_size": 0.2,
        "num_points": 1024,
        "width": 16,
        "max_steps": 6,
        "init_mean": jnp.asarray([0.5, 0.0]),
        "init_scale": jnp.asarray([0.5, 2.0]),
    }
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, inner))
    return swjko.icnn_jko(
        2,
        swjko.kl_divergence(log_prob),
        optimizer,
        num_inner_steps=inner,
        num_samples=samples,
        **(defaults | options),
    )


def tiny_scheme(functional="kl_divergence", **options):
    defaults = {
        "step_size": 0.1,
        "num_inner_steps": 3,
        "num_samples": 8,
        "num_points": 12,
        "max_steps": 4,
        "width": 8,
        "rank": 2,
    }
    return swjko.icnn_jko(2, helpers.FUNCTIONALS[functional](), ADAM, **(defaults | options))


def log10_symmetric_kl(key, scheme, params, mean, cov):
    """Against N(mean, cov), given in float64."""
    precision, factor = np.linalg.inv(cov), np.linalg.cholesky(cov)
    log_prob = Partial(quadratic_log_prob, jnp.asarray(precision, float), jnp.asarray(mean, float))
    noise = jax.random.normal(key, (1000, 2))
    points = jnp.asarray(mean, float)[None, :] + noise @ jnp.asarray(factor.T, float)
    measure = jax.jit(
        functools.partial(swjko.symmetric_kl, num_samples=1000, target_log_prob=log_prob)
    )
    value = measure(key, scheme.family, params, target_sample=points).value
    return np.log10(float(value))


@pytest.mark.slow
def test_every_step_is_the_exact_one_between_gaussians(key):
    scheme = gaussian_scheme()
    state, info = jitted_run(key, scheme, scheme.init(key), num_steps=3, record=swjko.infos)
    with jax.enable_x64(True):
        start = (
            jnp.asarray([0.5, 0.0]),
            jnp.diag(jnp.asarray([0.25, 4.0])),
            jnp.asarray(PRECISION),
            jnp.asarray(CENTER),
            0.2,
        )
        exact = jax.device_get(closed_form.gaussian_jko_flow(*start, 3))
        first, second = (map(jnp.asarray, at_index(exact, index)) for index in (0, 1))
        proximity = float(closed_form.gaussian_w2_pow(*first, *second)) / 0.4
    for num in (1, 3):
        params, law = scheme.after(state.params, num), (exact.mean[num], exact.cov[num])
        assert log10_symmetric_kl(key, scheme, params, *law) < -3.0
    error = 4 * np.sqrt(exact.cov[3].max() / 1024)
    np.testing.assert_allclose(state.extra.points.mean(axis=0), exact.mean[3], atol=error)
    # A mean over 256 points.
    np.testing.assert_allclose(info.proximity[0], proximity, rtol=0.2)
    assert np.all(np.diff(info.energy) < 0.1)
    np.testing.assert_allclose(info.objective, info.energy + info.proximity, rtol=1e-5)
    np.testing.assert_allclose(info.time, 0.2 * np.arange(1, 4), rtol=1e-5)


@pytest.mark.slow
def test_starts_at_mu_0_and_at_the_identity(key):
    with jax.enable_x64(True):
        scheme = gaussian_scheme()
        state = scheme.init(key)
        cloud = jitted_sample(scheme.family, state.params, key, 1000)
        expected = jax.scipy.stats.norm.logpdf(
            cloud.points, jnp.asarray([[0.5, 0.0]]), jnp.asarray([[0.5, 2.0]])
        ).sum(axis=1)
        log_prob = jax.jit(scheme.family.log_prob)(state.params, cloud.points)
        for values in (cloud.log_density, log_prob):
            np.testing.assert_allclose(values, expected, rtol=1e-10)
        params = scheme.chain.identity_around(key, state.extra.points)
        pushed = jax.jit(ICNNJKO._push_pool)(scheme, params, state.extra)
        chex.assert_trees_all_close(pushed, state.extra, rtol=1e-9, atol=1e-9)
        _, (_, proximity) = jax.jit(ICNNJKO.objective)(
            scheme, key, params["network"], params["frame"], state.extra
        )
        assert float(proximity) < 1e-15


@pytest.fixture(scope="module")
def after_two_steps():
    """A scheme and its state in float64, with a network far from zero."""
    with jax.enable_x64(True):
        scheme = dataclasses.replace(
            tiny_scheme(step_size=jnp.asarray(0.5), num_inner_steps=30), optimizer=optax.adam(3e-2)
        )
        key = jax.random.key(3)
        return scheme, jitted_run(key, scheme, scheme.init(key), num_steps=2, record=swjko.infos)[0]


@pytest.mark.slow
def test_kept_log_densities_and_scores_are_those_of_the_family(after_two_steps):
    with jax.enable_x64(True):
        scheme, state = after_two_steps
        log_prob = jax.jit(scheme.family.log_prob)
        np.testing.assert_allclose(
            state.extra.log_density, log_prob(state.params, state.extra.points), rtol=1e-8
        )
        scores = jax.jit(jax.grad(lambda points: jnp.sum(log_prob(state.params, points))))(
            state.extra.points
        )
        np.testing.assert_allclose(state.extra.score, scores, rtol=1e-6, atol=1e-8)
        # The pool is the image of its own latents.
        again = jitted_sample(scheme.family, state.params, jax.random.key(3), scheme.num_points)
        np.testing.assert_allclose(again.points, state.extra.points, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(again.log_density, state.extra.log_density, rtol=1e-9)


@pytest.mark.slow
def test_densities_against_the_jacobian_of_all_maps(after_two_steps, key):
    with jax.enable_x64(True):
        scheme, state = after_two_steps
        z = jax.random.normal(key, (5, 2))
        cloud = jax.jit(scheme.family.push)(state.params, z)
        jacobians = jax.jit(
            jax.vmap(jax.jacrev(lambda z: scheme.family.push(state.params, z[None]).points[0]))
        )(z)
        expected = jax.scipy.stats.norm.logpdf(z).sum(axis=1) - jnp.linalg.slogdet(jacobians)[1]
        np.testing.assert_allclose(cloud.log_density, expected, rtol=1e-9)
        assert float(jnp.max(jnp.abs(cloud.points - z))) > 0.1


@pytest.mark.slow
def test_path_gradients_have_the_mean_of_plain_ones_and_vanish_at_the_exact_step(after_two_steps):
    with jax.enable_x64(True):
        scheme, _ = after_two_steps
        key = jax.random.key(5)
        many = dataclasses.replace(scheme, num_points=10_000)
        pool = many.init(key).extra
        params = many.chain.identity_around(key, pool.points)
        # Away from the identity, with a network far from zero.
        params["network"] = jax.tree.map(
            lambda leaf: leaf + 0.02 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape),
            params["network"],
        )

        def gradient(variant, params, batch):
            objective = jax.grad(variant.objective, argnums=1, has_aux=True)
            return ravel_pytree(objective(key, params["network"], params["frame"], batch)[0])[0]

        def gradients(path):
            variant = dataclasses.replace(many, path_gradient=path)
            batches = jax.tree.map(lambda leaf: leaf.reshape(50, 200, *leaf.shape[1:]), pool)
            return jax.jit(jax.vmap(lambda batch: gradient(variant, params, batch)))(batches)

        difference = np.asarray(gradients(True) - gradients(False))
        error = difference.std(axis=0, ddof=1) / np.sqrt(len(difference))
        assert np.all(np.abs(difference.mean(axis=0)) <= 4.5 * error + 1e-9)
        assert np.max(error) > 1e-4
        # N(0, I) is the target: no step moves it, and no point has a gradient.
        identity = many.chain.identity_around(key, pool.points)
        part = jax.tree.map(lambda leaf: leaf[:7], pool)
        assert float(jnp.linalg.norm(gradient(many, identity, part))) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("functional", list(helpers.FUNCTIONALS))
def test_every_functional_makes_a_scheme(functional, key):
    scheme = tiny_scheme(functional)
    assert isinstance(scheme, swjko.Scheme)
    state, info = jitted_step(key, scheme, scheme.init(key))
    assert int(info.result) == swjko.Result.OK
    assert int(state.step) == int(state.params["num_maps"]) == 1
    assert float(jnp.max(jnp.abs(state.extra.points - scheme.init(key).extra.points))) > 1e-3
    assert scheme.path_gradient == (functional in ("negative_entropy", "kl_divergence"))


@pytest.mark.slow
def test_stochastic_log_dets(key):
    with jax.enable_x64(True):
        scheme = tiny_scheme(log_det="stochastic", num_probes=2)
        assert not scheme.path_gradient
        state, info = jitted_step(key, scheme, scheme.init(key))
        assert int(info.result) == swjko.Result.OK
        # Lanczos quadrature is exact in two dimensions; all probes have unit covariance.
        exact = tiny_scheme().family.push(
            state.params, scheme.family.latent(key, scheme.num_points)
        )
        np.testing.assert_allclose(exact.points, state.extra.points, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(
            jnp.mean(exact.log_density), jnp.mean(state.extra.log_density), atol=0.02
        )


@pytest.mark.slow
def test_a_run_in_two_parts_is_the_same_run(key):
    scheme = tiny_scheme("potential")
    whole, _ = jitted_run(key, scheme, scheme.init(key), num_steps=2, record=swjko.infos)
    part, _ = jitted_run(key, scheme, scheme.init(key), num_steps=1, record=swjko.infos)
    resumed, _ = jitted_run(key, scheme, part, num_steps=1, record=swjko.infos)
    chex.assert_trees_all_equal(whole, resumed)
    # The later state holds the earlier measure.
    cloud, before = (
        jitted_sample(scheme.family, params, key, 6)
        for params in (scheme.after(whole.params, 1), part.params)
    )
    chex.assert_trees_all_close(cloud, before, rtol=1e-6)


@pytest.mark.slow
def test_vmapped_flows_equal_single_ones_over_keys_and_step_sizes(key):
    with jax.enable_x64(True):
        scheme = tiny_scheme("potential", step_size=jnp.asarray(0.1, jnp.float64))
        keys, sizes = jax.random.split(key, 2), jnp.asarray([0.05, 0.4])

        def end(key, step_size):
            one = dataclasses.replace(scheme, step_size=step_size)
            return swjko.run(key, one, one.init(key), 2, record=swjko.infos)[0]

        many, single = jax.jit(jax.vmap(end))(keys, sizes), jax.jit(end)
        for index in range(2):
            one = single(keys[index], sizes[index])
            # Measures, not weights: Adam divides rounding by rounding at zero gradients.
            found = at_index(many.extra, index)
            chex.assert_trees_all_close(found, one.extra, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_solve_stops_where_there_is_no_room_and_the_last_state_holds_the_whole_flow(key):
    scheme = tiny_scheme()
    solution = swjko.solve(
        key, scheme, 6, chunk_size=3, progress=False, throw=False, record=swjko.both
    )
    states, info = solution.history
    assert solution.result is swjko.Result.STEP_LIMIT
    assert list(info.result) == [0, 0, 0, 0] + 2 * [swjko.Result.STEP_LIMIT]
    np.testing.assert_allclose(info.time, 0.1 * np.asarray([1, 2, 3, 4, 4, 4]), rtol=1e-5)
    assert "max_steps" in str(swjko.FlowError(solution))
    fourth, last = at_index(states, 3), at_index(states, 5)
    chex.assert_trees_all_equal(fourth, last._replace(result=fourth.result))
    movie = jax.jit(lambda params: swjko.replay(key, scheme.family, params, 5).points)
    after = jax.vmap(lambda num: scheme.after(solution.state.params, num))
    again = movie(after(jnp.asarray([1, 2, 3, 4, 5, 9])))
    np.testing.assert_allclose(movie(states.params), again, rtol=1e-5, atol=1e-6)
    value = swjko.evaluate(
        key, scheme.family, scheme.functional, solution.state.params, num_samples=8, num_repeats=2
    )
    assert np.isfinite(float(value.value))


@pytest.mark.slow
def test_one_trace_over_ten_calls_and_a_step_costs_the_same_however_many_came_before(key):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(key, scheme, state):
        return scheme.step(key, state)

    scheme = tiny_scheme("potential", max_steps=10)
    state = scheme.init(key)
    for index in range(10):
        scheme = dataclasses.replace(scheme, step_size=scheme.step_size * 1.01)
        state, _ = step(jax.random.fold_in(key, index), scheme, state)
    assert int(state.step) == 10


@pytest.mark.slow
def test_a_step_costs_the_same_however_many_maps_there_are(key):
    # Apart from the copy of the slots, the program has the same operations.
    def flops(max_steps):
        scheme = tiny_scheme("potential", max_steps=max_steps)
        return jitted_step.lower(key, scheme, scheme.init(key)).compile().cost_analysis()["flops"]

    assert flops(400) < 1.01 * flops(4)


@pytest.mark.slow
def test_a_failed_flow_stops_and_leaves_the_others_alone(key):
    def broken_past(limit, x):
        return jnp.sum(x**2) / 2 + jnp.where(jnp.isnan(limit), jnp.nan, 0.0)

    def flow(limit, key):
        functional = swjko.potential(Partial(broken_past, limit))
        scheme = dataclasses.replace(tiny_scheme("potential"), functional=functional)
        return swjko.run(key, scheme, scheme.init(key), 2, record=swjko.infos)[0]

    keys = jax.random.split(key, 3)
    clean = jax.jit(jax.vmap(flow))(jnp.zeros(3), keys)
    hurt = jax.jit(jax.vmap(flow))(jnp.array([0.0, jnp.nan, 0.0]), keys)
    assert list(np.asarray(hurt.result)) == [0, swjko.Result.NON_FINITE, 0]
    assert list(np.asarray(hurt.step)) == [2, 0, 2]
    start = tiny_scheme("potential").init(keys[1])
    failed = at_index(hurt, 1)._replace(result=start.result)
    chex.assert_trees_all_close(failed, start, rtol=1e-6)
    for survivor in (0, 2):
        chex.assert_trees_all_equal(at_index(clean, survivor), at_index(hurt, survivor))


@pytest.mark.slow
def test_a_diverging_optimizer_is_reported_with_the_last_good_state(key):
    scheme = dataclasses.replace(tiny_scheme("potential"), optimizer=optax.sgd(30.0))
    start = scheme.init(key)
    state, info = jitted_step(key, scheme, start)
    assert int(info.result) in (swjko.Result.DIVERGED, swjko.Result.NON_FINITE)
    chex.assert_trees_all_equal(state._replace(result=start.result), start)


def test_no_data_are_compiled_in(key):
    target = jnp.asarray(np.random.default_rng(0).normal(size=(500, 2)))
    scheme = dataclasses.replace(tiny_scheme(), functional=swjko.sw_to_target(target, 5))
    sizes = helpers.constant_bytes(jitted_step, key, scheme, scheme.init(key))
    assert max(sizes, default=0) <= 1024


COUNTS = {"zero": 0, "fraction": 2.5, "nothing": None}
BAD = {
    "functional": {"a number": 3.0, "of vectors": lambda key, cloud: cloud.points[0]},
    "optimizer": {"nothing": None, "a class": optax.adam},
    "dim": COUNTS,
    "step_size": {"zero": 0.0, "NaN": float("nan"), "a list": [0.1, 0.2], "text": "small"},
    "num_inner_steps": COUNTS,
    "num_samples": COUNTS,
    "num_points": COUNTS | {"fewer than a batch": 7},
    "max_steps": COUNTS,
    "width": COUNTS,
    "num_layers": COUNTS,
    "rank": COUNTS,
    "strong_convexity": {"that of the start": 1.0, "zero": 0.0},
    "log_det": {"another": "approximate", "nothing": None},
    "num_probes": COUNTS,
    "init_mean": {"too many": np.ones(3), "NaN": float("nan")},
    "init_scale": {"zero": 0.0, "too many": np.ones(3)},
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("name", "what"), [(name, what) for name, values in BAD.items() for what in values]
)
def test_a_bad_input_is_named(name, what):
    inputs = {
        "dim": 2,
        "functional": swjko.potential(jnp.sum),
        "optimizer": optax.sgd(0.1),
        "step_size": 0.1,
        "num_inner_steps": 1,
    }
    inputs |= {"num_samples": 8, "num_points": 8, name: BAD[name][what]}
    with pytest.raises((ValueError, TypeError), match=rf"(^|[^\w]){name}($|[^\w])"):
        swjko.icnn_jko(
            inputs.pop("dim"), inputs.pop("functional"), inputs.pop("optimizer"), **inputs
        )
