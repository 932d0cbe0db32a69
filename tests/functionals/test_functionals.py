"""Each functional against a closed form or a double loop in NumPy, and what the pytree it is made of promises."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from helpers import FUNCTIONALS, central_difference, constant_bytes, random_weights
from jax.tree_util import Partial

import swjko
from swjko import Cloud
from swjko.functionals.energies import expectation, is_entropy_like, needs_density

KEY = jax.random.key(0)
TOLERANCE = 1e-10


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def cloud_of(seed=0, n=7, d=2, weighted=False, density=True):
    rng = np.random.default_rng(seed)
    weights = jnp.asarray(random_weights(rng, n)) if weighted else None
    return Cloud(
        jnp.asarray(rng.normal(size=(n, d))),
        weights,
        jnp.asarray(rng.normal(size=n)) if density else None,
    )


def apply(functional, key, cloud):
    return functional(key, cloud)


# Compiled whole: one operation after the other, nearly all of the time would be the compiler's.
jitted = jax.jit(apply)
jitted_sample = jax.jit(swjko.sample, static_argnums=3)


def masses(cloud):
    return (
        np.full(len(cloud.points), 1 / len(cloud.points))
        if cloud.weights is None
        else np.asarray(cloud.weights)
    )


def padded(cloud, filling):
    """Two points without weight, at the start and in the middle."""
    at = jnp.asarray([0, 4])
    points, log_density = (
        jnp.insert(array, at, filling, axis=0) for array in (cloud.points, cloud.log_density)
    )
    return Cloud(points, jnp.insert(jnp.asarray(masses(cloud)), at, 0.0), log_density)


def quartic(x):
    return jnp.sum(x**4) - x[0]


WEIGHTED = pytest.mark.parametrize("weighted", [False, True])


@WEIGHTED
def test_potential(weighted):
    cloud = cloud_of(weighted=weighted)
    points = np.asarray(cloud.points)
    expected = sum(
        mass * (np.sum(x**4) - x[0]) for mass, x in zip(masses(cloud), points, strict=True)
    )
    np.testing.assert_allclose(
        jitted(swjko.potential(quartic), KEY, cloud), expected, rtol=TOLERANCE
    )


@WEIGHTED
def test_negative_entropy(weighted):
    cloud = cloud_of(weighted=weighted)
    np.testing.assert_allclose(
        swjko.negative_entropy()(KEY, cloud),
        masses(cloud) @ np.asarray(cloud.log_density),
        rtol=TOLERANCE,
    )


def test_negative_entropy_of_a_gaussian():
    # -d/2 log(2 pi e) - log det F, by 100000 points: the standard deviation of a log-density is sqrt(d/2).
    family = swjko.gaussian(2, init_scale=1.5)
    cloud = jitted_sample(family, family.init(KEY), KEY, 100_000)
    expected = -np.log(2 * np.pi * np.e) - 2 * np.log(1.5)
    assert abs(float(swjko.negative_entropy()(KEY, cloud)) - expected) < 4 * 1.0 / np.sqrt(100_000)


@WEIGHTED
def test_kl_is_entropy_less_the_log_probability(weighted):
    cloud = cloud_of(weighted=weighted)
    log_prob = [-np.sum(np.asarray(x) ** 2) / 2 for x in cloud.points]
    expected = masses(cloud) @ (np.asarray(cloud.log_density) - np.asarray(log_prob))
    np.testing.assert_allclose(
        jitted(swjko.kl_divergence(lambda x: -jnp.sum(x**2) / 2), KEY, cloud),
        expected,
        rtol=TOLERANCE,
    )


def test_kl_between_gaussians():
    # KL(N(m, s^2 I) || N(0, I)) = (|m|^2 + d s^2 - d) / 2 - d log s, with the normalised density of the target.
    family = swjko.gaussian(2, init_mean=0.5, init_scale=1.5)
    cloud = jitted_sample(family, family.init(KEY), KEY, 100_000)
    values = (
        np.asarray(cloud.log_density)
        + np.sum(np.asarray(cloud.points) ** 2, axis=1) / 2
        + np.log(2 * np.pi)
    )
    kl = jitted(swjko.kl_divergence(lambda x: -jnp.sum(x**2) / 2 - np.log(2 * np.pi)), KEY, cloud)
    expected = (0.5 + 2 * 1.5**2 - 2) / 2 - 2 * np.log(1.5)
    assert abs(float(kl) - expected) < 4 * values.std() / np.sqrt(100_000)


def double_loop(w, cloud):
    points, mass = np.asarray(cloud.points), masses(cloud)
    pairs = [(i, j) for i in range(len(points)) for j in range(len(points)) if i != j]
    total = sum(mass[i] * mass[j] * w(points[i] - points[j]) for i, j in pairs)
    return total / sum(mass[i] * mass[j] for i, j in pairs) / 2


@WEIGHTED
@pytest.mark.parametrize("block_size", [None, 1, 3, 7, 50])
def test_interaction_and_its_blocks(weighted, block_size):
    cloud = cloud_of(weighted=weighted)

    def value(points):
        functional = swjko.interaction(lambda x: jnp.sum(x**2) ** 2 + x[0], block_size=block_size)
        return functional(KEY, cloud._replace(points=points))

    expected = double_loop(lambda x: np.sum(x**2) ** 2 + x[0], cloud)
    result, gradient = jax.jit(jax.value_and_grad(value))(cloud.points)
    np.testing.assert_allclose(result, expected, rtol=TOLERANCE)
    slope = central_difference(
        lambda points: double_loop(lambda x: np.sum(x**2) ** 2, cloud._replace(points=points)),
        cloud.points,
    )
    np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-6)


@WEIGHTED
@pytest.mark.parametrize("block_size", [None, 2])
def test_interaction_with_a_kernel_that_is_singular_at_zero(weighted, block_size):
    cloud = cloud_of(weighted=weighted)
    functional = swjko.interaction(lambda x: -jnp.log(jnp.linalg.norm(x)), block_size=block_size)

    def by_loop(points):
        return double_loop(lambda x: -np.log(np.linalg.norm(x)), cloud._replace(points=points))

    value, gradient = jax.jit(
        jax.value_and_grad(lambda points: functional(KEY, cloud._replace(points=points)))
    )(cloud.points)
    np.testing.assert_allclose(value, by_loop(np.asarray(cloud.points)), rtol=TOLERANCE)
    np.testing.assert_allclose(
        gradient, central_difference(by_loop, cloud.points), rtol=1e-6, atol=1e-6
    )


@WEIGHTED
@pytest.mark.parametrize("block_size", [None, 2])
def test_interaction_of_all_pairs(weighted, block_size):
    cloud = cloud_of(weighted=weighted)
    mass, points = masses(cloud), np.asarray(cloud.points)
    functional = swjko.interaction(
        lambda x: jnp.cos(x[0]) + jnp.sum(x**2), self_pairs=True, block_size=block_size
    )
    differences = points[:, None] - points[None, :]
    expected = mass @ (np.cos(differences[..., 0]) + np.sum(differences**2, axis=-1)) @ mass / 2
    np.testing.assert_allclose(jitted(functional, KEY, cloud), expected, rtol=TOLERANCE)
    assert float(jitted(functional, KEY, Cloud(cloud.points[:1]))) == 0.5


def test_interaction_is_unbiased():
    # W = |x|^2 on independent points of N(0, I): 1/2 E |x - y|^2 = d, with no 1/n from the diagonal.
    points = jax.random.normal(KEY, (20_000, 5, 2))
    functional = swjko.interaction(lambda x: jnp.sum(x**2))
    values = np.asarray(jax.jit(jax.vmap(lambda points: functional(KEY, Cloud(points))))(points))
    assert abs(values.mean() - 2.0) < 4 * values.std() / np.sqrt(20_000)


@pytest.mark.parametrize("filling", [1e6, np.nan])
@pytest.mark.parametrize("name", [name for name in FUNCTIONALS if name != "interaction"])
def test_points_without_weight_do_not_count(name, filling):
    cloud = cloud_of(weighted=True)
    functional = FUNCTIONALS[name]()
    value = jax.jit(lambda cloud: functional(KEY, cloud))
    np.testing.assert_allclose(value(padded(cloud, filling)), value(cloud), rtol=1e-9)


@pytest.mark.parametrize("filling", [0.0, 50.0])
@pytest.mark.parametrize("block_size", [None, 2])
def test_points_without_weight_do_not_interact(filling, block_size):
    cloud = cloud_of(weighted=True)
    functional = swjko.interaction(lambda x: jnp.sum(x**2) ** 2, block_size=block_size)
    value_and_grad = jax.jit(
        jax.value_and_grad(lambda points, cloud: functional(KEY, cloud._replace(points=points)))
    )
    value, gradient = value_and_grad(cloud.points, cloud)
    wide = padded(cloud, filling)
    wide_value, wide_gradient = value_and_grad(wide.points, wide)
    np.testing.assert_allclose(wide_value, value, rtol=1e-9)
    kept = np.asarray(wide.weights) > 0
    np.testing.assert_allclose(wide_gradient[kept], gradient, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(wide_gradient[~kept], 0.0)


def test_expectation_divides_by_the_total_weight():
    cloud = cloud_of(weighted=True)
    doubled = cloud._replace(weights=2.0 * cloud.weights)
    np.testing.assert_allclose(
        expectation(doubled, cloud.log_density), expectation(cloud, cloud.log_density), rtol=1e-14
    )


class TestSWToTarget:
    @WEIGHTED
    def test_half_the_squared_distance(self, weighted):
        cloud, target = cloud_of(weighted=weighted), cloud_of(1, n=5).points + 1.0
        drawn = []

        def direction_fn(key, num, dim):
            drawn.append(np.asarray(swjko.uniform_directions(key, num, dim)))
            return jnp.asarray(drawn[-1])

        value = swjko.sw_to_target(target, 9, direction_fn=direction_fn)(KEY, cloud)
        (directions,) = drawn
        assert directions.shape == (9, 2)
        points, target = np.asarray(cloud.points), np.asarray(target)
        costs = [
            ot.wasserstein_1d(points @ theta, target @ theta, masses(cloud), None, p=2)
            for theta in directions
        ]
        np.testing.assert_allclose(value, np.mean(costs) / 2, rtol=TOLERANCE)

    def test_a_batch_is_drawn_without_replacement(self):
        # The functional of one fixed point in one dimension tells which targets were drawn: powers of two have distinct sums.
        target = jnp.asarray(2.0 ** np.arange(6))[:, None]
        sums = {
            sum(4.0**i for i in chosen) / 2: chosen
            for chosen in [(i, j) for i in range(6) for j in range(i)]
        }
        functional = swjko.sw_to_target(target, 1, batch_size=2)
        cloud = Cloud(jnp.zeros((1, 1)))
        values = np.asarray(
            jax.jit(jax.vmap(lambda key: functional(key, cloud)))(jax.random.split(KEY, 600))
        )
        seen = {round(2 * float(value), 6) for value in values}
        assert seen == {round(total, 6) for total in sums}
        # A pair has probability 1/15 here; with replacement six more values of equal points would appear.
        assert abs(
            np.mean(values) - np.mean(np.asarray(target) ** 2) / 2
        ) < 4 * values.std() / np.sqrt(600)

    def test_a_batch_of_all_points_is_the_target(self):
        target = cloud_of(1, n=5).points
        cloud = cloud_of()
        whole, all_drawn = (
            swjko.sw_to_target(target, 4),
            swjko.sw_to_target(target, 4, batch_size=5),
        )
        np.testing.assert_allclose(
            jitted(all_drawn, KEY, cloud), jitted(whole, KEY, cloud), rtol=TOLERANCE
        )

    def test_fresh_directions_at_each_key(self):
        functional, cloud = swjko.sw_to_target(cloud_of(1).points, 2), cloud_of()
        assert float(jitted(functional, KEY, cloud)) == float(jitted(functional, KEY, cloud))
        assert float(jitted(functional, KEY, cloud)) != float(
            jitted(functional, jax.random.key(1), cloud)
        )


class TestWeightedSum:
    def test_value(self):
        cloud = cloud_of()
        functional = swjko.weighted_sum(
            (0.5, swjko.potential(quartic)), (-2.0, swjko.negative_entropy())
        )
        expected = np.mean(
            [0.5 * (np.sum(np.asarray(x) ** 4) - float(x[0])) for x in cloud.points]
        ) - 2.0 * np.mean(cloud.log_density)
        np.testing.assert_allclose(jitted(functional, KEY, cloud), expected, rtol=TOLERANCE)

    def test_terms_have_different_keys_and_the_same_cloud(self):
        seen = []

        def spy(key, cloud):
            seen.append((np.asarray(jax.random.key_data(key)).tolist(), cloud))
            return jnp.zeros(())

        cloud = cloud_of()
        swjko.weighted_sum((1.0, spy), (1.0, spy))(KEY, cloud)
        (first_key, first_cloud), (second_key, second_cloud) = seen
        assert first_key != second_key
        assert first_cloud is second_cloud is cloud

    def test_coefficients_are_leaves_with_gradients(self):
        cloud, functional = (
            cloud_of(),
            swjko.weighted_sum((0.5, swjko.potential(quartic)), (2.0, swjko.potential(jnp.sum))),
        )
        gradient = jax.jit(jax.grad(lambda functional: functional(KEY, cloud)))(functional)
        expected = [
            np.mean([float(quartic(x)) for x in cloud.points]),
            np.mean(np.sum(np.asarray(cloud.points), 1)),
        ]
        np.testing.assert_allclose(gradient.coefs, expected, rtol=TOLERANCE)

    def test_float32_clouds_stay_float32(self):
        points = jnp.ones((3, 2), jnp.float32)
        assert (
            swjko.weighted_sum((0.5, swjko.potential(jnp.sum)))(KEY, Cloud(points)).dtype
            == jnp.float32
        )


def test_who_needs_a_density():
    expected = {
        name: name in ("internal_energy", "negative_entropy", "kl_divergence")
        for name in FUNCTIONALS
    }
    assert {name: needs_density(make()) for name, make in FUNCTIONALS.items()} == expected

    def own(key, cloud):
        return jnp.mean(cloud.log_density)

    assert not needs_density(own)
    own.needs_density = True
    assert needs_density(own)
    assert needs_density(Partial(own))
    assert needs_density(swjko.weighted_sum((1.0, swjko.potential(jnp.sum)), (1.0, own)))
    assert needs_density(
        swjko.weighted_sum((1.0, swjko.weighted_sum((1.0, swjko.negative_entropy()))))
    )


def test_who_is_entropy_like():
    assert {name for name, make in FUNCTIONALS.items() if not is_entropy_like(make())} == {
        "internal_energy"
    }
    renyi = swjko.internal_energy(lambda r: r**2)
    assert not is_entropy_like(swjko.weighted_sum((1.0, swjko.negative_entropy()), (1.0, renyi)))

    def own(key, cloud):
        return 2.0 * jnp.mean(cloud.log_density)

    assert is_entropy_like(own)
    own.needs_density = True
    assert not is_entropy_like(own)
    own.entropy_like = True
    assert is_entropy_like(Partial(own))


@pytest.mark.parametrize("power", [1.5, 2.0, 3.0])
def test_internal_energy_of_a_gaussian(power):
    """int rho^m of N(0, S) is (2 pi)^{d (1 - m) / 2} det(S)^{(1 - m) / 2} m^{-d / 2}."""
    family = swjko.gaussian(2, init_mean=1.0, init_scale=jnp.array([0.5, 2.0]))
    cloud = jitted_sample(family, family.init(KEY), KEY, 100_000)
    exact = (2 * np.pi) ** (1 - power) / power
    values = np.exp((power - 1) * np.asarray(cloud.log_density))
    estimate = jitted(swjko.internal_energy(lambda r: r**power), KEY, cloud)
    assert abs(float(estimate) - exact) < 4 * values.std() / np.sqrt(100_000)


def test_internal_energy_of_r_log_r_is_the_negative_entropy():
    cloud = cloud_of()
    value = jitted(swjko.internal_energy(lambda r: r * jnp.log(r)), KEY, cloud)
    np.testing.assert_allclose(value, swjko.negative_entropy()(KEY, cloud), rtol=1e-5)


def test_internal_energy_where_the_density_underflows():
    functional = swjko.internal_energy(lambda r: r**2)
    value_and_grad = jax.jit(
        jax.value_and_grad(lambda far: functional(KEY, Cloud(jnp.zeros((2, 1)), None, far)))
    )
    value, gradient = value_and_grad(jnp.array([-1e4, -1.0]))
    np.testing.assert_allclose(value, np.exp(-1.0) / 2, rtol=1e-5)
    assert bool(jnp.all(jnp.isfinite(gradient)))


@pytest.mark.parametrize("name", ["internal_energy", "negative_entropy", "kl_divergence"])
def test_a_cloud_without_density_is_refused(name):
    refusing = "internal_energy" if name == "internal_energy" else "negative_entropy"
    with pytest.raises(
        ValueError, match=rf"{refusing} needs the density of the measure.*swjko\.gaussian"
    ):
        FUNCTIONALS[name]()(KEY, cloud_of(density=False))


@pytest.mark.parametrize("block_size", [None, 3])
def test_mmd_against_all_pairs(block_size):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 2)), rng.normal(size=(5, 2)) + 1.0

    def energies(a, b):
        return np.exp(-np.sum((a[:, None] - b[None]) ** 2, axis=-1) / 2)

    def without_diagonal(matrix):
        return (matrix.sum() - np.trace(matrix)) / (len(matrix) * (len(matrix) - 1))

    expected = (
        without_diagonal(energies(x, x)) / 2
        - energies(x, y).mean()
        + without_diagonal(energies(y, y)) / 2
    )
    functional = swjko.mmd_to_target(
        jnp.asarray(y, float), lambda x: jnp.exp(-jnp.sum(x**2) / 2), block_size=block_size
    )
    value_and_grad = jax.jit(jax.value_and_grad(lambda points: functional(KEY, Cloud(points))))
    value, gradient = value_and_grad(jnp.asarray(x, float))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    shift = np.array([1e-3, 0.0])
    numeric = (
        value_and_grad(jnp.asarray(x + shift, float))[0]
        - value_and_grad(jnp.asarray(x - shift, float))[0]
    ) / 2e-3
    np.testing.assert_allclose(gradient[:, 0].sum(), numeric, rtol=2e-3)


def test_mmd_needs_two_points_of_the_target():
    with pytest.raises(ValueError, match="target must hold at least two points"):
        swjko.mmd_to_target(jnp.ones((1, 2)), jnp.sum)


def test_one_point_does_not_interact():
    with pytest.raises(ValueError, match="interaction needs at least two points"):
        swjko.interaction(jnp.sum)(KEY, cloud_of(n=1))


@pytest.mark.parametrize(("make", "name"), [(swjko.potential, "v"), (swjko.interaction, "w")])
def test_a_function_of_the_wrong_shape_is_named(make, name):
    with pytest.raises(
        ValueError,
        match=rf"{name} must map one point of shape \(2,\) to a scalar; it returned shape \(2,\)",
    ):
        make(lambda x: x)(KEY, cloud_of())


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_under_jit_and_vmap(name):
    functional = FUNCTIONALS[name]()
    clouds = [cloud_of(seed, weighted=True) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *clouds)
    keys = jax.random.split(KEY, 3)
    batched = jax.jit(jax.vmap(apply, in_axes=(None, 0, 0)))(functional, keys, stacked)
    looped = [jitted(functional, key, cloud) for key, cloud in zip(keys, clouds, strict=True)]
    np.testing.assert_allclose(batched, looped, rtol=1e-12)


def data_potential(data, x):
    return jnp.mean(jnp.sum((x[None, :] - data) ** 2, axis=1))


def test_bound_data_are_leaves_and_do_not_retrace():
    value = jax.jit(chex.assert_max_traces(apply, n=1))
    cloud = cloud_of()
    for seed in range(4):
        data = jnp.asarray(np.random.default_rng(seed).normal(size=(400, 2)))
        functional = swjko.weighted_sum(
            (1.0 + seed, swjko.potential(Partial(data_potential, data))),
            (0.0, swjko.sw_to_target(data, 3)),
        )
        assert [leaf.shape for leaf in jax.tree.leaves(functional)].count(data.shape) == 2
        expected = (1.0 + seed) * np.mean([float(data_potential(data, x)) for x in cloud.points])
        np.testing.assert_allclose(value(functional, KEY, cloud), expected, rtol=1e-9)
    assert max(constant_bytes(apply, functional, KEY, cloud), default=0) <= 1024


def test_bound_data_have_gradients():
    cloud = cloud_of()
    data = jnp.asarray(np.random.default_rng(3).normal(size=(4, 2)))
    gradient = jax.jit(
        jax.grad(lambda data: swjko.potential(Partial(data_potential, data))(KEY, cloud))
    )(data)
    expected = central_difference(
        lambda data: np.mean([float(data_potential(data, x)) for x in cloud.points]), data
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)


def test_functionals_are_hashable_structures():
    # Two made alike from one function have one structure, so a jitted run meets the same program.
    make = functools.partial(swjko.interaction, quartic, block_size=3)
    assert jax.tree.structure(make()) == jax.tree.structure(make())
    assert jax.tree.structure(make()) != jax.tree.structure(
        swjko.interaction(quartic, block_size=4)
    )
