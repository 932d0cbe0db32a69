"""Convex potential flows against dense linear algebra, finite differences and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from flax import nnx
from helpers import (
    TOLERANCES,
    central_difference,
    check_bijection,
    check_gradient_of_log_prob,
    end_of_a_short_flow,
    perturbed,
)

from swjko import flows
from swjko.linalg import hadamard_signs
from swjko.networks import convex, hessians

each_log_det = pytest.mark.parametrize(
    ("log_det", "dim"), [("exact", 1), ("exact", 5), ("stochastic", 5)]
)
each_solver = pytest.mark.parametrize(
    "solve", [hessians.solve_dense, hessians.solve_by_conjugate_gradients]
)


def make_potential(dim, size=0.3):
    """A potential away from the start, where the network has negligible weight."""
    potential = convex.ConvexPotential(dim, 8, 2, 3, 1e-3, nnx.Rngs(0))
    leaves = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(nnx.state(potential)))))
    state = jax.tree.map(
        lambda leaf: leaf + size * jax.random.normal(next(leaves), leaf.shape, leaf.dtype),
        nnx.state(potential),
    )
    nnx.update(potential, state)
    return potential


def spd(dim, smallest=0.2, largest=4.0):
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0]
    return jnp.asarray(rotation @ np.diag(np.linspace(smallest, largest, dim)) @ rotation.T)


@pytest.mark.slow
@each_log_det
@pytest.mark.parametrize(("dtype", "inverse_tolerance", "log_det_tolerance"), TOLERANCES)
def test_maps_invert_with_the_log_det_of_their_jacobian(
    log_det, dim, dtype, inverse_tolerance, log_det_tolerance, key
):
    with jax.enable_x64(dtype == "float64"):
        family = flows.icnn(dim, width=8, log_det=log_det)
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), perturbed(family, key, 0.1))
        z = jax.random.normal(key, (16, dim), dtype)
        tolerances = (inverse_tolerance, log_det_tolerance)
        check_bijection(family, params, z, dtype, tolerances, jacobian=log_det == "exact")


@pytest.mark.slow
@each_log_det
def test_starts_at_the_identity(log_det, dim, key):
    with jax.enable_x64(True):
        family = flows.icnn(dim, width=8, log_det=log_det)
        z = family.latent(key, 16)
        cloud = jax.jit(family.push)(family.init(key), z)
        np.testing.assert_allclose(cloud.points, z, rtol=1e-10, atol=1e-10)
        base = jax.scipy.stats.norm.logpdf(z).sum(axis=1)
        np.testing.assert_allclose(cloud.log_density, base, rtol=1e-10)


@pytest.mark.slow
def test_the_potential_is_convex_far_from_the_start(key):
    with jax.enable_x64(True):
        potential = make_potential(3, size=1.0)
        hessians = jax.jit(jax.vmap(jax.hessian(potential)))(3.0 * jax.random.normal(key, (50, 3)))
        assert float(jnp.min(jnp.linalg.eigvalsh(hessians))) >= 1e-3


@pytest.mark.slow
@each_solver
def test_inverse_of_a_steep_potential_is_the_minimum_that_scipy_finds(solve):
    """Full Newton steps from z = x overshoot here, so they must be shortened."""
    with jax.enable_x64(True):

        def potential(z):
            steep = 20.0 * jnp.sum(jax.nn.softplus(5.0 * z - 3.0))
            return 0.005 * jnp.sum(z**2) + steep + jax.nn.softplus(jnp.sum(z))

        x = jnp.asarray([[30.0, -0.05], [99.0, 0.4], [0.3, 60.0]])
        z = jax.jit(lambda x: convex.inverse_transport(potential, x, solve))(x)
        np.testing.assert_allclose(convex.transport(potential, z), x, rtol=1e-9, atol=1e-9)
        for row, found in zip(np.asarray(x), np.asarray(z), strict=True):
            best = scipy.optimize.minimize(
                lambda z, x=row: float(potential(jnp.asarray(z))) - z @ x,
                np.zeros(2),
                method="Nelder-Mead",
            )
            assert float(potential(jnp.asarray(found))) - found @ row <= best.fun + 1e-8


@pytest.mark.slow
@each_solver
def test_derivatives_of_the_inverse_against_differences(solve, key):
    """In the points and in the parameters of the potential, in forward and reverse mode."""
    with jax.enable_x64(True):
        potential, x = make_potential(2), np.asarray(jax.random.normal(key, (3, 2)))
        graph, state = nnx.split(potential)
        direction = np.cos(np.arange(6.0)).reshape(3, 2)

        @jax.jit
        def value(x, shift):
            shifted = jax.tree.map(lambda leaf: leaf + shift * jnp.ones_like(leaf), state)
            moved = nnx.merge(graph, shifted)
            return jnp.sum(direction * convex.inverse_transport(moved, x, solve))

        by_points, by_shift = jax.jit(jax.grad(value, argnums=(0, 1)))(x, 0.0)
        difference = central_difference(lambda x: value(x, 0.0), x)
        np.testing.assert_allclose(by_points, difference, rtol=1e-6, atol=1e-8)
        difference = central_difference(lambda shift: value(x, shift), 0.0)
        np.testing.assert_allclose(by_shift, difference, rtol=1e-6)
        forward = jax.jvp(lambda shift: value(x, shift), (0.0,), (1.0,))[1]
        np.testing.assert_allclose(forward, by_shift, rtol=1e-8)


@pytest.mark.slow
def test_stochastic_log_det_and_its_gradient_are_unbiased_over_seeds():
    with jax.enable_x64(True):
        dim = 5
        potential, z = make_potential(dim), jnp.linspace(-1.0, 1.0, 3 * dim).reshape(3, dim)
        graph, state = nnx.split(potential)

        def exact(state, z):
            return jnp.sum(hessians.log_det_hessian(nnx.merge(graph, state), z))

        def estimate(state, z, key):
            probes, moved = hadamard_signs(key, 3, 1, dim, z.dtype), nnx.merge(graph, state)
            return jnp.sum(hessians.stochastic_log_det_hessian(moved, z, probes))

        reference = jax.jit(jax.value_and_grad(exact, argnums=(0, 1)))(state, z)
        keys = jax.random.split(jax.random.key(2), 400)
        estimates = jax.vmap(jax.value_and_grad(estimate, argnums=(0, 1)), (None, None, 0))
        values = jax.jit(estimates)(state, z, keys)
        for several, one in zip(jax.tree.leaves(values), jax.tree.leaves(reference), strict=True):
            # Along one direction: among hundreds of entries one exceeds four standard errors.
            weight = np.cos(1.0 + np.arange(np.size(one))).reshape(np.shape(one))
            projected = np.sum(np.asarray(several) * weight, axis=tuple(range(1, np.ndim(several))))
            error = np.std(projected, ddof=1) / np.sqrt(len(keys))
            assert abs(np.mean(projected) - np.sum(np.asarray(one) * weight)) < 4 * error + 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "tolerance"), [(2, 1e-12), (9, 1e-12), (40, 1e-4)])
def test_lanczos_quadrature_against_the_logarithm_of_the_matrix(dim, tolerance):
    """Exact up to 16 dimensions; the mean over all rows of a Hadamard matrix is the trace."""
    with jax.enable_x64(True):
        matrix, size = spd(dim), 1 << (dim - 1).bit_length()
        values, vectors = np.linalg.eigh(matrix)
        probes = hadamard_signs(jax.random.key(0), size, 1, dim, jnp.float64)
        estimates = hessians.stochastic_log_det_hessian(
            lambda z: 0.5 * z @ matrix @ z, jnp.zeros((size, dim)), probes
        )
        reference = np.einsum("ni,i->n", (np.asarray(probes[0]) @ vectors) ** 2, np.log(values))
        np.testing.assert_allclose(estimates, reference, rtol=tolerance, atol=tolerance)
        log_det = np.linalg.slogdet(matrix)[1]
        np.testing.assert_allclose(jnp.mean(estimates), log_det, rtol=10 * tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_rows", "num_probes", "dim"), [(8, 1, 5), (2, 4, 7), (1, 1, 1), (16, 1, 16)]
)
def test_probes_are_signs_of_unit_covariance(num_rows, num_probes, dim, key):
    probes = hadamard_signs(key, num_rows, num_probes, dim, jnp.float32).reshape(-1, dim)
    np.testing.assert_array_equal(jnp.abs(probes), 1.0)
    np.testing.assert_array_equal(probes.T @ probes / probes.shape[0], np.eye(dim))


@pytest.mark.slow
@pytest.mark.parametrize("log_det", ["exact", "stochastic"])
def test_gradient_of_log_prob_in_the_points_against_differences(log_det, key):
    """The estimate's gradient is its own derivative only in one dimension."""
    with jax.enable_x64(True):
        dim = 2 if log_det == "exact" else 1
        family = flows.icnn(dim, width=8, log_det=log_det, init_mean=0.5, init_scale=1.5)
        check_gradient_of_log_prob(family, key)


@pytest.mark.slow
@pytest.mark.parametrize("log_det", ["exact", "stochastic"])
def test_a_short_flow_reaches_a_gaussian(log_det, key):
    exact, family = (flows.icnn(2, width=16, log_det=word) for word in ("exact", log_det))
    assert end_of_a_short_flow(family, exact, key) < -2.0
