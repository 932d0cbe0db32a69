"""Steps of particles along functionals and drifts: pair sums by hand, exact laws, bad input."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import axes_of, central_difference, jitted_run, random_weights
from jax.tree_util import Partial

import swjko

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(7, 2))
TARGET = RNG.normal(size=(5, 2)) + 1.0
SCALES = np.array([0.7, 1.6])
WIDTH = 0.8


def log_prob(scales, x):
    return -0.5 * jnp.sum((x / scales) ** 2)


def target():
    return Partial(log_prob, jnp.asarray(SCALES, float))


def inverse_multiquadric(u):
    return (1 + u) ** -0.5


# The drifts, in blocks that do not divide the number of points.
DRIFTS = {
    "svgd": lambda **more: swjko.svgd(target(), block_size=3, **more),
    "kernel_density": lambda **more: swjko.kernel_density_drift(target(), block_size=2, **more),
    "mmd": lambda **more: swjko.mmd_drift(jnp.asarray(TARGET, float), block_size=4, **more),
    "kdrw": lambda **more: swjko.radon_wasserstein(target(), 6, **more),
    "rrw": lambda **more: swjko.radon_wasserstein(target(), 6, regularized=True, **more),
}
FUNCTIONALS = {
    "ksd": lambda: swjko.ksd_to_target(target(), bandwidth=WIDTH, block_size=3),
    "potential": lambda: swjko.potential(lambda x: jnp.sum(x**4)),
}


def flow(points=POINTS, functional=None, **options):
    points = jnp.asarray(points, float)
    return swjko.particle_flow(points, functional, **({"step_size": 0.1} | options))


def pairs(x, y, profile=lambda u: np.exp(-u / 2)):
    return profile(np.sum((x[:, None] - y[None]) ** 2, axis=-1) / WIDTH**2)


def pair_slopes(x, y):
    """Gradients in x of the Gaussian kernel, [n m d]."""
    return -pairs(x, y)[:, :, None] * (x[:, None] - y[None]) / WIDTH**2


def velocity_of(drift, points=POINTS, weights=None, key=None):
    cloud = swjko.Cloud(jnp.asarray(points), None if weights is None else jnp.asarray(weights))
    return np.asarray(drift(jax.random.key(3) if key is None else key, cloud))


@pytest.mark.slow
def test_drifts_are_their_sums_over_pairs():
    with jax.enable_x64(True):
        scores, n = -POINTS / SCALES**2, len(POINTS)
        slopes = pair_slopes(POINTS, POINTS)
        expected = {
            "svgd": (pairs(POINTS, POINTS) @ scores - slopes.sum(1)) / n,
            "kernel_density": scores - slopes.sum(1) / pairs(POINTS, POINTS).sum(1)[:, None],
            "mmd": pair_slopes(POINTS, TARGET).mean(1) - slopes.mean(1),
        }
        for name, velocity in expected.items():
            found = velocity_of(DRIFTS[name](bandwidth=WIDTH))
            np.testing.assert_allclose(found, velocity, rtol=1e-12, atol=1e-12, err_msg=name)


def test_median_rule_makes_the_kernel_small_at_the_median_distance():
    with jax.enable_x64(True):
        points = jnp.asarray([[0.0, 0.0], [3.0, 4.0]])
        kernel = swjko.svgd(target()).kernel
        found = float(kernel.width(jax.random.key(0), points))
    assert np.exp(-(5.0**2) / (2 * found**2)) == pytest.approx(1 / 3)


def test_svgd_is_that_of_blackjax():
    svgd = pytest.importorskip("blackjax.vi.svgd")
    with jax.enable_x64(True):
        optimizer, points = optax.adagrad(0.3), jnp.asarray(POINTS)
        kernel = svgd.build_kernel(optimizer)
        state = svgd.init(points, {"length_scale": 2 * WIDTH**2}, optimizer)
        for _ in range(3):
            state = jax.jit(kernel, static_argnums=(1, 2))(
                state, jax.grad(target()), svgd.rbf_kernel
            )
        scheme = flow(drift=DRIFTS["svgd"](bandwidth=WIDTH), optimizer=optimizer, num_inner_steps=3)
        key = jax.random.key(0)
        found, _ = jax.jit(scheme.step)(key, scheme.init(key))
    np.testing.assert_allclose(found.params, state.particles, rtol=1e-12)


@pytest.mark.slow
def test_mmd_drift_descends_its_energy_and_noise_moves_the_place_where_it_is_read():
    with jax.enable_x64(True):
        drift = DRIFTS["mmd"](bandwidth=WIDTH)
        energy = jax.jit(lambda x: drift.energy(jax.random.key(0), swjko.Cloud(x)))
        own, others = pairs(POINTS, POINTS).mean(), pairs(TARGET, TARGET).mean()
        expected = own / 2 - pairs(POINTS, TARGET).mean() + others / 2
        assert float(energy(POINTS)) == pytest.approx(expected, rel=1e-12)
        slope = -len(POINTS) * central_difference(energy, POINTS)
        np.testing.assert_allclose(velocity_of(drift), slope, atol=1e-8)
        noisy, key = DRIFTS["mmd"](bandwidth=WIDTH, noise=0.5), jax.random.key(5)
        moved = POINTS + 0.5 * np.asarray(jax.random.normal(key, POINTS.shape))
        expected = pair_slopes(moved, TARGET).mean(1) - pair_slopes(moved, POINTS).mean(1)
        np.testing.assert_allclose(velocity_of(noisy, key=key), expected, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("profile", [None, inverse_multiquadric])
def test_ksd_is_its_double_sum(profile):
    """The sum with all derivatives of the kernel by autodiff, for one pair at a time."""
    with jax.enable_x64(True):
        options = {} if profile is None else {"kernel": profile}
        functional = swjko.ksd_to_target(target(), bandwidth=WIDTH, block_size=3, **options)
        weights = random_weights(RNG, len(POINTS))
        cloud = swjko.Cloud(jnp.asarray(POINTS), jnp.asarray(weights))

        def kernel(x, y):
            u = jnp.sum((x - y) ** 2) / WIDTH**2
            return jnp.exp(-u / 2) if profile is None else profile(u)

        def stein(x, y):
            s, t = jax.grad(target())(x), jax.grad(target())(y)
            in_x, in_y = jax.grad(kernel, (0, 1))(x, y)
            mixed = jnp.trace(jax.jacfwd(jax.grad(kernel), 1)(x, y))
            return jnp.vdot(s, t) * kernel(x, y) + jnp.vdot(s, in_y) + jnp.vdot(t, in_x) + mixed

        matrix = jax.jit(jax.vmap(jax.vmap(stein, (None, 0)), (0, None)))(POINTS, POINTS)
        found = functional(jax.random.key(0), cloud)
        np.testing.assert_allclose(found, weights @ matrix @ weights / 2, rtol=1e-11)


def test_radon_wasserstein_is_its_sums_on_lines():
    with jax.enable_x64(True):
        directions = np.asarray(swjko.uniform_directions(jax.random.key(3), 6, 2))
        lines, forces = POINTS @ directions.T, (-POINTS / SCALES**2) @ directions.T
        numerator, ratio = np.zeros_like(POINTS), np.zeros_like(POINTS)
        for s, g, theta in zip(lines.T, forces.T, directions, strict=True):
            gaps = s[:, None] - s[None]
            kernel = np.exp(-(gaps**2) / (2 * WIDTH**2))
            sums = (kernel * g + kernel * gaps / WIDTH**2).mean(1)
            numerator += np.outer(sums, theta) / 6
            ratio += np.outer(sums / kernel.mean(1), theta) / 6
        for name, expected in (("rrw", numerator), ("kdrw", ratio)):
            found = velocity_of(DRIFTS[name](bandwidth=WIDTH, num_bins=2048))
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5, err_msg=name)


def test_radon_wasserstein_moves_a_shifted_gaussian_by_a_dth_of_its_shift():
    """For N(m, I) and nu = N(0, I), w_theta = -<m, theta> whatever the bandwidth."""
    dim, num = 4, 20_000
    shift = np.linspace(0.5, 2.0, dim)
    points = shift + np.asarray(jax.random.normal(jax.random.key(1), (num, dim)))
    drift = swjko.radon_wasserstein(
        lambda x: -0.5 * jnp.sum(x**2), dim, direction_fn=swjko.orthogonal_directions
    )
    found = np.asarray(jax.jit(drift)(jax.random.key(2), swjko.Cloud(jnp.asarray(points, float))))
    np.testing.assert_allclose(found.mean(0), -shift / dim, atol=0.02)
    assert np.sqrt(np.mean((found + shift / dim) ** 2)) < 0.1


@pytest.mark.slow_except_first
@pytest.mark.parametrize(
    ("name", "step_size", "options"),
    [
        ("svgd", 0.5, {}),
        ("kdrw", 0.5, {"bandwidth": 0.4}),
        ("rrw", 0.5, {"bandwidth": 0.7}),
        ("kernel_density", 0.1, {"bandwidth": 0.3}),
    ],
)
def test_particles_reach_the_moments_of_the_target(name, step_size, options):
    points = 2.0 + 0.5 * jax.random.normal(jax.random.key(1), (200, 2))
    drift = DRIFTS[name](**options)
    scheme = flow(points, drift=drift, step_size=10 * step_size, num_inner_steps=10)
    key = jax.random.key(0)
    state, infos = jitted_run(key, scheme, scheme.init(key), num_steps=40, record=swjko.infos)
    assert int(state.result) == swjko.Result.OK
    end = np.asarray(state.params)
    np.testing.assert_allclose(end.mean(0), 0.0, atol=0.1)
    # A smoothed density is wider than its points, which settle inside.
    np.testing.assert_allclose(end.std(0), SCALES, rtol=0.25)
    assert infos.energy[-1] < infos.energy[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", DRIFTS)
def test_a_weight_of_two_is_two_points(name):
    options = {"bandwidth": WIDTH}
    twice = np.concatenate([POINTS, POINTS[:1]])
    weights = np.array([2.0] + 6 * [1.0]) / 8
    with jax.enable_x64(True):
        drift = DRIFTS[name](**options)
        found = velocity_of(drift, weights=weights)
        np.testing.assert_allclose(found, velocity_of(drift, twice)[:7], rtol=1e-9, atol=1e-12)


def test_points_with_weights_are_drawn_by_them():
    family = swjko.particles(jnp.asarray(POINTS, float), weights=jnp.zeros(7).at[3].set(1.0))
    key = jax.random.key(0)
    cloud = swjko.sample(family, family.points, key, 7)
    np.testing.assert_array_equal(cloud.points, family.points)
    np.testing.assert_array_equal(cloud.weights, family.weights)
    for num in (4, 9):
        cloud = swjko.sample(family, family.points, key, num)
        assert cloud.weights is None
        np.testing.assert_array_equal(cloud.points, np.tile(family.points[3], (num, 1)))


def test_functionals_move_points_by_minus_their_wasserstein_gradient():
    weights = random_weights(RNG, len(POINTS))
    weights[2] = 0.0
    weights /= weights.sum()
    with jax.enable_x64(True):
        kernel = swjko.interaction(lambda x: jnp.sum(x**2) ** 2, self_pairs=True)
        scheme = flow(functional=kernel, weights=jnp.asarray(weights))
        velocity = jax.jit(scheme.velocity)(jax.random.key(0), jnp.asarray(POINTS))
    gaps = POINTS[:, None] - POINTS[None]
    forces = 4 * np.sum(gaps**2, -1, keepdims=True) * gaps
    expected = -np.einsum("j,ijd->id", weights, forces)
    expected[2] = 0.0
    np.testing.assert_allclose(velocity, expected, rtol=1e-10)


def test_optimizers_move_points_and_are_kept_from_step_to_step():
    """Heavy balls on a parabola: m <- 0.9 m - x, x <- x + h m."""
    key, parabola = jax.random.key(0), swjko.potential(lambda x: jnp.sum(x**2) / 2)
    with jax.enable_x64(True):
        scheme = flow(functional=parabola, optimizer=optax.sgd(0.1, momentum=0.9))
        state, infos = jitted_run(key, scheme, scheme.init(key), num_steps=5)
        plain = flow(functional=parabola)
        same = flow(functional=parabola, optimizer=optax.sgd(0.1))
        ends = [jitted_run(key, one, one.init(key), num_steps=3)[0].params for one in (plain, same)]
    x, momentum = POINTS, np.zeros_like(POINTS)
    for _ in range(5):
        momentum = 0.9 * momentum - x
        x = x + 0.1 * momentum
    np.testing.assert_allclose(state.params, x, rtol=1e-12)
    np.testing.assert_allclose(ends[0], 0.9**3 * POINTS, rtol=1e-12)
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-12)
    assert infos[1].time[-1] == pytest.approx(0.5)


def test_noise_has_the_variance_of_its_temperature():
    flat = swjko.potential(lambda x: 0.0 * jnp.sum(x))
    scheme = flow(np.zeros((5000, 2)), flat, temperature=0.3, step_size=0.2, num_inner_steps=4)
    key = jax.random.key(0)
    state, _ = jax.jit(scheme.step)(key, scheme.init(key))
    assert float(jnp.var(state.params)) == pytest.approx(2 * 0.3 * 0.2, rel=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["svgd", "kdrw", "ksd"])
def test_particle_flows_are_schemes(name, tmp_path):
    key = jax.random.key(0)
    moved = (
        {"functional": FUNCTIONALS[name]()}
        if name in FUNCTIONALS
        else {"drift": DRIFTS[name](bandwidth=WIDTH)}
    )
    scheme = flow(optimizer=optax.adam(0.05), **moved)
    whole = swjko.solve(key, scheme, 4, progress=False)
    assert whole.result == swjko.Result.OK
    assert np.all(np.diff(whole.history.energy) < 0)
    for _ in range(2):  # the second reads what the first has saved, the optimizer included
        found = swjko.solve(key, scheme, 4, checkpoint_dir=tmp_path, progress=False)
        chex.assert_trees_all_equal(found.state, whole.state)
    swept = dataclasses.replace(scheme, step_size=jnp.asarray([0.1, 0.2]))
    times = jax.vmap(
        lambda one: one.step(key, one.init(key))[0].time, (axes_of(scheme, step_size=0),)
    )
    np.testing.assert_allclose(times(swept), [0.1, 0.2], rtol=1e-6)


def test_memory_of_pairs_is_that_of_a_block():
    n = 50_000
    points = jax.ShapeDtypeStruct((n, 2), jnp.float32)
    drift = swjko.svgd(target(), bandwidth=1.0)
    lowered = jax.jit(lambda key, x: drift(key, swjko.Cloud(x))).lower(jax.random.key(0), points)
    memory = lowered.compile().memory_analysis()
    assert memory.temp_size_in_bytes < 64 * 2**20 < n * n * 4 / 100


def test_one_particle_needs_a_bandwidth():
    one = POINTS[:1]
    for name in ("svgd", "kernel_density"):
        with pytest.raises(ValueError, match="bandwidth must be given for a cloud of one point"):
            flow(one, drift=DRIFTS[name]())
    with pytest.raises(ValueError, match=r"^bandwidth must be given for a cloud of one point"):
        flow(one, functional=swjko.ksd_to_target(target()))
    with pytest.raises(ValueError, match="needs at least two points"):
        flow(one, drift=DRIFTS["kdrw"]())
    # With one it climbs to the mode.
    velocity = velocity_of(DRIFTS["svgd"](bandwidth=1.0), one)
    np.testing.assert_allclose(velocity, -one / SCALES**2, rtol=1e-5)


def on_the_host(x):
    return jax.pure_callback(lambda x: np.sum(x), jax.ShapeDtypeStruct((), x.dtype), x)


BAD = {
    "a target on the host": (
        lambda: flow(drift=swjko.svgd(on_the_host)),
        "log_prob must have a gradient in JAX",
    ),
    "a target of the KSD on the host": (
        lambda: flow(functional=swjko.ksd_to_target(on_the_host)),
        "log_prob must have a gradient in JAX",
    ),
    "a target without a gradient": (
        lambda: flow(drift=swjko.svgd(lambda x: jnp.sum(x.astype(int)))),
        "log_prob must have a gradient in JAX",
    ),
    "a Langevin target without a gradient": (
        lambda: swjko.langevin(POINTS, lambda x: jnp.sum(x > 0), step_size=0.1),
        "log_prob must have a gradient in JAX",
    ),
    "a functional without a gradient": (
        lambda: flow(functional=lambda key, cloud: jnp.sum(cloud.points.astype(int))),
        "functional must have a gradient in JAX",
    ),
    "a vector as target": (
        lambda: flow(drift=swjko.svgd(lambda x: x)),
        "`log_prob` must map one point of shape (2,) to a scalar",
    ),
    "a target that is no function": (lambda: swjko.svgd(1.0), "log_prob must be a function"),
    "a target of ksd that is no function": (
        lambda: swjko.ksd_to_target(TARGET),
        "log_prob must be a function",
    ),
    "a negative width": (
        lambda: swjko.svgd(target(), bandwidth=-1.0),
        "bandwidth must be positive and finite; got -1.0",
    ),
    "a negative width on lines": (
        lambda: swjko.radon_wasserstein(target(), 4, bandwidth=-1.0),
        "bandwidth must be positive and finite; got -1.0",
    ),
    "few bins": (
        lambda: swjko.radon_wasserstein(target(), 4, num_bins=4),
        "num_bins must be at least 16; got 4",
    ),
    "NaN in a target": (
        lambda: swjko.mmd_drift(np.array([[0.0, np.nan]])),
        "target must be finite",
    ),
    "negative noise": (
        lambda: swjko.mmd_drift(TARGET, noise=-1.0),
        "noise must be at least 0",
    ),
    "a kernel that is no function": (
        lambda: swjko.svgd(target(), kernel=2.0),
        "kernel must be a function",
    ),
    "nothing to follow": (lambda: flow(), "functional must be given, or a drift"),
    "a drift without energy": (
        lambda: flow(drift=lambda key, cloud: -cloud.points),
        "functional must be given, or a drift",
    ),
    "a drift of another shape": (
        lambda: flow(
            functional=FUNCTIONALS["potential"](), drift=lambda key, cloud: cloud.points[0]
        ),
        "drift must return one velocity for each point, shape (7, 2); got (2,)",
    ),
    "a density": (
        lambda: flow(functional=swjko.kl_divergence(target())),
        "particles have none. Pass a drift",
    ),
    "negative temperature": (
        lambda: flow(functional=FUNCTIONALS["potential"](), temperature=-1.0),
        "temperature must be at least 0",
    ),
    "no optimizer": (
        lambda: flow(functional=FUNCTIONALS["potential"](), optimizer=0.1),
        "optimizer must be an optax",
    ),
    "weights of another number": (
        lambda: flow(functional=FUNCTIONALS["potential"](), weights=np.full(2, 0.5)),
        "weights must have one weight for each point",
    ),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    make, message = BAD[name]
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        make()


def test_a_target_of_nan_is_reported():
    scheme = flow(drift=swjko.svgd(lambda x: jnp.nan * jnp.sum(x), bandwidth=1.0))
    state, info = jax.jit(scheme.step)(jax.random.key(0), scheme.init(jax.random.key(0)))
    assert int(info.result) == swjko.Result.NON_FINITE
    np.testing.assert_array_equal(state.params, jnp.asarray(POINTS, float))
