"""Targets, energies and loaders against quadrature, NumPy and SciPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import swjko
from swjko import problems


def test_gaussian_log_prob_matches_scipy():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((4, 4))
    mean, cov = (rng.standard_normal(4), root @ root.T + np.eye(4))
    points = rng.standard_normal((20, 4))
    target = problems.gaussian(mean, cov)
    expected = scipy.stats.multivariate_normal(mean, cov).logpdf(points)
    np.testing.assert_allclose(
        jax.vmap(target.log_prob)(jnp.asarray(points, float)), expected, rtol=2e-5
    )


def test_gaussian_sample_has_the_moments(key):
    cov = np.array([[2.0, -0.6], [-0.6, 0.5]])
    points = np.asarray(problems.gaussian([1.0, -2.0], cov).sample(key, 40_000))
    # Standard errors: sqrt(2 / 40000) = 0.007 (mean), 2 sqrt(2 / 40000) = 0.014 (variance).
    np.testing.assert_allclose(points.mean(axis=0), [1.0, -2.0], atol=0.03)
    np.testing.assert_allclose(np.cov(points.T), cov, atol=0.06)


def test_gaussian_refuses_what_is_no_covariance():
    with pytest.raises(ValueError, match="positive definite"):
        problems.gaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        problems.gaussian([0.0, 0.0], np.eye(3))


def test_gaussian_target_is_drawn_as_scikit_learn_draws_it():
    from sklearn.datasets import make_spd_matrix

    problem = problems.gaussian_target(3, 5)
    np.testing.assert_array_equal(problem.precision, make_spd_matrix(5, random_state=3))
    x = np.linspace(-1.0, 1.0, 5)
    expected = scipy.stats.multivariate_normal(
        problem.center, np.linalg.inv(problem.precision)
    ).logpdf(x)
    np.testing.assert_allclose(problem.target.log_prob(jnp.asarray(x, float)), expected, rtol=1e-4)


def test_mixture_is_normalised_and_sampled_from(key):
    centers = np.array([[-2.0, 0.0], [1.0, 1.5], [3.0, -1.0]])
    target = problems.gaussian_mixture(jnp.asarray(centers, float))
    x = np.linspace(-9.0, 10.0, 400)
    grid = np.stack(np.meshgrid(x, x), axis=-1).reshape(-1, 2)
    density = np.exp(np.asarray(jax.vmap(target.log_prob)(jnp.asarray(grid, float)), np.float64))
    assert density.sum() * (x[1] - x[0]) ** 2 == pytest.approx(1.0, abs=1e-4)
    points = np.asarray(target.sample(key, 30_000))
    np.testing.assert_allclose(points.mean(axis=0), centers.mean(axis=0), atol=0.06)
    np.testing.assert_allclose(
        np.cov(points.T), np.eye(2) + np.cov(centers.T, bias=True), atol=0.15
    )


def test_random_mixture_centers():
    target = problems.random_mixture(1, 3, num=7)
    (centers,) = jax.tree.leaves(target.log_prob)
    assert centers.shape == (7, 3)
    assert target.dim == 3
    assert float(jnp.abs(centers).max()) <= 5.0
    assert float(jnp.abs(centers).max()) > 1.0


@pytest.mark.parametrize("make", [problems.ring, problems.disk, problems.annulus])
def test_exact_energies_by_quadrature(make):
    """The energy of the stated minimiser by NumPy formulas, on a polar product grid."""
    equilibrium = make()
    square = _uniform_squares(equilibrium.inner_radius, equilibrium.outer_radius, 1200)
    radii = np.sqrt(square)
    if make is problems.ring:
        angle = np.linspace(0, 2 * math.pi, 2000, endpoint=False)
        distance = 2 * radii[0] ** 2 * (1 - np.cos(angle))
        energy = np.mean(distance**2 / 4 - distance / 2) / 2
    else:
        # The mean of log |x - y| over angles is the log of the larger radius (Newton); that of
        # x.y is zero.
        larger = np.maximum(radii[:, None], radii[None, :])
        energy = np.mean((square[:, None] + square[None, :]) / 2 - np.log(larger)) / 2
    if make is problems.annulus:
        energy -= np.mean(np.log(radii)) / 4
    assert equilibrium.exact_energy == pytest.approx(energy, abs=2e-4)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("make", [problems.ring, problems.disk, problems.annulus])
def test_functional_reaches_its_exact_energy_at_the_minimiser(make, key):
    equilibrium = make()
    square_key, angle_key = jax.random.split(key)
    num, repeats = (400, 16)
    low, high = (equilibrium.inner_radius**2, equilibrium.outer_radius**2)
    radius = jnp.sqrt(
        jax.random.uniform(square_key, (repeats, num), minval=low, maxval=max(high, low + 1e-9))
    )
    angle = jax.random.uniform(angle_key, (repeats, num), maxval=2 * math.pi)
    points = jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], axis=-1)
    values = np.asarray(jax.vmap(lambda x: equilibrium.functional(key, swjko.Cloud(x)))(points))
    assert abs(values.mean() - equilibrium.exact_energy) < 4 * values.std(ddof=1) / math.sqrt(
        repeats
    )
    assert values.std() < 0.02


def test_posterior_log_density_matches_scipy():
    rng = np.random.default_rng(2)
    features, labels = (rng.standard_normal((50, 3)), rng.choice([-1.0, 1.0], 50))
    log_prob = problems.logistic_regression(
        jnp.asarray(features, float), jnp.asarray(labels, float)
    )
    points = np.concatenate([rng.standard_normal((10, 3)), rng.uniform(-9.0, 1.0, (10, 1))], axis=1)
    alpha = np.exp(points[:, 3])
    likelihood = np.sum(scipy.stats.logistic.logcdf(labels * (points[:, :3] @ features.T)), axis=1)
    prior = scipy.stats.norm(0, alpha[:, None] ** -0.5).logpdf(points[:, :3]).sum(axis=1)
    # log alpha has the density of alpha times d alpha / d log alpha.
    expected = likelihood + prior + scipy.stats.gamma(1, scale=1 / 100).logpdf(alpha) + points[:, 3]
    np.testing.assert_allclose(jax.vmap(log_prob)(jnp.asarray(points, float)), expected, rtol=1e-5)


def test_prior_of_log_alpha_is_proper():
    """Without data, the density of (w, log alpha) integrates to one, log alpha unclipped."""
    log_prob = problems.logistic_regression(jnp.zeros((1, 1)), jnp.ones((1,)))
    log_alpha, u = np.meshgrid(
        np.linspace(-16.0, -1.0, 601), np.linspace(-8.0, 8.0, 201), indexing="ij"
    )
    deviation = np.exp(-log_alpha / 2)
    points = np.stack([u * deviation, log_alpha], axis=-1).reshape(-1, 2)
    density = (
        np.exp(np.asarray(jax.vmap(log_prob)(jnp.asarray(points, float)), np.float64)).reshape(
            u.shape
        )
        * deviation
    )
    total = scipy.integrate.trapezoid(
        scipy.integrate.trapezoid(density, u, axis=1), log_alpha[:, 0]
    )
    # One row of zeros multiplies the density by sigmoid(0) = 1/2; P(log alpha < -16) = 1e-5.
    assert total == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.zeros((3, 2)), np.ones(2), "one value for each of 3 rows"),
        (np.zeros((3, 2)), np.array([0.0, 1.0, 1.0]), r"-1 or \+1"),
        (np.zeros(3), np.ones(3), "features must have rank 2"),
        (np.full((3, 2), np.nan), np.ones(3), "features must be finite"),
    ],
)
def test_logistic_regression_refuses(features, labels, message):
    with pytest.raises(ValueError, match=message):
        problems.logistic_regression(jnp.asarray(features, float), jnp.asarray(labels, float))


def test_logistic_regression_kl_is_the_divergence_to_the_posterior(key):
    rng = np.random.default_rng(5)
    features, labels = (
        jnp.asarray(rng.standard_normal((40, 3)), float),
        jnp.asarray(rng.choice([-1.0, 1.0], 40), float),
    )
    cloud = swjko.sample(swjko.gaussian(4), swjko.gaussian(4).init(key), key, 8)
    expected = swjko.kl_divergence(problems.logistic_regression(features, labels))(key, cloud)
    functional = problems.logistic_regression_kl(features, labels)
    np.testing.assert_allclose(functional(key, cloud), expected, rtol=1e-5)
    assert swjko.functionals.needs_density(functional)
    assert swjko.functionals.is_entropy_like(functional)
    assert [leaf.shape for leaf in jax.tree.leaves(functional)] == [(), (), (40, 3)]


def test_minibatches_are_unbiased_in_value_and_gradient(key):
    rng = np.random.default_rng(6)
    features, labels = (
        jnp.asarray(rng.standard_normal((40, 3)), float),
        jnp.asarray(rng.choice([-1.0, 1.0], 40), float),
    )
    points = 0.5 * jax.random.normal(key, (6, 4))
    density = jnp.zeros(6)

    def values(functional, keys):
        value_and_grad = jax.value_and_grad(
            lambda points, key: functional(key, swjko.Cloud(points, None, density))
        )
        value, gradient = jax.jit(jax.vmap(value_and_grad, in_axes=(None, 0)))(points, keys)
        return np.concatenate(
            [np.asarray(value)[:, None], np.asarray(gradient).reshape(len(keys), -1)], axis=1
        ).astype(np.float64)

    exact = values(problems.logistic_regression_kl(features, labels), jax.random.split(key, 1))[0]
    found = values(
        problems.logistic_regression_kl(features, labels, batch_size=7), jax.random.split(key, 4000)
    )
    errors = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    assert np.all(np.abs(found.mean(axis=0) - exact) < 4.5 * errors + 1e-4 * np.abs(exact))
    assert errors[0] > 0.01


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [(4, "batch_size must not exceed the 3 rows"), (0, "batch_size must be at least 1")],
)
def test_minibatches_larger_than_the_data_are_refused(batch_size, message):
    with pytest.raises(ValueError, match=message):
        problems.logistic_regression_kl(jnp.ones((3, 2)), jnp.ones(3), batch_size=batch_size)


def test_data_are_leaves_and_not_constants():
    features = jnp.ones((300, 4))
    log_prob = problems.logistic_regression(features, jnp.ones(300))
    closed = jax.make_jaxpr(lambda functional, x: functional(x))(log_prob, jnp.zeros(5))
    assert all(np.size(constant) < 100 for constant in closed.consts)
    assert [leaf.shape for leaf in jax.tree.leaves(log_prob)] == [(300, 4)]


def _uniform_squares(inner: float, outer: float, num: int) -> np.ndarray:
    """Midpoints of equal cells of |x|^2, which is uniform under a uniform law in the plane."""
    return inner**2 + (outer**2 - inner**2) * (np.arange(num) + 0.5) / num


FEATURES = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2)
LABELS = jnp.asarray([1.0, -1.0, 1.0, 1.0])


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("labels", [LABELS, np.asarray(LABELS), [1.0, -1.0, 1.0, 1.0]])
def test_labels_may_be_constants_of_a_compiled_program(labels):
    point = jnp.asarray([0.5, -0.2, 0.1])

    def value(point):
        return problems.logistic_regression(FEATURES, labels)(point)

    np.testing.assert_allclose(jax.jit(value)(point), value(point), rtol=1e-6)
    for wrong in (2.0 * np.asarray(labels), jnp.zeros(4)):
        with pytest.raises(ValueError, match=r"labels must be -1 or \+1; got"):
            jax.jit(
                lambda point, wrong=wrong: problems.logistic_regression(FEATURES, wrong)(point)
            )(point)


def test_labels_may_be_traced():
    point = jnp.asarray([0.5, -0.2, 0.1])

    def value(labels):
        return problems.logistic_regression_kl(FEATURES, labels)(
            jax.random.key(0), swjko.Cloud(point[None], None, jnp.zeros(1))
        )

    np.testing.assert_allclose(jax.jit(value)(LABELS), value(LABELS), rtol=1e-6)
