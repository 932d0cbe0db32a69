"""Drift: its target, its gradient and metric beside those of SW-JKO, one-step fits, failures."""

import dataclasses

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import axes_of, jitted_run, jitted_step

import swjko
from swjko import flows
from swjko.checkpoints.store import Store

DIM = 2
TARGET = np.random.default_rng(3).normal(size=(24, DIM)) + 1.0
SIZES = {"step_size": 0.8, "num_drift_steps": 2, "num_inner_steps": 3, "num_samples": 12}


def fixed_directions(key, num, dim):
    """Orthogonal directions in whole blocks, the same for every key."""
    del key
    return swjko.orthogonal_directions(jax.random.key(5), num, dim)


def energy(**options):
    return swjko.sw_to_target(
        jnp.asarray(TARGET, float), 2 * DIM, direction_fn=fixed_directions, **options
    )


def drifting(family=None, functional=None, optimizer=None, **options):
    family = bent_map() if family is None else family
    return swjko.drifting(
        family,
        energy() if functional is None else functional,
        optax.adam(1e-2) if optimizer is None else optimizer,
        **(SIZES | options),
    )


def bent_map():
    """A small family whose map is not linear in its latents."""

    def init(key):
        return jax.random.normal(key, (DIM, DIM + 1))

    def transform(params, z):
        return z @ params[:, :DIM].T + jnp.sin(z + params[None, :, DIM])

    return swjko.pushforward(init, transform, dim=DIM)


def test_points_drift_along_the_sliced_displacement(key):
    points = jax.random.normal(key, (12, DIM))
    directions = fixed_directions(key, 2 * DIM, DIM)
    expected = np.asarray(points, np.float64)
    for _ in range(2):
        # By hand: the k-th smallest projection of 12 points goes to the mean of the k-th two of 24.
        velocity = np.zeros_like(expected)
        for theta in np.asarray(directions, np.float64):
            order = np.argsort(expected @ theta)
            goals = np.sort(TARGET @ theta).reshape(12, 2).mean(axis=1)
            velocity[order] += (goals - (expected @ theta)[order])[:, None] * theta
        expected = expected + 0.4 * velocity / len(directions)
    np.testing.assert_allclose(drifting().drifted(key, points), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_drift_of_an_mmd_is_that_of_its_formula(key):
    points = jax.random.normal(key, (6, DIM))
    mmd = swjko.mmd_to_target(jnp.asarray(TARGET, float), lambda x: jnp.exp(-jnp.sum(x**2) / 2))
    x = np.asarray(points, np.float64)

    def force(x, y, count):
        """Mean of -grad k at x from all y."""
        differences = x[:, None] - y[None]
        kernel = np.exp(-np.sum(differences**2, axis=-1, keepdims=True) / 2)
        return (kernel * differences).sum(axis=1) / count

    # F = 1/2 E k(X - X') - E k(X - Y), so v = -grad (int k dmu - int k dnu).
    expected = x + 0.4 * (force(x, x, 5) - force(x, TARGET, 24))
    scheme = drifting(functional=mmd, num_drift_steps=1, step_size=0.4)
    np.testing.assert_allclose(scheme.drifted(key, points), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_gradient_and_metric_are_those_of_an_sw_jko_step(key):
    """So the first-order steps, -Hessian^-1 gradient, are equal for a step of length d tau."""
    with jax.enable_x64(True):
        tau, family = 0.3, bent_map()
        options = {"num_inner_steps": 1, "num_samples": 12}
        scheme = drifting(family, step_size=DIM * tau, num_drift_steps=1)
        jko = swjko.sw_jko(
            family,
            energy(),
            optax.sgd(0.1),
            step_size=tau,
            num_projections=2 * DIM,
            direction_fn=fixed_directions,
            debias=False,
            **options,
        )
        anchor = family.init(key)
        latent = family.latent(jax.random.split(key, 4)[0], 12)
        target = scheme.drifted(key, family.push(anchor, latent).points)
        ours = jax.grad(scheme.regression)(anchor, latent, target)
        theirs = jax.grad(lambda params: jko.objective(key, params, anchor)[0])(anchor)
        chex.assert_trees_all_close(ours, theirs, rtol=1e-9, atol=1e-12)
        assert float(optax.tree.norm(ours)) > 0.1

        jacobian = jax.jacfwd(lambda params: family.push(params, latent).points)(anchor)
        metric = jnp.einsum("ndab,ndef->abef", jacobian, jacobian) / (12 * DIM * tau)
        fixed = family.push(anchor, latent).points
        directions = fixed_directions(key, 2 * DIM, DIM)
        own = jax.hessian(lambda params: scheme.regression(params, latent, fixed))(anchor)
        sliced = jax.hessian(
            lambda params: jko.proximity(family.push(params, latent), anchor, latent, directions)
        )(anchor)
        np.testing.assert_allclose(own, metric, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(sliced, metric, rtol=1e-6, atol=1e-9)


def test_one_exact_regression_of_particles_is_their_drift(key):
    """Every latent of ``particles`` is a point, and a full step of gradient descent is exact."""
    points = jax.random.normal(key, (12, DIM))
    # The gradient of mean |x - y|^2 / (2 step_size) in x_i is (x_i - y_i) / (n step_size).
    exact = optax.sgd(12 * 0.8)
    scheme = drifting(swjko.particles(points), optimizer=exact, num_inner_steps=1)
    state, info = jitted_step(key, scheme, scheme.init(key))
    flow = swjko.sliced_flow(
        points,
        energy().target,
        step_size=0.8,
        num_inner_steps=2,
        num_projections=2 * DIM,
        direction_fn=fixed_directions,
    )
    expected, report = jitted_step(key, flow, flow.init(key))
    np.testing.assert_allclose(state.params, expected.params, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(info.energy, report.energy, rtol=1e-4)
    moved = np.sum((np.asarray(state.params) - np.asarray(points)) ** 2) / 12 / (2 * 0.8)
    np.testing.assert_allclose(info.proximity, moved, rtol=1e-4)
    np.testing.assert_allclose(info.objective, info.energy + info.proximity, rtol=1e-5)
    np.testing.assert_allclose(info.time, 0.8, rtol=1e-6)


@pytest.mark.slow
def test_a_generator_comes_near_a_bent_sample(key):
    x = np.random.default_rng(0).normal(size=(512, DIM))
    bent = jnp.asarray(np.stack([x[:, 0], x[:, 0] ** 2 + 0.3 * x[:, 1]], axis=1), float)
    family = flows.mlp(DIM, DIM, width=16)
    scheme = drifting(
        family,
        swjko.sw_to_target(bent[:256], 16, batch_size=128),
        optax.adam(optax.cosine_decay_schedule(1e-2, 30 * 20)),
        step_size=2.0,
        num_drift_steps=4,
        num_inner_steps=20,
        num_samples=128,
        batch_size=64,
    )
    state, _ = jitted_run(key, scheme, scheme.init(key), num_steps=30, record=swjko.infos)
    assert int(state.result) == swjko.Result.OK
    directions = swjko.quasi_directions(key, 32, DIM)

    def distance(params):
        drawn = swjko.sample(family, params, jax.random.key(2), 256).points
        return float(swjko.sliced_wasserstein_pow(drawn, bent[256:], directions))

    assert distance(state.params) < 0.2 * distance(scheme.init(key).params)


def test_a_velocity_of_ones_own_is_followed_and_its_data_are_a_leaf(key):
    def pull(center, key, points):
        del key
        return center[None, :] - points

    center = jnp.arange(1.0, 1.0 + DIM)
    scheme = drifting(velocity=jax.tree_util.Partial(pull, center))
    points = jax.random.normal(key, (12, DIM))
    # Two moves of h = 0.4 towards the centre.
    expected = center[None, :] + 0.6**2 * (points - center[None, :])
    np.testing.assert_allclose(scheme.drifted(key, points), expected, rtol=1e-5, atol=1e-6)
    assert any(leaf is center for leaf in jax.tree.leaves(scheme))


@pytest.mark.slow
def test_a_functional_of_features_moves_points_by_its_pullback(key):
    """F(A mu) has the velocity A' v at A x."""
    matrix = jnp.asarray([[1.0, 2.0], [0.0, 1.0]])
    inner = energy()
    scheme = drifting(
        functional=lambda key, cloud: inner(key, swjko.Cloud(cloud.points @ matrix.T)),
        num_drift_steps=1,
    )
    points = jax.random.normal(key, (12, DIM))
    directions = fixed_directions(key, 2 * DIM, DIM)
    velocity = swjko.sliced_displacement(points @ matrix.T, inner.target, directions)
    expected = points + 0.8 * velocity @ matrix
    np.testing.assert_allclose(scheme.drifted(key, points), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_in_two_parts_is_the_same_run(key):
    """The optimizer continues from step to step: its state is part of the state."""
    scheme = drifting(batch_size=5)
    whole, _ = jitted_run(key, scheme, scheme.init(key), num_steps=4, record=swjko.infos)
    part, _ = jitted_run(key, scheme, scheme.init(key), num_steps=2, record=swjko.infos)
    resumed, _ = jitted_run(key, scheme, part, num_steps=2, record=swjko.infos)
    chex.assert_trees_all_equal(whole, resumed)
    assert int(optax.tree.get(whole.extra, "count")) == 4 * SIZES["num_inner_steps"]


@pytest.mark.slow
def test_solve_resumes_after_a_kill(tmp_path, monkeypatch, key):
    scheme = drifting()
    options = {"progress": False, "chunk_size": 2}
    whole = swjko.solve(key, scheme, 4, **options)

    def append(self, first_step, *arguments, real=Store.append):
        if first_step >= 2:
            raise KeyError("killed")
        real(self, first_step, *arguments)

    options |= {"checkpoint_dir": tmp_path, "checkpoint_steps": 1}
    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", append)
        with pytest.raises(KeyError, match="killed"):
            swjko.solve(key, scheme, 4, **options)
    chex.assert_trees_all_equal(swjko.solve(key, scheme, 4, **options).state, whole.state)


@pytest.mark.slow
def test_a_sweep_over_step_sizes_stops_failing_flows_alone(key):
    scheme, sizes = drifting(), jnp.asarray([0.4, 0.8, 1e30])
    axes = axes_of(scheme, step_size=0)
    step = jax.jit(jax.vmap(lambda scheme: scheme.step(key, scheme.init(key)), in_axes=(axes,)))
    state, info = step(dataclasses.replace(scheme, step_size=sizes))
    one, _ = jitted_step(key, scheme, scheme.init(key))
    second = jax.tree.map(lambda leaf: leaf[1], state.params)
    chex.assert_trees_all_close(second, one.params, rtol=1e-4, atol=1e-5)
    assert list(np.asarray(state.result)[:2]) == [swjko.Result.OK] * 2
    assert int(state.result[2]) == swjko.Result.NON_FINITE
    np.testing.assert_array_equal(info.result, state.result)
    third = jax.tree.map(lambda leaf: leaf[2], state.params)
    chex.assert_trees_all_equal(third, scheme.init(key).params)


def test_no_data_are_compiled_in(key):
    data = jnp.asarray(np.random.default_rng(0).normal(size=(500, DIM)), float)
    scheme = drifting(functional=swjko.sw_to_target(data, 4))
    sizes = helpers.constant_bytes(jitted_step, key, scheme, scheme.init(key))
    assert max(sizes, default=0) <= 1024


def test_bad_arguments_are_named():
    def ones(key, points):
        del key
        return jnp.ones(points.shape[0])

    grid = swjko.grid(jnp.asarray(TARGET[:12], float), 1.0)
    cases = [
        ({"velocity": ones}, r"velocity must .* shape \(12, 2\); got \(12,\)"),
        ({"batch_size": 13}, "batch_size must not exceed num_samples, 12; got 13"),
        ({"family": grid}, "family must have points of equal weights"),
        ({"functional": swjko.negative_entropy()}, "functional must not need the density"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            drifting(**change)
    with pytest.raises(ValueError, match=r"batch_size. must not exceed the 24 points"):
        energy(batch_size=25)
