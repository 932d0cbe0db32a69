"""Continuous normalising flows: inverse and log-determinant, order of the integrator, estimated divergence, diffrax."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from helpers import TOLERANCES, end_of_a_short_flow, perturbed

from swjko import flows
from swjko.linalg import row_probes
from swjko.networks import continuous


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
@pytest.mark.parametrize("dim", [1, 5])
@pytest.mark.parametrize(("dtype", "inverse_tolerance", "log_det_tolerance"), TOLERANCES)
def test_maps_invert_with_the_log_det_of_their_jacobian(
    divergence, dim, dtype, inverse_tolerance, log_det_tolerance, key
):
    """To the error of the integral, which at 64 steps is below the tolerances."""
    with jax.enable_x64(dtype == "float64"):
        family = flows.cnf(dim, width=8, divergence=divergence, num_integration_steps=64)
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), perturbed(family, key, 0.05))
        z = jax.random.normal(key, (16, dim), dtype)
        cloud = jax.jit(family.push)(params, z)
        assert cloud.points.dtype == jnp.dtype(dtype)
        assert float(jnp.max(jnp.abs(cloud.points - z))) > 0.1
        back, log_det = jax.jit(family.log_prob.args[2].args[0])(params, cloud.points)
        np.testing.assert_allclose(back, z, rtol=inverse_tolerance, atol=inverse_tolerance)
        base = jax.scipy.stats.norm.logpdf(z).sum(axis=1)
        np.testing.assert_allclose(
            base + log_det, cloud.log_density, rtol=log_det_tolerance, atol=log_det_tolerance
        )
        if divergence == "exact":
            jacobians = jax.jit(
                jax.vmap(jax.jacrev(lambda z: family.push(params, z[None]).points[0]))
            )(z)
            np.testing.assert_allclose(
                cloud.log_density,
                base - jnp.linalg.slogdet(jacobians)[1],
                rtol=log_det_tolerance,
                atol=log_det_tolerance,
            )


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
@pytest.mark.parametrize("dim", [1, 5])
def test_starts_at_the_identity(divergence, dim, key):
    family = flows.cnf(dim, width=8, divergence=divergence)
    z = family.latent(key, 16)
    cloud = family.push(family.init(key), z)
    np.testing.assert_array_equal(cloud.points, z)
    np.testing.assert_allclose(
        cloud.log_density, jax.scipy.stats.norm.logpdf(z).sum(axis=1), rtol=1e-6
    )


def test_a_linear_field_flows_by_the_exponential_of_its_matrix_at_fourth_order(key):
    with jax.enable_x64(True):
        matrix, z = np.asarray([[0.3, -1.0], [0.8, -0.5]]), jax.random.normal(key, (5, 2))
        tangents = jnp.broadcast_to(jnp.eye(2)[:, None, :], (2, 5, 2))
        dynamics = continuous.with_divergence(lambda t, x: 2.0 * t * x @ matrix.T, tangents, 1.0)
        errors = []
        for num_steps in (8, 16):
            x, log_det = continuous.RungeKutta(num_steps).integrate(
                dynamics, (z, jnp.zeros(5)), 0.0, 1.0
            )
            errors.append(np.max(np.abs(x - z @ scipy.linalg.expm(matrix).T)))
            np.testing.assert_allclose(log_det, np.trace(matrix), rtol=1e-12)
        assert errors[0] < 1e-4
        assert 12.0 < errors[0] / errors[1] < 20.0


@pytest.mark.parametrize("num_probes", [1, 3])
def test_estimated_divergence_is_unbiased_over_seeds(num_probes):
    with jax.enable_x64(True):
        dim, rows = 5, 3
        x, matrix = (
            jnp.linspace(-1.0, 1.0, rows * dim).reshape(rows, dim),
            np.random.default_rng(0).normal(size=(dim, dim)),
        )

        def velocity(t, x):
            return jnp.sin(x @ matrix.T + t)

        def estimate(key):
            probes = row_probes(key, rows, num_probes, dim, x.dtype)
            return continuous.with_divergence(velocity, probes, 1.0 / num_probes)(
                jnp.asarray(0.3), (x, x[:, 0])
            )[1]

        values = np.asarray(jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(1), 1000)))
        reference = np.trace(jax.vmap(jax.jacfwd(lambda x: velocity(0.3, x)))(x), axis1=1, axis2=2)
        error = np.std(values, axis=0, ddof=1) / np.sqrt(1000)
        assert np.all(np.abs(np.mean(values, axis=0) - reference) < 4 * error)
        assert np.all(error > 0)


def test_seeds_are_other_estimates_of_one_log_density(key):
    exact = flows.cnf(3, width=8)
    params = perturbed(exact, key)
    z = exact.latent(key, 400)
    reference = np.asarray(jax.jit(exact.push)(params, z).log_density)
    values = [
        np.asarray(
            jax.jit(flows.cnf(3, width=8, divergence="hutchinson", seed=seed).push)(
                params, z
            ).log_density
        )
        for seed in range(4)
    ]
    for value in values:
        assert abs(np.mean(value - reference)) < 4 * np.std(value - reference) / np.sqrt(len(z))
        assert np.std(value - reference) > 1e-3
    # Signs that are another seed's, or their opposites, give its estimate.
    assert any(np.any(value != values[0]) for value in values)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_gradient_of_log_prob_in_the_points_against_differences(divergence, key):
    with jax.enable_x64(True):
        family = flows.cnf(2, width=8, divergence=divergence, init_mean=0.5, init_scale=1.5)
        params, points = perturbed(family, key), np.asarray(jax.random.normal(key, (4, 2)))
        total = jax.jit(lambda points: jnp.sum(jnp.sin(family.log_prob(params, points))))
        np.testing.assert_allclose(
            jax.jit(jax.grad(total))(points),
            helpers.central_difference(total, points),
            rtol=1e-6,
            atol=1e-8,
        )


def test_adaptive_steps_of_diffrax_agree_with_fixed_ones(key):
    diffrax = pytest.importorskip("diffrax")
    with jax.enable_x64(True):
        fixed = flows.cnf(2, width=8, num_integration_steps=128)
        adaptive = flows.cnf(2, width=8, solver=diffrax.Tsit5())
        params, z = perturbed(fixed, key), fixed.latent(key, 8)
        expected, cloud = jax.jit(fixed.push)(params, z), jax.jit(adaptive.push)(params, z)
        np.testing.assert_allclose(cloud.points, expected.points, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(cloud.log_density, expected.log_density, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(
            jax.jit(adaptive.log_prob)(params, cloud.points),
            cloud.log_density,
            rtol=1e-8,
            atol=1e-8,
        )
        gradients = [
            jax.jit(jax.grad(lambda z, one=one: jnp.sum(one.push(params, z).log_density)))(z)
            for one in (fixed, adaptive)
        ]
        np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-7, atol=1e-7)


def test_an_integral_that_does_not_finish_is_nan():
    diffrax = pytest.importorskip("diffrax")
    with jax.enable_x64(True):
        dynamics = continuous.with_divergence(lambda t, x: x**2, jnp.ones((1, 2, 1)), 1.0)
        # dx/dt = x^2 from 2 is infinite at t = 1/2.
        points, _ = continuous.Diffrax(diffrax.Tsit5(), 8).integrate(
            dynamics, (jnp.asarray([[2.0], [0.1]]), jnp.zeros(2)), 0.0, 1.0
        )
        assert bool(jnp.all(jnp.isnan(points)))


@pytest.mark.slow
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_a_short_flow_reaches_a_gaussian(divergence, key):
    exact, family = (
        flows.cnf(2, width=16, divergence=word, num_integration_steps=4)
        for word in ("exact", divergence)
    )
    assert end_of_a_short_flow(family, exact, key) < -2.0
