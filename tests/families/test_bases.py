"""Bases of flows: Student t laws, learned weights of mixtures, and images of both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import perturbed

import swjko
from swjko import flows

jitted_sample = jax.jit(swjko.sample, static_argnums=3)


def student(params=None):
    family = swjko.student_t(
        2, init_mean=0.5, init_scale=2.0, init_degrees_of_freedom=jnp.array([3.0, 40.0])
    )
    return family, family.init(jax.random.key(0)) if params is None else params


def mixture(logits=(0.0, 1.0, -1.0)):
    family = swjko.gaussian_mixture(2, 3, learned_weights=True)
    params = family.init(jax.random.key(1)) | {"logits": jnp.asarray(logits)}
    return family, params


def test_student_t_against_scipy(key):
    family, params = student()
    cloud = jitted_sample(family, params, key, 4000)
    for column, degrees in zip(np.asarray(cloud.points, np.float64).T, (3.0, 40.0), strict=True):
        assert scipy.stats.kstest(column, scipy.stats.t(degrees, 0.5, 2.0).cdf).pvalue > 0.01
    points = np.asarray(cloud.points, np.float64)
    reference = scipy.stats.t([3.0, 40.0], 0.5, 2.0).logpdf(points).sum(axis=1)
    np.testing.assert_allclose(cloud.log_density, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_points_of_student_t_move_as_its_quantiles_with_the_degrees_of_freedom(key):
    # d E |t| / d nu, by the derivative of the points and in closed form by finite differences.
    with jax.enable_x64(True):
        family = swjko.student_t(1)
        params, latent = family.init(key), family.latent(key, 400_000)

        def mean_size(log_degrees):
            moved = params | {"log_degrees_of_freedom": log_degrees}
            return jnp.mean(jnp.abs(family.push(moved, latent).points))

        value, gradient = jax.value_and_grad(mean_size)(jnp.log(jnp.array([10.0])))
        low, at, high = (
            scipy.stats.t(nu).expect(abs) for nu in (10 * np.exp(-0.01), 10, 10 * np.exp(0.01))
        )
        assert float(value) == pytest.approx(at, abs=5e-3)
        assert float(gradient[0]) == pytest.approx((high - low) / 0.02, abs=5e-3)


@pytest.mark.slow
def test_learned_weights_give_the_law_and_its_draws(key):
    family, params = mixture()
    share = np.asarray(jax.nn.softmax(params["logits"]))
    far = params | {"mean": jnp.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])}
    points = np.asarray(jitted_sample(family, far, key, 1000).points)
    counts = [
        np.sum(np.linalg.norm(points - mean, axis=1) < 30) for mean in np.asarray(far["mean"])
    ]
    np.testing.assert_allclose(counts, 1000 * share, atol=1.0)
    at = np.array([[0.3, -0.2], [1.0, 2.0]])
    densities = [
        scipy.stats.multivariate_normal(mean, np.diag(np.exp(2 * np.asarray(log_diagonal)))).pdf(at)
        for mean, log_diagonal in zip(params["mean"], params["log_diagonal"], strict=True)
    ]
    reference = np.log(share @ np.array(densities))
    np.testing.assert_allclose(family.log_prob(params, jnp.asarray(at)), reference, rtol=1e-5)


@pytest.mark.slow
def test_functionals_see_the_weights_and_have_their_gradient(key):
    family, params = mixture()
    latent = family.latent(key, 300)

    def energy(logits):
        cloud = family.push(params | {"logits": logits}, latent)
        assert cloud.weights is not None
        return swjko.potential(lambda x: x[0])(key, cloud)

    value, gradient = jax.value_and_grad(energy)(params["logits"])
    # It is sum_k pi_k m_k, with m_k the mean of the points of component k.
    points = np.asarray(family.push(params, latent).points[:, 0])
    component = np.asarray(latent[0])
    means = np.array([points[component == k].mean() for k in range(3)])
    share = np.asarray(jax.nn.softmax(params["logits"]))
    assert float(value) == pytest.approx(share @ means, abs=1e-5)
    np.testing.assert_allclose(gradient, share * (means - share @ means), atol=1e-5)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("base", ["student_t", "mixture", "flow"])
@pytest.mark.parametrize("make", [flows.coupling, flows.spline, flows.icnn, flows.cnf])
def test_density_on_a_base_is_that_of_the_image(base, make, key):
    law = {
        "student_t": lambda: swjko.student_t(2),
        "mixture": lambda: swjko.gaussian_mixture(2, 3, learned_weights=True),
        "flow": lambda: swjko.FlowDistribution(*student()),
    }[base]()
    options = {} if make is flows.cnf else {"num_layers": 2}
    family = make(2, width=8, init_mean=0.5, init_scale=1.5, base=law, **options)
    params = perturbed(family, key)
    cloud = jitted_sample(family, params, key, 64)
    density = jax.jit(family.log_prob)(params, cloud.points)
    np.testing.assert_allclose(cloud.log_density, density, rtol=2e-3, atol=2e-3)


def test_a_flow_starts_at_the_image_of_its_base(key):
    base, base_params = student()
    family = flows.coupling(2, num_layers=2, width=8, init_mean=1.0, init_scale=3.0, base=base)
    params = family.init(key)
    points = jnp.array([[0.5, 1.0], [-2.0, 4.0]])
    reference = base.log_prob(base_params, (points - 1.0) / 3.0) - 2 * np.log(3.0)
    np.testing.assert_allclose(family.log_prob(params, points), reference, rtol=1e-5)


def test_generators_move_the_draws_of_their_base(key):
    mixture = swjko.gaussian_mixture(2, 3)
    law = swjko.FlowDistribution(mixture, mixture.init(key))
    family = flows.mlp(2, 2, width=8, init_mean=1.0, init_scale=3.0, base=law)
    latent = family.latent(key, 64)
    # The perceptron starts at the identity.
    points = family.push(family.init(key), latent).points
    np.testing.assert_allclose(points, 1.0 + 3.0 * law.sample(key, 64).points, rtol=1e-5)
    images = flows.convolutional(2, (4, 4, 1), width=4, base=law)
    network = flows.convolutional(2, (4, 4, 1), width=4)
    params = images.init(key)
    expected = network.push(params["map"], latent.points).points
    np.testing.assert_allclose(images.push(params, latent).points, expected, atol=1e-6)


def test_a_base_that_does_not_fit_is_refused(as_users_see_it):
    with pytest.raises(ValueError, match="base must have the dimension of the latents, 2; got 3"):
        flows.coupling(2, base=swjko.student_t(3))
    with pytest.raises(TypeError, match="base must be a family or a distribution"):
        flows.coupling(2, base="student")
    with pytest.raises(ValueError, match="base must have the dimension of the latents, 3; got 2"):
        flows.mlp(3, 2, base=swjko.student_t(2))
    with pytest.raises(ValueError, match="init_degrees_of_freedom"):
        swjko.student_t(2, init_degrees_of_freedom=0.0)
