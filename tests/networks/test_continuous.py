"""Continuous normalising flows: inverse, log-determinant, integrators, estimated divergence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from helpers import (
    TOLERANCES,
    check_bijection,
    check_gradient_of_log_prob,
    end_of_a_short_flow,
    perturbed,
)

from swjko import flows
from swjko.linalg import hadamard_signs
from swjko.networks.continuous import Diffrax, RungeKutta, with_divergence

each_divergence = pytest.mark.parametrize("divergence", ["exact", "hutchinson"])


@pytest.mark.slow
@each_divergence
@pytest.mark.parametrize("dim", [1, 5])
@pytest.mark.parametrize(("dtype", "inverse_tolerance", "log_det_tolerance"), TOLERANCES)
def test_maps_invert_with_the_log_det_of_their_jacobian(
    divergence, dim, dtype, inverse_tolerance, log_det_tolerance, key
):
    """At 64 steps the error of the integral is below the tolerances."""
    with jax.enable_x64(dtype == "float64"):
        family = flows.cnf(dim, width=8, divergence=divergence, num_integration_steps=64)
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), perturbed(family, key, 0.05))
        z = jax.random.normal(key, (16, dim), dtype)
        tolerances = (inverse_tolerance, log_det_tolerance)
        check_bijection(family, params, z, dtype, tolerances, jacobian=divergence == "exact")


@pytest.mark.slow
@each_divergence
@pytest.mark.parametrize("dim", [1, 5])
def test_starts_at_the_identity(divergence, dim, key):
    family = flows.cnf(dim, width=8, divergence=divergence)
    z = family.latent(key, 16)
    cloud = family.push(family.init(key), z)
    np.testing.assert_array_equal(cloud.points, z)
    base = jax.scipy.stats.norm.logpdf(z).sum(axis=1)
    np.testing.assert_allclose(cloud.log_density, base, rtol=1e-6)


def test_a_linear_field_flows_by_the_exponential_of_its_matrix_at_fourth_order(key):
    with jax.enable_x64(True):
        matrix, z = np.asarray([[0.3, -1.0], [0.8, -0.5]]), jax.random.normal(key, (5, 2))
        tangents = jnp.broadcast_to(jnp.eye(2)[:, None, :], (2, 5, 2))
        dynamics = with_divergence(lambda t, x: 2.0 * t * x @ matrix.T, tangents, 1.0)
        errors = []
        for num_steps in (8, 16):
            start = (z, jnp.zeros(5))
            x, log_det = RungeKutta(num_steps).integrate(dynamics, start, 0.0, 1.0)
            errors.append(np.max(np.abs(x - z @ scipy.linalg.expm(matrix).T)))
            np.testing.assert_allclose(log_det, np.trace(matrix), rtol=1e-12)
        assert errors[0] < 1e-4
        assert 12.0 < errors[0] / errors[1] < 20.0


@pytest.mark.parametrize("num_probes", [1, 3])
def test_estimated_divergence_is_unbiased_over_seeds(num_probes):
    with jax.enable_x64(True):
        dim, rows = 5, 3
        x = jnp.linspace(-1.0, 1.0, rows * dim).reshape(rows, dim)
        matrix = np.random.default_rng(0).normal(size=(dim, dim))

        def velocity(t, x):
            return jnp.sin(x @ matrix.T + t)

        def estimate(key):
            probes = hadamard_signs(key, rows, num_probes, dim, x.dtype)
            dynamics = with_divergence(velocity, probes, 1.0 / num_probes)
            return dynamics(jnp.asarray(0.3), (x, x[:, 0]))[1]

        values = np.asarray(jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(1), 1000)))
        reference = np.trace(jax.vmap(jax.jacfwd(lambda x: velocity(0.3, x)))(x), axis1=1, axis2=2)
        error = np.std(values, axis=0, ddof=1) / np.sqrt(1000)
        assert np.all(np.abs(np.mean(values, axis=0) - reference) < 4 * error)
        assert np.all(error > 0)


@pytest.mark.slow
def test_seeds_give_different_estimates_of_one_log_density(key):
    exact = flows.cnf(3, width=8)
    params, z = perturbed(exact, key), exact.latent(key, 400)
    families = [exact, *(flows.cnf(3, width=8, divergence="hutchinson", seed=i) for i in range(4))]
    reference, *values = (
        np.asarray(jax.jit(family.push)(params, z).log_density) for family in families
    )
    for value in values:
        assert abs(np.mean(value - reference)) < 4 * np.std(value - reference) / np.sqrt(len(z))
        assert np.std(value - reference) > 1e-3
    # Two seeds may draw the same signs, or opposite ones, which give the same estimate.
    assert any(np.any(value != values[0]) for value in values)


@pytest.mark.slow
@each_divergence
def test_gradient_of_log_prob_in_the_points_against_differences(divergence, key):
    with jax.enable_x64(True):
        family = flows.cnf(2, width=8, divergence=divergence, init_mean=0.5, init_scale=1.5)
        check_gradient_of_log_prob(family, key)


@pytest.mark.slow
def test_adaptive_steps_of_diffrax_agree_with_fixed_ones(key):
    diffrax = pytest.importorskip("diffrax")
    with jax.enable_x64(True):
        fixed = flows.cnf(2, width=8, num_integration_steps=128)
        adaptive = flows.cnf(2, width=8, solver=diffrax.Tsit5())
        params, z = perturbed(fixed, key), fixed.latent(key, 8)
        expected, cloud = jax.jit(fixed.push)(params, z), jax.jit(adaptive.push)(params, z)
        log_prob = jax.jit(adaptive.log_prob)(params, cloud.points)
        gradients = [
            jax.jit(jax.grad(lambda z, one=one: jnp.sum(one.push(params, z).log_density)))(z)
            for one in (fixed, adaptive)
        ]
        for value, reference, tolerance in (
            (cloud.points, expected.points, 1e-8),
            (cloud.log_density, expected.log_density, 1e-8),
            (log_prob, cloud.log_density, 1e-8),
            (gradients[1], gradients[0], 1e-7),
        ):
            np.testing.assert_allclose(value, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_an_integral_that_does_not_finish_is_nan():
    diffrax = pytest.importorskip("diffrax")
    with jax.enable_x64(True):
        dynamics = with_divergence(lambda t, x: x**2, jnp.ones((1, 2, 1)), 1.0)
        # dx/dt = x^2 from 2 is infinite at t = 1/2.
        start = (jnp.asarray([[2.0], [0.1]]), jnp.zeros(2))
        points, _ = Diffrax(diffrax.Tsit5(), 8).integrate(dynamics, start, 0.0, 1.0)
        assert bool(jnp.all(jnp.isnan(points)))


@pytest.mark.slow
@each_divergence
def test_a_short_flow_reaches_a_gaussian(divergence, key):
    exact, family = (
        flows.cnf(2, width=16, divergence=word, num_integration_steps=4)
        for word in ("exact", divergence)
    )
    assert end_of_a_short_flow(family, exact, key) < -2.0
