"""Families: densities against SciPy and autodiff, starts, latents, shapes."""

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from helpers import jitted_run, perturbed
from jax.tree_util import Partial

import swjko
from swjko import flows

# At any point of space: a grid has its density at its own points alone.
WITH_DENSITY = [
    name for name, make in helpers.FAMILIES.items() if make().has_density and name != "grid"
]
# Compiled whole: one operation after the other, nearly all of the time would be the compiler's.
jitted_sample = jax.jit(swjko.sample, static_argnums=3)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("name", helpers.FAMILIES)
def test_push_gives_a_cloud_of_the_asked_size(name, key):
    family = helpers.FAMILIES[name]()
    num = 12 if name == "grid" else 9
    cloud = jitted_sample(family, family.init(key), key, num)
    assert cloud.points.shape == (num, family.dim)
    assert (cloud.log_density is not None) == family.has_density
    assert (family.log_prob is not None) == (name in WITH_DENSITY)
    assert family.is_finite == (name in ("particles", "grid"))


@pytest.mark.parametrize(
    "name", ["gaussian", "coupling", "coupling with LU", "spline", "cnf", "icnn", "mlp"]
)
def test_flow_families_start_at_the_asked_gaussian(name, key):
    family = helpers.FAMILIES[name]()
    latent = family.latent(key, 64)
    cloud = jax.jit(family.push)(family.init(key), latent)
    np.testing.assert_allclose(cloud.points, 0.5 + 1.5 * latent, rtol=1e-5, atol=1e-5)
    if family.has_density:
        points = np.asarray(cloud.points, np.float64)
        reference = scipy.stats.norm(0.5, 1.5).logpdf(points).sum(axis=1)
        np.testing.assert_allclose(cloud.log_density, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("name", [name for name in WITH_DENSITY if name != "gaussian_mixture"])
def test_density_of_a_push_against_the_autodiff_jacobian(name, key):
    with jax.enable_x64(True):
        family = helpers.FAMILIES[name]()
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), perturbed(family, key))
        latent = jax.random.normal(key, (7, family.dim), jnp.float64)
        cloud = jax.jit(family.push)(params, latent)
        jacobian = jax.jacfwd(lambda z: family.push(params, z[None]).points[0])
        log_det = np.linalg.slogdet(np.asarray(jax.jit(jax.vmap(jacobian))(latent)))[1]
        reference = scipy.stats.norm.logpdf(np.asarray(latent)).sum(axis=1) - log_det
        for density in (cloud.log_density, jax.jit(family.log_prob)(params, cloud.points)):
            np.testing.assert_allclose(density, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("name", WITH_DENSITY)
def test_float32_densities_of_push_and_log_prob_agree(name, key):
    family = helpers.FAMILIES[name]()
    params, latent = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        (perturbed(family, key), family.latent(key, 50)),
    )
    cloud = jax.jit(family.push)(params, latent)
    log_prob = jax.jit(family.log_prob)(params, cloud.points)
    np.testing.assert_allclose(log_prob, cloud.log_density, rtol=1e-4, atol=1e-4)


def test_gaussian_density_and_moments_against_scipy(key):
    with jax.enable_x64(True):
        family = swjko.gaussian(3)
        params = perturbed(family, key)
        mean, cov = jax.jit(swjko.gaussian_moments)(params)
        points = np.random.default_rng(0).normal(size=(5, 3))
        reference = scipy.stats.multivariate_normal(mean, cov).logpdf(points)
        np.testing.assert_allclose(jax.jit(family.log_prob)(params, points), reference, rtol=1e-10)
        cloud = jitted_sample(family, params, key, 200_000)
        np.testing.assert_allclose(np.cov(np.asarray(cloud.points).T), cov, atol=0.02)


@pytest.mark.parametrize("learned_weights", [False, True])
def test_draws_of_a_narrow_component_have_its_density(learned_weights):
    """Its points lie far from zero and differ by less than a float32 tells."""
    family = swjko.gaussian_mixture(3, 2, learned_weights=learned_weights)
    params = family.init(jax.random.key(0))
    params["mean"] = jnp.array([[0.0, 0.0, 0.0], [1e3, 1e3, 1e3]])
    params["log_diagonal"] = jnp.array([[0.0] * 3, [-30.0] * 3])
    latent = family.latent(jax.random.key(1), 8)
    found = family.push(params, latent).log_density
    own = scipy.stats.norm.logpdf(latent[1]).sum(axis=1) + np.where(latent[0] == 1, 90.0, 0.0)
    assert found == pytest.approx(own - np.log(2), rel=1e-5)


@pytest.mark.slow
def test_gaussian_mixture_density_start_and_equal_parts_against_scipy(key):
    with jax.enable_x64(True):
        family = swjko.gaussian_mixture(2, 5, init_mean=1.0, init_scale=3.0)
        params = perturbed(family, key)
        means, covs = jax.device_get(jax.jit(jax.vmap(swjko.gaussian_moments))(params))
        cloud = jitted_sample(family, params, key, 12)
        laws = map(scipy.stats.multivariate_normal, means, covs)
        reference = np.log(np.mean([law.pdf(cloud.points) for law in laws], axis=0))
        for density in (cloud.log_density, jax.jit(family.log_prob)(params, cloud.points)):
            np.testing.assert_allclose(density, reference, rtol=1e-9)
        component, noise = jax.device_get(jax.jit(family.latent, static_argnums=1)(key, 12))
        assert sorted(np.bincount(component, minlength=5)) == [2, 2, 2, 3, 3]
        factors = np.linalg.cholesky(covs)
        expected = means[component] + np.einsum("nij,nj->ni", factors[component], noise)
        np.testing.assert_allclose(cloud.points, expected, rtol=1e-9)
        many = swjko.gaussian_mixture(2, 400, init_mean=1.0, init_scale=3.0)
        start = np.asarray(jitted_sample(many, many.init(key), key, 4000).points)
        np.testing.assert_allclose(start.mean(axis=0), 1.0, atol=0.4)
        np.testing.assert_allclose(np.cov(start.T), 9.0 * np.eye(2), atol=1.2)


def test_particles_latents_are_all_some_or_a_bootstrap(key):
    points = jnp.arange(20.0).reshape(10, 2)
    family = swjko.particles(points)
    params = family.init(key)
    np.testing.assert_array_equal(swjko.sample(family, params, key, 10).points, points)
    some = np.asarray(swjko.sample(family, params, key, 6).points)
    assert len({tuple(row) for row in some}) == 6
    many = np.asarray(jitted_sample(family, params, key, 4000).points)
    counts = np.unique(many[:, 0], return_counts=True)[1]
    assert counts.shape == (10,)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_grid_weights_density_and_start():
    points, weights = jnp.linspace(0.0, 1.0, 5)[:, None], jnp.array([0.1, 0.2, 0.4, 0.3, 0.0])
    family = swjko.grid(points, 0.25, weights=weights)
    cloud = swjko.sample(family, family.init(jax.random.key(0)), jax.random.key(1), 5)
    np.testing.assert_allclose(cloud.weights, weights, atol=1e-6)
    np.testing.assert_allclose(np.exp(cloud.log_density), weights / 0.25, atol=1e-6)


def test_grid_weights_start_at_the_floor():
    points, weights = jnp.zeros((4, 1)), jnp.array([0.5, 0.5, 0.0, 1e-30])
    start = swjko.grid(points, 1.0, weights=weights, weight_floor=1e-3).logits
    expected = np.array([0.5, 0.5, 2.5e-4, 2.5e-4])
    np.testing.assert_allclose(jax.nn.softmax(start), expected / expected.sum(), rtol=1e-5)
    padding = swjko.grid(points, 1.0, weights=weights, weight_floor=0.0).logits
    np.testing.assert_allclose(jnp.exp(padding), weights, rtol=1e-4, atol=2e-38)
    assert np.all(np.isfinite(padding))


@pytest.mark.slow
def test_a_grid_flow_moves_mass_to_points_that_start_without(key):
    """The law starts on the left with weight zero elsewhere; the target lies on the right."""
    points = jnp.linspace(-2.0, 2.0, 41)[:, None]
    start = jnp.where(points[:, 0] < -1.0, 1.0, 0.0)
    scheme = swjko.sw_jko(
        swjko.grid(points, 0.1, weights=start / start.sum()),
        swjko.kl_divergence(lambda x: -0.5 * jnp.sum((x - 1.0) ** 2) / 0.09),
        optax.adam(optax.cosine_decay_schedule(0.1, 200)),
        step_size=0.5,
        num_inner_steps=200,
        num_samples=41,
        num_projections=1,
    )
    state, _ = jitted_run(key, scheme, scheme.init(key), num_steps=6, record=swjko.infos)
    assert state.result == 0
    target = jax.nn.softmax(-0.5 * (points[:, 0] - 1.0) ** 2 / 0.09)
    weights = jax.nn.softmax(state.params)
    np.testing.assert_allclose(weights @ points[:, 0], target @ points[:, 0], atol=0.03)
    assert 0.5 * jnp.sum(jnp.abs(weights - target)) < 0.05


@pytest.mark.slow_except_first
@pytest.mark.parametrize("name", ["kl", "internal", "sw"])
def test_gradients_at_logits_of_minus_infinity_are_finite(name, key):
    """A point without weight is padding: values there do not count, nor do their gradients."""
    functional = {
        "kl": swjko.kl_divergence(lambda x: -0.5 * jnp.sum(x**2)),
        "internal": swjko.internal_energy(lambda r: r * jnp.log(r)),
        "sw": swjko.sw_to_target(jnp.ones((3, 1)), 1),
    }[name]
    family = swjko.grid(jnp.linspace(-1.0, 1.0, 4)[:, None], 0.5)

    def energy(logits):
        return functional(key, family.push(logits, jnp.arange(4)))

    value, gradient = jax.value_and_grad(energy)(jnp.array([0.0, 0.3, -jnp.inf, -0.2]))
    _, least = jax.value_and_grad(energy)(jnp.array([0.0, 0.3, -80.0, -0.2]))
    assert np.isfinite(value)
    np.testing.assert_allclose(gradient, least, atol=1e-5)


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda points: swjko.grid(points, 1.0, weight_floor=-1.0), "weight_floor`? must be at l"),
        (lambda points: swjko.grid(points, 1.0).latent(jax.random.key(0), 3), "points, 4; got 3"),
        (lambda points: swjko.grid(points, -1.0), "cell_volume`? must be positive"),
        (lambda points: swjko.grid(points, jnp.ones(4)), "cell_volume`? must be one number"),
        (lambda points: swjko.grid(points, 1.0, weights=jnp.ones(4)), "weights`? must sum to one"),
    ],
)
def test_grid_names_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros((4, 1)))


@pytest.mark.parametrize("has_density", [False, True])
def test_a_family_made_from_functions(has_density, key):
    gaussian = swjko.gaussian(2, init_scale=2.0)

    def push(params, z):
        cloud = gaussian.push(params, z)
        return cloud if has_density else swjko.Cloud(cloud.points)

    family = swjko.Family(
        init=gaussian.init,
        latent=gaussian.latent,
        push=Partial(push),
        log_prob=gaussian.log_prob if has_density else None,
        dim=2,
        has_density=has_density,
    )
    assert isinstance(family, swjko.Family)
    assert (family.dim, family.has_density, family.is_finite) == (2, has_density, False)
    assert (family.log_prob is not None) == has_density
    params = family.init(key)
    draw = jax.jit(lambda family: swjko.sample(family, params, key, 5))
    np.testing.assert_array_equal(draw(family).points, draw(gaussian).points)
    # The arrays of the family whose methods it takes are leaves.
    assert any(bool(jnp.all(leaf == 2.0)) for leaf in jax.tree.leaves(family))


def affine(params, z):
    return z @ params["matrix"].T + params["shift"][None, :]


def test_pushforward_of_a_user_map_with_and_without_inverse(key):
    matrix, shift = jnp.array([[2.0, 0.0], [1.0, 0.5]]), jnp.array([1.0, -1.0])

    def init(key):
        return {"matrix": matrix, "shift": shift}

    def with_log_det(params, z):
        return affine(params, z), jnp.full(z.shape[:1], jnp.linalg.slogdet(params["matrix"])[1])

    def inverse(params, points):
        back = jnp.linalg.inv(params["matrix"])
        log_det = jnp.full(points.shape[:1], jnp.linalg.slogdet(back)[1])
        return (points - params["shift"][None, :]) @ back.T, log_det

    plain = swjko.pushforward(init, affine, dim=2)
    assert not plain.has_density
    dense = swjko.pushforward(init, with_log_det, dim=2, inverse=inverse)
    cloud = swjko.sample(dense, dense.init(key), key, 11)
    reference = scipy.stats.multivariate_normal(shift, matrix @ matrix.T).logpdf(cloud.points)
    np.testing.assert_allclose(cloud.log_density, reference, rtol=1e-4)
    np.testing.assert_allclose(dense.log_prob(dense.init(key), cloud.points), reference, rtol=1e-4)


def test_pushforward_data_are_leaves(key):
    family = swjko.pushforward(
        lambda key: jnp.zeros(2),
        Partial(lambda data, params, z: z + (data + params)[None, :], jnp.ones(2)),
        dim=2,
    )
    assert [leaf.shape for leaf in jax.tree.leaves(family)] == [(2,)]
    traces = []

    @jax.jit
    def push(family, z):
        traces.append(1)
        return family.push(jnp.zeros(2), z).points

    z = family.latent(key, 3)
    moved = jax.tree.map(lambda leaf: leaf + 1.0, family)
    np.testing.assert_allclose(push(moved, z) - push(family, z), 1.0, rtol=1e-6)
    assert len(traces) == 1


def test_pushforward_of_a_wrong_shape_is_refused_at_construction():
    with pytest.raises(ValueError, match=r"must send 3 latents to shape \(3, 2\)"):
        swjko.pushforward(lambda key: jnp.zeros(3), lambda params, z: z[:, :1], dim=2)


def test_families_are_rebuilt_in_the_dtype_of_their_parameters(key):
    family = flows.coupling(2, num_layers=2, width=4)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), family.init(key))
    ones = jnp.ones((3, 2), jnp.float32)
    assert jax.eval_shape(family.push, params, ones).points.dtype == jnp.float32
    assert jax.eval_shape(family.log_prob, params, ones).dtype == jnp.float32


CARRIERS = {
    "coupling": lambda dim: flows.coupling(dim, num_layers=4, width=16, init_mean=0.5),
    "three layers with LU": lambda dim: flows.coupling(dim, num_layers=3, width=16, mixing="lu"),
    "fixed coordinates": lambda dim: flows.coupling(
        dim, num_layers=3, width=16, num_fixed=dim - 2, init_scale=1.5
    ),
    "spline": lambda dim: flows.spline(dim, num_layers=2, width=16),
    "base": lambda dim: flows.coupling(dim, num_layers=2, width=8, base=swjko.student_t(dim)),
    "base that carries": lambda dim: flows.coupling(
        dim, num_layers=2, width=8, base=flows.coupling(dim, num_layers=2, width=8)
    ),
}


@pytest.mark.slow_except_first
@pytest.mark.parametrize("name", CARRIERS)
@pytest.mark.parametrize(
    ("dim", "dtype", "tolerance"), [(2, "float32", 2e-6), (5, "float64", 1e-12)]
)
def test_the_score_carried_forward_is_the_gradient_of_log_prob(name, dim, dtype, tolerance, key):
    with jax.enable_x64(dtype == "float64"):
        family = CARRIERS[name](dim)
        params = perturbed(family, key, 0.05)
        latent = family.latent(key, 30)
        cloud, score = jax.jit(family.push_with_score)(params, latent)
        pushed = jax.jit(family.push)(params, latent)
        for one, other in zip(cloud, pushed, strict=True):
            chex.assert_trees_all_close(one, other, rtol=10 * tolerance, atol=10 * tolerance)
        expected = jax.jit(jax.grad(lambda x: jnp.sum(family.log_prob(params, x))))(cloud.points)
        np.testing.assert_allclose(score, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", ["gaussian", "cnf", "icnn", "mlp", "gaussian_mixture"])
def test_other_families_carry_no_score(name):
    assert helpers.FAMILIES[name]().push_with_score is None
