"""Weights of particles and targets: a weight of two parts is that of a point taken twice."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import swjko

RNG = np.random.default_rng(0)
DISTINCT = RNG.normal(size=(3, 2))
WEIGHTS = np.asarray([0.5, 0.25, 0.25])
REPEATED = DISTINCT[[0, 0, 1, 2]]
CLOUD = RNG.normal(size=(6, 2))
KEY = jax.random.key(0)


def kernel(x):
    return jnp.exp(-jnp.sum(x**2) / 2)


def array(values):
    return jnp.asarray(values, float)


@pytest.mark.slow
def test_a_weighted_target_is_that_of_repeated_points():
    cloud = swjko.Cloud(array(CLOUD))
    weighted = swjko.sw_to_target(array(DISTINCT), 5, weights=array(WEIGHTS))
    repeated = swjko.sw_to_target(array(REPEATED), 5)
    np.testing.assert_allclose(weighted(KEY, cloud), repeated(KEY, cloud), rtol=1e-5)


@pytest.mark.slow
def test_a_batch_is_drawn_by_the_weights():
    """All mass is at the first point, so every batch is at that point."""
    target, weights = array(DISTINCT), array([1.0, 0.0, 0.0])
    drawn = swjko.sw_to_target(target, 5, weights=weights, batch_size=2)
    whole = swjko.sw_to_target(target[:1], 5)
    cloud = swjko.Cloud(array(CLOUD))
    np.testing.assert_allclose(drawn(KEY, cloud), whole(KEY, cloud), rtol=1e-5)


@pytest.mark.slow
def test_mmd_to_a_weighted_target_is_the_sum_over_pairs():
    def k(x, y):
        return np.exp(-np.sum((x - y) ** 2) / 2)

    def own(points, weights):
        pairs = itertools.permutations(range(len(points)), 2)
        total = sum(weights[i] * weights[j] * k(points[i], points[j]) for i, j in pairs)
        return total / (2 * (1 - np.sum(weights**2)))

    uniform = np.full(6, 1 / 6)
    cross = sum(
        v * w * k(x, y)
        for (x, v), (y, w) in itertools.product(
            zip(CLOUD, uniform, strict=True), zip(DISTINCT, WEIGHTS, strict=True)
        )
    )
    expected = own(CLOUD, uniform) - cross + own(DISTINCT, WEIGHTS)
    functional = swjko.mmd_to_target(array(DISTINCT), kernel, weights=array(WEIGHTS))
    found = functional(KEY, swjko.Cloud(array(CLOUD)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["points", "target"])
def test_a_weighted_sliced_flow_moves_as_one_of_repeated_points(side):
    sizes, other = {"step_size": 0.5, "num_projections": 7}, array(CLOUD)
    distinct, repeated, weights = array(DISTINCT), array(REPEATED), array(WEIGHTS)
    if side == "points":
        weighted = swjko.sliced_flow(distinct, other, weights=weights, **sizes)
        plain = swjko.sliced_flow(repeated, other, **sizes)
    else:
        weighted = swjko.sliced_flow(other, distinct, target_weights=weights, **sizes)
        plain = swjko.sliced_flow(other, repeated, **sizes)
    (one, info), (two, plain_info) = (
        jax.jit(scheme.step)(KEY, scheme.init(KEY)) for scheme in (weighted, plain)
    )
    expected = two.params
    if side == "points":
        # A point of two parts moves to the mean of where its parts go.
        expected = jnp.concatenate([expected[:2].mean(0, keepdims=True), expected[2:]])
        assert info.energy < swjko.sw_to_target(other, 7)(KEY, swjko.Cloud(distinct, weights))
    else:
        chex.assert_trees_all_close(info, plain_info, rtol=1e-4)
    np.testing.assert_allclose(one.params, expected, rtol=1e-4, atol=1e-5)


def test_particles_keep_their_weights():
    family = swjko.particles(array(DISTINCT), array(WEIGHTS))
    params = family.init(KEY)
    whole = family.push(params, family.latent(KEY, 3))
    np.testing.assert_allclose(whole.weights, WEIGHTS)
    np.testing.assert_array_equal(whole.points, params)
    # Other numbers of points are drawn by the weights, one in each equal part of their sum.
    counts = np.bincount(family.latent(KEY, 40), minlength=3)
    assert np.all(np.abs(counts - 40 * WEIGHTS) <= 1)
    assert family.push(params, family.latent(KEY, 40)).weights is None


@pytest.mark.slow
@pytest.mark.parametrize("fixed_points", [False, True])
def test_learned_weights_find_those_of_the_target(fixed_points):
    line = array([[-1.0], [0.0], [2.0]])
    family = swjko.particles(line, learned_weights=True, fixed_points=fixed_points)
    scheme = swjko.sw_jko(
        family,
        swjko.sw_to_target(line, 1, weights=array(WEIGHTS)),
        optax.adam(0.1),
        step_size=10.0,
        num_inner_steps=150,
        num_samples=3,
        num_projections=1,
    )
    run = jax.jit(swjko.run, static_argnames=("num_steps", "record"))
    state, infos = run(KEY, scheme, scheme.init(KEY), num_steps=3, record=swjko.infos)
    cloud = swjko.sample(family, state.params, KEY, 3)
    moments = [np.sum(cloud.weights * cloud.points[:, 0] ** power) for power in (1, 2)]
    np.testing.assert_allclose(moments, [0.0, 1.5], atol=0.05)
    assert infos.energy[-1] < 0.03
    assert set(state.params) == ({"logits"} if fixed_points else {"logits", "points"})
    if fixed_points:
        np.testing.assert_allclose(cloud.weights, WEIGHTS, atol=0.02)
    drawn = np.bincount(
        np.searchsorted(
            np.sort(np.ravel(cloud.points)),
            np.ravel(swjko.sample(family, state.params, KEY, 40).points),
        ),
        minlength=3,
    )
    assert np.all(np.abs(drawn - 40 * np.asarray(cloud.weights)) <= 1.5)


def test_learned_weights_start_at_those_given():
    family = swjko.particles(array(DISTINCT), array(WEIGHTS), learned_weights=True)
    cloud = family.push(family.init(KEY), family.latent(KEY, 3))
    np.testing.assert_allclose(cloud.weights, WEIGHTS, rtol=1e-5)


BAD = {
    "fixed": (
        lambda: swjko.particles(array(DISTINCT), fixed_points=True),
        "learned_weights must be True if fixed_points is",
    ),
    "number": (
        lambda: swjko.particles(array(DISTINCT), learned_weights=True).latent(KEY, 2),
        "must be their number, 3; got 2",
    ),
    "sum": (
        lambda: swjko.sw_to_target(array(DISTINCT), 3, weights=2 * array(WEIGHTS)),
        r"weights must sum to one; got a sum of 2\. Divide by it",
    ),
    "count": (
        lambda: swjko.mmd_to_target(array(DISTINCT), kernel, weights=array(WEIGHTS[:2])),
        "weights must have one weight for each point",
    ),
    "flow": (
        lambda: swjko.sliced_flow(
            *2 * [array(DISTINCT)],
            step_size=0.1,
            num_projections=2,
            target_weights=-array(WEIGHTS),
        ),
        "target_weights must be finite and nonnegative",
    ),
    "pictures": (
        lambda: swjko.sw_to_target(jnp.zeros((5, 4, 4, 1)), 3),
        r"target must have rank 2.*target\.reshape\(len\(target\), -1\)",
    ),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("name", BAD)
def test_weights_and_samples_that_do_not_fit_are_refused(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.usefixtures("as_users_see_it")
def test_integers_and_trees_are_refused_with_the_cure():
    pictures = np.zeros((5, 4, 4, 1), np.uint8)
    message = r"dtype uint8\. Convert it first.*target\.reshape\(len\(target\), -1\)"
    with pytest.raises(TypeError, match=message):
        swjko.sw_to_target(pictures, 3)
    with pytest.raises(TypeError, match=r"points must be .*got dict.*ravel_pytree"):
        swjko.particles({"a": np.zeros(3)})
