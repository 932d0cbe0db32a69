"""Functionals against closed forms or double loops in NumPy, and as pytrees."""

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
from swjko.functionals.base import expectation, is_entropy_like, needs_density

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


# One program each: compiling the operations one by one would take nearly all of the time.
jitted = jax.jit(apply)
jitted_sample = jax.jit(swjko.sample, static_argnums=3)


def masses(cloud):
    n = len(cloud.points)
    return np.full(n, 1 / n) if cloud.weights is None else np.asarray(cloud.weights)


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
@pytest.mark.parametrize(
    ("functional", "integrand"),
    [
        (swjko.potential(quartic), lambda x, log_density: np.sum(x**4) - x[0]),
        (swjko.negative_entropy(), lambda x, log_density: log_density),
        (FUNCTIONALS["kl_divergence"](), lambda x, log_density: log_density + np.sum(x**2) / 2),
    ],
    ids=["potential", "negative_entropy", "kl_divergence"],
)
def test_mean_of_an_integrand(functional, integrand, weighted):
    cloud = cloud_of(weighted=weighted)
    values = map(integrand, np.asarray(cloud.points), np.asarray(cloud.log_density))
    expected = masses(cloud) @ list(values)
    np.testing.assert_allclose(jitted(functional, KEY, cloud), expected, rtol=TOLERANCE)


def test_negative_entropy_of_a_gaussian():
    # -d/2 log(2 pi e) - log det F. The standard deviation of a log-density is sqrt(d/2).
    family = swjko.gaussian(2, init_scale=1.5)
    cloud = jitted_sample(family, family.init(KEY), KEY, 100_000)
    expected = -np.log(2 * np.pi * np.e) - 2 * np.log(1.5)
    assert abs(float(swjko.negative_entropy()(KEY, cloud)) - expected) < 4 * 1.0 / np.sqrt(100_000)


def test_kl_between_gaussians():
    # KL(N(m, s^2 I) || N(0, I)) = (|m|^2 + d s^2 - d) / 2 - d log s.
    family = swjko.gaussian(2, init_mean=0.5, init_scale=1.5)
    cloud = jitted_sample(family, family.init(KEY), KEY, 100_000)
    squares = np.sum(np.asarray(cloud.points) ** 2, axis=1)
    values = np.asarray(cloud.log_density) + squares / 2 + np.log(2 * np.pi)
    kl = jitted(swjko.kl_divergence(lambda x: -jnp.sum(x**2) / 2 - np.log(2 * np.pi)), KEY, cloud)
    expected = (0.5 + 2 * 1.5**2 - 2) / 2 - 2 * np.log(1.5)
    assert abs(float(kl) - expected) < 4 * values.std() / np.sqrt(100_000)


def double_loop(w, cloud):
    points, mass = np.asarray(cloud.points), masses(cloud)
    pairs = [(i, j) for i in range(len(points)) for j in range(len(points)) if i != j]
    total = sum(mass[i] * mass[j] * w(points[i] - points[j]) for i, j in pairs)
    return total / sum(mass[i] * mass[j] for i, j in pairs) / 2


KERNELS = {
    "smooth": lambda x, xp: xp.sum(x**2) ** 2 + xp.cos(x[0]),
    "singular at zero": lambda x, xp: -xp.log(xp.linalg.norm(x)),
}


@WEIGHTED
@pytest.mark.parametrize(
    ("kernel", "block_size"),
    [
        *(("smooth", size) for size in (None, 1, 3, 7, 50)),
        *(("singular at zero", s) for s in (None, 2)),
    ],
)
def test_interaction_and_its_blocks(kernel, block_size, weighted):
    cloud, w = cloud_of(weighted=weighted), KERNELS[kernel]
    functional = swjko.interaction(lambda x: w(x, jnp), block_size=block_size)

    def value(points):
        return functional(KEY, cloud._replace(points=points))

    def by_loop(points):
        return double_loop(lambda x: w(x, np), cloud._replace(points=points))

    result, gradient = jax.jit(jax.value_and_grad(value))(cloud.points)
    np.testing.assert_allclose(result, by_loop(np.asarray(cloud.points)), rtol=TOLERANCE)
    slope = central_difference(by_loop, cloud.points)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-6)


def test_the_odd_part_of_a_kernel_does_not_count():
    cloud = cloud_of()
    odd = jitted(swjko.interaction(lambda x: jnp.sum(x**2) + x[0]), KEY, cloud)
    even = jitted(swjko.interaction(lambda x: jnp.sum(x**2)), KEY, cloud)
    np.testing.assert_allclose(odd, even, rtol=TOLERANCE)


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
    # W = |x|^2 and points of N(0, I): 1/2 E |x - y|^2 = d, without 1/n from the diagonal.
    points = jax.random.normal(KEY, (20_000, 5, 2))
    functional = swjko.interaction(lambda x: jnp.sum(x**2))
    values = np.asarray(jax.jit(jax.vmap(lambda points: functional(KEY, Cloud(points))))(points))
    assert abs(values.mean() - 2.0) < 4 * values.std() / np.sqrt(20_000)


def distances_of(x, y):
    return np.linalg.norm(x[:, None] - y[None], axis=-1)


@pytest.mark.slow
@WEIGHTED
@pytest.mark.parametrize("power", [1.0, 0.5, 1.5])
@pytest.mark.parametrize(("self_pairs", "block_size"), [(True, None), (True, 2), (False, None)])
def test_kernels_without_a_derivative_at_zero(power, self_pairs, block_size, weighted):
    # Points 1 and 4 coincide too: W(0) is a constant there as on the diagonal.
    cloud = cloud_of(weighted=weighted)
    cloud = cloud._replace(points=cloud.points.at[4].set(cloud.points[1]))
    mass = masses(cloud)
    total = 1.0 if self_pairs else 1.0 - np.sum(mass**2)
    functional = swjko.interaction(
        lambda x: jnp.linalg.norm(x) ** power, self_pairs=self_pairs, block_size=block_size
    )

    def value(points):
        return functional(KEY, cloud._replace(points=points))

    points = np.asarray(cloud.points)
    found, gradient = jax.jit(jax.value_and_grad(value))(cloud.points)
    distance = distances_of(points, points)
    np.testing.assert_allclose(found, mass @ distance**power @ mass / total / 2, rtol=TOLERANCE)
    slope = power * np.where(distance > 0, distance, 1.0) ** (power - 2.0) * (distance > 0)
    forces = slope[:, :, None] * (points[:, None] - points[None])
    expected = mass[:, None] * np.einsum("j,ijk->ik", mass, forces) / total
    np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-12)
    # Forward mode, and derivatives in the weights where W(0) is infinite.
    _, change = jax.jvp(value, (cloud.points,), (cloud.points,))
    np.testing.assert_allclose(change, np.sum(expected * points), rtol=1e-9)
    own = swjko.interaction(lambda x: -jnp.log(jnp.linalg.norm(x)), block_size=block_size)
    apart = cloud_of(weighted=True)
    by_weight = jax.grad(lambda weights: own(KEY, apart._replace(weights=weights)))
    assert np.all(np.isfinite(by_weight(apart.weights)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "by_hand"),
    [
        (lambda a, x: jnp.linalg.norm(a * x), lambda a, r: r),
        (lambda a, x: jnp.linalg.norm(a * x) ** 0.5, lambda a, r: 0.5 * np.sqrt(r / a)),
        (lambda a, x: a * jnp.exp(-jnp.sum(x**2)), lambda a, r: np.exp(-(r**2))),
        # Infinite at zero, so only for pairs of different points.
        (lambda a, x: -a * jnp.log(jnp.sum(x**2)), lambda a, r: -2 * np.log(r)),
        (lambda a, x: a / jnp.sum(x**2) ** 2, lambda a, r: r**-4.0),
    ],
)
def test_derivatives_in_bound_data_of_kernels_at_zero(kernel, by_hand):
    points, at_zero = cloud_of().points, kernel(2.0, jnp.zeros(2))
    n = len(points)
    with np.errstate(divide="ignore"):
        slopes = by_hand(2.0, distances_of(points, points))
    for self_pairs in (False, True) if np.isfinite(at_zero) else (False,):

        def value(a, self_pairs=self_pairs):
            return swjko.interaction(Partial(kernel, a), self_pairs=self_pairs)(KEY, Cloud(points))

        total = np.where(np.eye(n) > 0, slopes if self_pairs else 0.0, slopes).sum()
        expected = total / (n**2 if self_pairs else n * (n - 1)) / 2
        np.testing.assert_allclose(jax.grad(value)(2.0), expected, rtol=1e-10)
        np.testing.assert_allclose(jax.jvp(value, (2.0,), (1.0,))[1], expected, rtol=1e-10)


@pytest.mark.slow
def test_derivatives_in_bound_data_of_an_mmd_with_a_point_on_the_target():
    points = cloud_of().points

    def value(a):
        kernel = Partial(lambda a, x: -jnp.linalg.norm(a * x), a)
        return swjko.mmd_to_target(points[:4], kernel)(KEY, Cloud(points))

    # It is proportional to a.
    np.testing.assert_allclose(jax.grad(value)(2.0), value(1.0), rtol=1e-10)


def test_the_energy_distance_and_a_point_on_the_target():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(5, 2))
    x = np.concatenate([rng.normal(size=(3, 2)), y[:2]])

    def without_diagonal(matrix):
        return matrix.sum() / (len(matrix) * (len(matrix) - 1))

    functional = swjko.mmd_to_target(jnp.asarray(y), lambda x: -jnp.linalg.norm(x))
    value_and_grad = jax.jit(jax.value_and_grad(lambda points: functional(KEY, Cloud(points))))
    value, gradient = value_and_grad(jnp.asarray(x))
    own = without_diagonal(distances_of(x, x)) + without_diagonal(distances_of(y, y))
    np.testing.assert_allclose(value, distances_of(x, y).mean() - own / 2, rtol=1e-10)

    def pulls(a, b):
        units = (a[:, None] - b[None]) / np.maximum(distances_of(a, b), 1e-9)[:, :, None]
        return units.sum(axis=1)

    expected = pulls(x, y) / 25 - pulls(x, x) / 20
    np.testing.assert_allclose(gradient, expected, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("filling", [1e6, np.nan])
@pytest.mark.parametrize("name", [name for name in FUNCTIONALS if name != "interaction"])
def test_points_without_weight_do_not_count(name, filling):
    cloud = cloud_of(weighted=True)
    functional = FUNCTIONALS[name]()
    value = jax.jit(lambda cloud: functional(KEY, cloud))
    np.testing.assert_allclose(value(padded(cloud, filling)), value(cloud), rtol=1e-9)


@pytest.mark.slow
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


@pytest.mark.slow_except_first
@WEIGHTED
def test_sw_to_target_half_the_squared_distance(weighted):
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


def test_sw_to_target_a_batch_is_drawn_without_replacement():
    # The value for one point in one dimension shows which targets were drawn, since powers of two
    # have distinct sums.
    target = jnp.asarray(2.0 ** np.arange(6))[:, None]
    sums = {(4.0**i + 4.0**j) / 2 for i in range(6) for j in range(i)}
    functional = swjko.sw_to_target(target, 1, batch_size=2)
    cloud = Cloud(jnp.zeros((1, 1)))
    values = np.asarray(
        jax.jit(jax.vmap(lambda key: functional(key, cloud)))(jax.random.split(KEY, 600))
    )
    seen = {round(2 * float(value), 6) for value in values}
    assert seen == {round(total, 6) for total in sums}
    # Each pair has probability 1/15. With replacement, six values of equal pairs would appear.
    error = np.mean(values) - np.mean(np.asarray(target) ** 2) / 2
    assert abs(error) < 4 * values.std() / np.sqrt(600)


def test_sw_to_target_a_batch_of_all_points_is_the_target():
    target, cloud = cloud_of(1, n=5).points, cloud_of()
    whole = jitted(swjko.sw_to_target(target, 4), KEY, cloud)
    drawn = jitted(swjko.sw_to_target(target, 4, batch_size=5), KEY, cloud)
    np.testing.assert_allclose(drawn, whole, rtol=TOLERANCE)


def test_sw_to_target_fresh_directions_at_each_key():
    functional, cloud = swjko.sw_to_target(cloud_of(1).points, 2), cloud_of()
    value = float(jitted(functional, KEY, cloud))
    assert float(jitted(functional, KEY, cloud)) == value
    assert float(jitted(functional, jax.random.key(1), cloud)) != value


def test_weighted_sum_value():
    cloud = cloud_of()
    functional = swjko.weighted_sum(
        (0.5, swjko.potential(quartic)), (-2.0, swjko.negative_entropy())
    )
    points = np.asarray(cloud.points)
    quartics = np.sum(points**4, axis=1) - points[:, 0]
    expected = 0.5 * quartics.mean() - 2.0 * np.mean(cloud.log_density)
    np.testing.assert_allclose(jitted(functional, KEY, cloud), expected, rtol=TOLERANCE)


def test_weighted_sum_terms_have_different_keys_and_the_same_cloud():
    seen = []

    def spy(key, cloud):
        seen.append((np.asarray(jax.random.key_data(key)).tolist(), cloud))
        return jnp.zeros(())

    cloud = cloud_of()
    swjko.weighted_sum((1.0, spy), (1.0, spy))(KEY, cloud)
    (first_key, first_cloud), (second_key, second_cloud) = seen
    assert first_key != second_key
    assert first_cloud is second_cloud is cloud


def test_weighted_sum_coefficients_are_leaves_with_gradients():
    cloud = cloud_of()
    terms = (0.5, swjko.potential(quartic)), (2.0, swjko.potential(jnp.sum))
    functional = swjko.weighted_sum(*terms)
    gradient = jax.jit(jax.grad(lambda functional: functional(KEY, cloud)))(functional)
    expected = [
        np.mean([float(quartic(x)) for x in cloud.points]),
        np.mean(np.sum(np.asarray(cloud.points), 1)),
    ]
    np.testing.assert_allclose(gradient.coefs, expected, rtol=TOLERANCE)


def test_weighted_sum_float32_clouds_stay_float32():
    cloud = Cloud(jnp.ones((3, 2), jnp.float32))
    assert swjko.weighted_sum((0.5, swjko.potential(jnp.sum)))(KEY, cloud).dtype == jnp.float32


def test_who_needs_a_density():
    assert {name for name, make in FUNCTIONALS.items() if needs_density(make())} == {
        "internal_energy",
        "negative_entropy",
        "kl_divergence",
    }

    def own(key, cloud):
        return jnp.mean(cloud.log_density)

    assert not needs_density(own)
    own.needs_density = True
    assert needs_density(own)
    assert needs_density(Partial(own))
    assert needs_density(swjko.weighted_sum((1.0, swjko.potential(jnp.sum)), (1.0, own)))
    nested = swjko.weighted_sum((1.0, swjko.weighted_sum((1.0, swjko.negative_entropy()))))
    assert needs_density(nested)


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


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize(
    ("f", "ratio"),
    [
        (lambda r: r * jnp.log(r), lambda log: log),
        (lambda r: -2.0 * jnp.sqrt(r), lambda log: -2.0 * np.exp(-0.5 * log)),
        (lambda r: r**0.9 / -0.1, lambda log: np.exp(-0.1 * log) / -0.1),
        (lambda r: r**2, np.exp),
        (lambda r: r**3, lambda log: np.exp(2 * log)),
        (lambda r: r * jnp.log(r) + r**2, lambda log: log + np.exp(log)),
    ],
)
def test_internal_energy_of_densities_below_the_smallest_float(f, ratio, x64):
    """f(r) / r and its derivative in log r, on both sides of the square root of the smallest."""
    with jax.enable_x64(x64):
        least = 0.5 * np.log(float(jnp.finfo(jnp.zeros(()).dtype).tiny))
        logs = jnp.asarray([-1.0, 0.9 * least, least, 1.1 * least, 2.5 * least])
        functional = swjko.internal_energy(f)

        def total(logs):
            return 5 * functional(KEY, Cloud(jnp.zeros((5, 1), logs.dtype), None, logs))

        gradient = jax.jit(jax.grad(total))(logs)
        one = jax.jit(jax.vmap(lambda log: total(log * jnp.ones(5)) / 5))(logs)
    logs = np.asarray(logs, float)
    rtol = 1e-9 if x64 else 5e-4
    slope = (ratio(logs + 1e-4) - ratio(logs - 1e-4)) / 2e-4
    np.testing.assert_allclose(one, ratio(logs), rtol=rtol, atol=1e-30)
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-30)


@pytest.mark.parametrize("block_size", [None, 3])
def test_mmd_against_all_pairs(block_size):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 2)), rng.normal(size=(5, 2)) + 1.0

    def energies(a, b):
        return np.exp(-np.sum((a[:, None] - b[None]) ** 2, axis=-1) / 2)

    def without_diagonal(matrix):
        return (matrix.sum() - np.trace(matrix)) / (len(matrix) * (len(matrix) - 1))

    own = without_diagonal(energies(x, x)) + without_diagonal(energies(y, y))
    expected = own / 2 - energies(x, y).mean()
    functional = swjko.mmd_to_target(
        jnp.asarray(y, float), lambda x: jnp.exp(-jnp.sum(x**2) / 2), block_size=block_size
    )
    value_and_grad = jax.jit(jax.value_and_grad(lambda points: functional(KEY, Cloud(points))))
    value, gradient = value_and_grad(jnp.asarray(x, float))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    slope = central_difference(lambda x: value_and_grad(jnp.asarray(x))[0], x)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-8)


NO_DENSITY = r"{} needs the density of the measure.*swjko\.gaussian"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: swjko.mmd_to_target(jnp.ones((1, 2)), jnp.sum), "target` must hold at least two"),
        (lambda: swjko.interaction(jnp.sum)(KEY, cloud_of(n=1)), "needs at least two points"),
        (
            lambda: swjko.potential(jnp.abs)(KEY, cloud_of()),
            r"v` must map .*\(2,\) to a scalar; got",
        ),
        (lambda: swjko.interaction(jnp.abs)(KEY, cloud_of()), r"w` must map .* to a scalar; got"),
        *(
            (
                lambda name=name: FUNCTIONALS[name]()(KEY, cloud_of(density=False)),
                NO_DENSITY.format(by),
            )
            for name, by in (
                ("internal_energy", "internal_energy"),
                ("negative_entropy", "negative_entropy"),
                ("kl_divergence", "negative_entropy"),
            )
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


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

    def value(data):
        return swjko.potential(Partial(data_potential, data))(KEY, cloud)

    gradient = jax.jit(jax.grad(value))(data)
    expected = central_difference(jax.jit(value), data)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)


def test_functionals_are_hashable_structures():
    # Two made alike from one function have one structure, so a jitted run meets the same program.
    make = functools.partial(swjko.interaction, quartic, block_size=3)
    assert jax.tree.structure(make()) == jax.tree.structure(make())
    assert jax.tree.structure(make()) != jax.tree.structure(
        swjko.interaction(quartic, block_size=4)
    )
