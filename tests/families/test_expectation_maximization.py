"""Expectation-maximisation: moments, scikit-learn's step, priors, splits, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.mixture import GaussianMixture

import swjko
from swjko import flows

# So small a prior that it does not show.
FREE = {"pseudo_count": 1e-6, "split_fraction": 0.0}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def weighted_points(key, num=400, dim=3):
    point_key, weight_key = jax.random.split(key)
    points = jax.random.normal(point_key, (num, dim)) @ jnp.asarray(np.tri(dim)) + 1.0
    return points, jax.nn.softmax(jax.random.normal(weight_key, (num,)))


def covariances(params):
    return np.asarray([swjko.gaussian_moments(one)[1] for one in unstacked(params)])


def unstacked(params):
    count = len(params["mean"])
    return [{name: leaf[at] for name, leaf in params.items()} for at in range(count)]


def test_a_gaussian_gets_the_weighted_moments(x64, key):
    points, weights = weighted_points(key)
    family = swjko.gaussian(3)
    fit = swjko.expectation_maximization(**FREE).fit
    mean, cov = swjko.gaussian_moments(fit(family, family.init(key), points, weights, 1))
    np.testing.assert_allclose(mean, weights @ points, rtol=1e-6)
    expected = np.cov(np.asarray(points).T, aweights=np.asarray(weights), ddof=0)
    np.testing.assert_allclose(cov, expected, rtol=1e-6, atol=1e-7)


def test_the_prior_counts_for_its_points(x64, key):
    points, weights = weighted_points(key)
    family = swjko.gaussian(3, init_scale=2.0)
    fit = swjko.expectation_maximization(pseudo_count=60.0).fit
    mean, cov = swjko.gaussian_moments(fit(family, family.init(key), points, weights, 1))
    num, kappa, nu = 1 / np.sum(np.asarray(weights) ** 2), 20.0, 60.0
    expected = num * np.asarray(weights @ points) / (num + kappa)
    np.testing.assert_allclose(mean, expected, rtol=1e-10)
    centred = np.asarray(points) - expected
    scatter = num * np.einsum("n,ni,nj->ij", np.asarray(weights), centred, centred)
    scatter += nu * 4.0 * np.eye(3) + kappa * np.outer(expected, expected)
    np.testing.assert_allclose(cov, scatter / (num + nu), rtol=1e-10)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("num_steps", [1, 5])
def test_steps_are_those_of_scikit_learn(num_steps, x64, key):
    points, _ = weighted_points(key)
    family = swjko.gaussian_mixture(3, 4, learned_weights=True, init_mean=1.0)
    params = family.init(key) | {"logits": jnp.arange(4.0)}
    precisions = np.linalg.inv(covariances(params))
    reference = GaussianMixture(
        4, max_iter=num_steps, tol=0.0, reg_covar=0.0, means_init=params["mean"],
        weights_init=np.asarray(jax.nn.softmax(params["logits"])), precisions_init=precisions,
    ).fit(points)  # fmt: skip
    uniform = jnp.full(len(points), 1.0 / len(points))
    fit = swjko.expectation_maximization(**FREE).fit
    fitted = jax.jit(fit, static_argnames="num_steps")(family, params, points, uniform, num_steps)
    np.testing.assert_allclose(fitted["mean"], reference.means_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(covariances(fitted), reference.covariances_, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jax.nn.softmax(fitted["logits"]), reference.weights_, atol=1e-4)


def test_equal_weights_stay_equal(key):
    points, weights = weighted_points(key)
    family = swjko.gaussian_mixture(3, 4)
    before = family.init(key)
    fitted = swjko.expectation_maximization().fit(family, before, points, weights, 3)
    assert set(fitted) == set(before)
    value, start = (weights @ family.log_prob(params, points) for params in (fitted, before))
    assert float(value) > float(start) + 0.1


def straddling(key):
    """Two modes under one component, another mode, and a component of nearly no weight."""
    centers = jnp.array([[-3.0, 0.0], [3.0, 0.0], [0.0, 9.0]])
    noise = 0.2 * jax.random.normal(key, (600, 2))
    points = centers[jnp.arange(600) % 3] + noise
    family = swjko.gaussian_mixture(2, 3, learned_weights=True)
    params = {
        "mean": jnp.array([[0.0, 0.0], [0.0, 9.0], [0.0, 9.3]]),
        "log_diagonal": jnp.log(jnp.array([[3.0, 0.2], [0.2, 0.2], [0.3, 0.3]])),
        "lower": jnp.zeros((3, 2, 2)),
        "logits": jnp.log(jnp.array([0.66, 0.33, 0.01])),
    }
    # As if the points were draws of the mixture: those of the wide component are rare.
    weights = jnp.where(jnp.arange(600) % 3 == 2, 0.2, 1.0)
    return family, params, points, weights / jnp.sum(weights)


@pytest.mark.parametrize(("split_fraction", "modes"), [(0.0, 2), (0.3, 3)])
def test_a_component_over_two_modes_is_split(split_fraction, modes, key):
    family, params, points, weights = straddling(key)
    options = swjko.expectation_maximization(pseudo_count=1.0, split_fraction=split_fraction)
    for _ in range(10):
        params = options.fit(family, params, points, weights, 5)
    is_narrow = np.linalg.det(covariances(params)) < 0.1
    centers = np.asarray(params["mean"])[is_narrow]
    distance = np.linalg.norm(centers[:, None] - np.array([[-3, 0], [3, 0], [0, 9]]), axis=2)
    assert np.sum(distance.min(axis=0, initial=np.inf) < 0.3) == (3 if modes == 3 else 1)


def test_a_split_keeps_mean_and_covariance(x64, key):
    family, params, points, weights = straddling(key)
    # A fit by points of no weight but one, with a prior that does not move, is the split alone.
    options = swjko.expectation_maximization(pseudo_count=1e12, split_fraction=0.3)
    fitted = options.fit(family, params, points, weights, 1)
    before = np.array([0.0, 0.0]), covariances(params)[0]
    means = np.asarray(fitted["mean"])[[0, 2]]
    assert np.linalg.norm(means[0] - means[1]) == pytest.approx(2 * 0.8 * 3.0, rel=1e-6)
    np.testing.assert_allclose(means.mean(axis=0), before[0], atol=1e-6)
    own = covariances(fitted)[[0, 2]]
    centred = means - means.mean(axis=0)
    both = own.mean(axis=0) + centred.T @ centred / 2
    np.testing.assert_allclose(both, before[1], rtol=1e-6, atol=1e-6)


def test_what_it_cannot_fit_is_refused():
    target = swjko.kl_divergence(lambda x: -jnp.sum(x**2))
    options = {"step_size": 1.0, "num_inner_steps": 1, "num_samples": 4, "num_projections": 2}
    network = swjko.sw_jko(flows.coupling(2, width=4), target, optax.adam(1e-3), **options)
    closed_form = swjko.expectation_maximization()
    with pytest.raises(TypeError, match=r"mixture of Gaussians; the family .* is .*optax.adam"):
        swjko.corrected(network, lambda x: -jnp.sum(x**2), closed_form, num_inner_steps=1)
    jko = swjko.sw_jko(swjko.gaussian(2), target, optax.adam(1e-3), **options)
    with pytest.raises(ValueError, match="step_size must be None"):
        swjko.corrected(
            jko, lambda x: -jnp.sum(x**2), closed_form, num_inner_steps=1, step_size=0.1
        )
    with pytest.raises(ValueError, match="pseudo_count"):
        swjko.expectation_maximization(pseudo_count=0.0)
    with pytest.raises(ValueError, match="split_fraction"):
        swjko.expectation_maximization(split_fraction=1.5)
