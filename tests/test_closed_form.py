"""The oracles: against SciPy, one dimension, and stationarity of the objective."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.optimize
from helpers import central_difference

from swjko import closed_form, orthogonal_directions

# Compiled whole: one operation after the other, nearly all of the time would be the compiler's.
w2_pow, sw2_pow = jax.jit(closed_form.gaussian_w2_pow), jax.jit(closed_form.gaussian_sw2_pow)
sw_jko_step, sw_bdf2_step = (
    jax.jit(closed_form.gaussian_sw_jko_step),
    jax.jit(closed_form.gaussian_sw_bdf2_step),
)
jko_step, isotropic_step = (
    jax.jit(closed_form.gaussian_jko_step),
    jax.jit(closed_form.isotropic_sw_jko_step),
)
ornstein_uhlenbeck = jax.jit(closed_form.ornstein_uhlenbeck)
w2_curvature = jax.jit(jax.hessian(closed_form.gaussian_w2_pow))
directions_of = jax.jit(orthogonal_directions, static_argnums=(1, 2))


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def gaussian(seed, d):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(d, d))
    return rng.normal(size=d), factor @ factor.T / d + 0.2 * np.eye(d)


def arrays(*values):
    return tuple(jnp.asarray(value) for value in values)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_w2_against_scipy(d):
    (mean0, cov0), (mean1, cov1) = gaussian(0, d), gaussian(1, d)
    root = scipy.linalg.sqrtm(cov0)
    expected = np.sum((mean0 - mean1) ** 2) + np.trace(
        cov0 + cov1 - 2 * scipy.linalg.sqrtm(root @ cov1 @ root).real
    )
    np.testing.assert_allclose(w2_pow(*arrays(mean0, cov0, mean1, cov1)), expected, rtol=1e-10)


def test_w2_of_singular_covariances():
    # Two segments at a right angle: the cross term vanishes.
    value = w2_pow(*arrays(np.zeros(2), np.diag([4.0, 0.0]), np.ones(2), np.diag([0.0, 9.0])))
    np.testing.assert_allclose(value, 2.0 + 4.0 + 9.0, rtol=1e-10)


@pytest.mark.parametrize("d", [1, 3])
def test_sw2_is_the_mean_of_one_dimensional_distances(d):
    # By quadrature of the two quantile functions of each projection.
    (mean0, cov0), (mean1, cov1) = gaussian(2, d), gaussian(3, d)
    directions = np.asarray(directions_of(jax.random.key(0), 6, d))
    nodes, masses = np.polynomial.hermite_e.hermegauss(20)
    masses = masses / masses.sum()

    def quantiles(mean, cov, theta):
        return theta @ mean + np.sqrt(theta @ cov @ theta) * nodes

    costs = [
        masses @ (quantiles(mean0, cov0, theta) - quantiles(mean1, cov1, theta)) ** 2
        for theta in directions
    ]
    value = sw2_pow(*arrays(mean0, cov0, mean1, cov1), jnp.asarray(directions))
    np.testing.assert_allclose(value, np.mean(costs), rtol=1e-10)


def test_sw2_against_w2_on_the_line():
    (mean0, cov0), (mean1, cov1) = gaussian(4, 1), gaussian(5, 1)
    inputs = arrays(mean0, cov0, mean1, cov1)
    np.testing.assert_allclose(sw2_pow(*inputs, jnp.ones((1, 1))), w2_pow(*inputs), rtol=1e-10)


@jax.jit
@functools.partial(jax.value_and_grad, argnums=(0, 1))
def sw_jko_objective(new_mean, new_cov, mean, cov, precision, center, step_size, directions):
    sigma, old_sigma = (
        jnp.sqrt(jnp.sum((directions @ matrix) * directions, axis=1)) for matrix in (new_cov, cov)
    )
    proximity = jnp.mean((directions @ (new_mean - mean)) ** 2 + (sigma - old_sigma) ** 2) / (
        2 * step_size
    )
    away = new_mean - center
    energy = (away @ precision @ away + jnp.trace(precision @ new_cov)) / 2 - jnp.linalg.slogdet(
        new_cov
    )[1] / 2
    return proximity + energy


@pytest.mark.parametrize("d", [1, 2, 4])
@pytest.mark.parametrize("step_size", [1e-3, 0.1, 5.0])
def test_the_step_is_stationary(d, step_size):
    mean, cov = gaussian(6, d)
    center, precision = gaussian(7, d)
    inputs = (
        *arrays(mean, cov, precision, center),
        step_size,
        directions_of(jax.random.key(1), 16 * d, d),
    )
    new = jax.device_get(sw_jko_step(*inputs))
    least, (mean_gradient, cov_gradient) = jax.device_get(sw_jko_objective(*new, *inputs))
    # The terms that cancel are of the size of 1 / step_size and of the inverse covariance.
    scale = 1 / step_size + np.max(np.linalg.inv(new.cov))
    assert np.max(np.abs(mean_gradient)) < 1e-10 * scale
    assert np.max(np.abs(cov_gradient + cov_gradient.T)) < 1e-10 * scale
    np.testing.assert_allclose(new.cov, new.cov.T, atol=1e-13)
    assert least < sw_jko_objective(*arrays(mean, cov), *inputs)[0]
    rng = np.random.default_rng(0)
    for _ in range(5):
        move = rng.normal(size=(d, d)) * 1e-2
        elsewhere = scipy.linalg.expm(move) @ new.cov @ scipy.linalg.expm(move).T
        assert sw_jko_objective(new.mean, elsewhere, *inputs)[0] > least


@pytest.mark.slow_except_first
@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_general_step_in_the_isotropic_case(d):
    mean, center = np.linspace(1.0, 2.0, d), np.linspace(-1.0, 0.5, d)
    directions = directions_of(jax.random.key(2), 3 * d, d)
    isotropic = isotropic_step(*arrays(mean, 1.7, center), 0.3)
    general = sw_jko_step(*arrays(mean, 1.7**2 * np.eye(d), np.eye(d), center), 0.3, directions)
    np.testing.assert_allclose(general.mean, isotropic.mean, rtol=1e-10)
    np.testing.assert_allclose(general.cov, isotropic.scale**2 * np.eye(d), rtol=1e-10, atol=1e-10)


def test_ten_steps_in_the_plane():
    # The scalar equation of the isotropic step, s'(1 + h) - s - h / s' = 0, by bisection.
    d, step_size, mean, scale = 2, 0.1, 2.0, 2.0
    h = d * step_size
    state = closed_form.IsotropicGaussian(jnp.full((d,), mean), jnp.asarray(scale))
    for _ in range(10):
        state = isotropic_step(state.mean, state.scale, jnp.zeros((d,)), step_size)
        mean = mean / (1 + h)
        previous = scale
        scale = scipy.optimize.brentq(
            lambda s, previous=previous: s * (1 + h) - previous - h / s, 1e-3, 10.0, xtol=1e-14
        )
    np.testing.assert_allclose(state.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(state.scale, scale, rtol=1e-10)
    np.testing.assert_allclose([state.mean[0], state.scale], [0.3230, 1.0460], atol=5e-5)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("time", [0.0, 0.3, 2.0])
def test_ornstein_uhlenbeck_against_scipy(d, time):
    # The covariance is e^{-tA} S e^{-tA} + 2 int_0^t e^{-2sA} ds; the integral by Gauss-Legendre.
    (mean, cov), (center, precision) = gaussian(8, d), gaussian(9, d)
    decay = scipy.linalg.expm(-time * precision)
    nodes, masses = np.polynomial.legendre.leggauss(60)
    noise = sum(
        mass * time * scipy.linalg.expm(-time * (1 + node) * precision)
        for node, mass in zip(nodes, masses, strict=True)
    )
    law = ornstein_uhlenbeck(*arrays(mean, cov, precision, center), time)
    np.testing.assert_allclose(law.mean, center + decay @ (mean - center), atol=1e-10)
    np.testing.assert_allclose(law.cov, decay @ cov @ decay + noise, atol=1e-10)


def test_ornstein_uhlenbeck_ends_at_the_target():
    (mean, cov), (center, precision) = gaussian(10, 3), gaussian(11, 3)
    law = ornstein_uhlenbeck(*arrays(mean, cov, precision, center), 1e3)
    np.testing.assert_allclose(law.mean, center, atol=1e-10)
    np.testing.assert_allclose(law.cov, np.linalg.inv(precision), atol=1e-10)


def test_the_target_does_not_move():
    center, precision = gaussian(12, 3)
    target = arrays(center, np.linalg.inv(precision))
    directions = directions_of(jax.random.key(3), 30, 3)
    step = sw_jko_step(*target, *arrays(precision, center), 0.5, directions)
    np.testing.assert_allclose(step.mean, center, atol=1e-10)
    np.testing.assert_allclose(step.cov, target[1], rtol=1e-9, atol=1e-10)


def test_under_jit_and_vmap():
    (mean, cov), (center, precision) = gaussian(13, 2), gaussian(14, 2)
    directions = directions_of(jax.random.key(4), 8, 2)
    inputs = arrays(mean, cov, precision, center)
    sizes = jnp.asarray([0.05, 0.5])
    batched = jax.jit(
        jax.vmap(lambda step_size: closed_form.gaussian_sw_jko_step(*inputs, step_size, directions))
    )(sizes)
    for index, step_size in enumerate(sizes):
        one = closed_form.gaussian_sw_jko_step(*inputs, step_size, directions)
        np.testing.assert_allclose(batched.mean[index], one.mean, rtol=1e-12)
        np.testing.assert_allclose(batched.cov[index], one.cov, rtol=1e-9)


def sw_limit(mean, cov, precision, center, time, directions):
    """The SW gradient flow of Gaussians by a Runge-Kutta method of order eight.

    The metric on symmetric changes U of a covariance S is
    mean_l (theta_l^T U theta_l)^2 / (4 theta_l^T S theta_l); on means it is |.|^2 / d.
    """
    d, theta = len(mean), np.asarray(directions)
    rows, columns = np.triu_indices(d)
    basis = np.zeros((len(rows), d, d))
    basis[np.arange(len(rows)), rows, columns] = 1
    basis = np.maximum(basis, basis.transpose(0, 2, 1))
    probes = np.einsum("li,kij,lj->lk", theta, basis, theta)

    def velocity(_, state):
        s = np.einsum("k,kij->ij", state[d:], basis)
        metric = (
            probes.T
            @ (probes / (4 * np.einsum("li,ij,lj->l", theta, s, theta))[:, None])
            / len(theta)
        )
        force = np.einsum("ij,kij->k", np.linalg.inv(s) - precision, basis) / 2
        return np.concatenate(
            [-d * precision @ (state[:d] - center), np.linalg.solve(metric, force)]
        )

    start = np.concatenate([mean, cov[rows, columns]])
    end = scipy.integrate.solve_ivp(
        velocity, (0, time), start, method="DOP853", rtol=1e-11, atol=1e-12
    ).y[:, -1]
    return end[:d], np.einsum("k,kij->ij", end[d:], basis)


def spread(rng, d, low, high):
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    matrix = (basis * np.linspace(low, high, d)) @ basis.T
    return (matrix + matrix.T) / 2


@pytest.mark.slow_except_first
@pytest.mark.parametrize("d", [2, 3])
def test_orders_of_convergence_in_time(d):
    rng = np.random.default_rng(d)
    precision, center, mean, cov = (
        spread(rng, d, 0.5, 2.0),
        rng.normal(size=d),
        rng.normal(size=d),
        spread(rng, d, 0.6, 1.5),
    )
    directions = directions_of(jax.random.key(0), 12 * d, d)
    exact_mean, exact_cov = sw_limit(mean, cov, precision, center, 0.3, directions)

    @jax.jit
    def ends(num_steps):
        step_size = 0.3 / num_steps
        inputs = (*arrays(precision, center), step_size, directions)

        def step(_, laws):
            first_order, law, previous = laws
            return (
                closed_form.gaussian_sw_jko_step(*first_order, *inputs),
                closed_form.gaussian_sw_bdf2_step(*law, *previous, *inputs),
                law,
            )

        start = closed_form.Gaussian(*arrays(mean, cov))
        first = closed_form.gaussian_sw_jko_step(*start, *inputs)
        return jax.lax.fori_loop(1, num_steps, step, (first, first, start))[:2]

    def error(law):
        return np.hypot(np.linalg.norm(law.mean - exact_mean), np.linalg.norm(law.cov - exact_cov))

    errors = np.asarray(
        [[error(law) for law in ends(num_steps)] for num_steps in (16, 32, 64, 128, 256)]
    )
    orders = np.log2(errors[:-1] / errors[1:])
    assert np.all(np.abs(orders[:, 0] - 1.0) < 0.1)
    assert np.all(orders[:, 1] >= 1.8)
    assert errors[-1, 1] < 0.02 * errors[-1, 0]


def test_the_second_order_step_on_the_line():
    # Minimise 3 (s - (4 s_k - s_{k-1}) / 3)^2 / (4 tau) + a s^2 / 2 - log s, likewise the mean.
    tau, a, mean, scale, previous_mean, previous_scale = 0.3, 1.7, 0.4, 1.2, 0.9, 2.0
    step = 2 * tau / 3
    extrapolated = (4 * scale - previous_scale) / 3
    new_scale = scipy.optimize.brentq(
        lambda s: (s - extrapolated) / step + a * s - 1 / s, 1e-3, 10.0, xtol=1e-14
    )
    line = [
        np.full((1,), mean),
        np.full((1, 1), scale**2),
        np.full((1,), previous_mean),
        np.full((1, 1), previous_scale**2),
    ]
    law = sw_bdf2_step(
        *arrays(*line, np.full((1, 1), a), np.full((1,), -0.5)), tau, jnp.ones((1, 1))
    )
    np.testing.assert_allclose(law.cov, [[new_scale**2]], rtol=1e-10)
    np.testing.assert_allclose(
        law.mean, [((4 * mean - previous_mean) / 3 - 0.5 * step * a) / (1 + step * a)], rtol=1e-10
    )


@pytest.mark.slow
def test_the_flow_of_second_order_is_its_steps_in_turn():
    (mean, cov), (center, precision) = gaussian(15, 1), gaussian(16, 1)
    inputs = (*arrays(precision, center), 0.2)
    direction = jnp.ones((1, 1))
    flow = closed_form.gaussian_sw_bdf2_flow(*arrays(mean, cov), *inputs, 2, direction)
    start = closed_form.Gaussian(*arrays(mean, cov))
    first = sw_jko_step(*start, *inputs, direction)
    second = sw_bdf2_step(*first, *start, *inputs, direction)
    for index, law in enumerate((start, first, second)):
        np.testing.assert_allclose(flow.mean[index], law.mean, rtol=1e-10)
        np.testing.assert_allclose(flow.cov[index], law.cov, rtol=1e-9)


@pytest.mark.parametrize("d", [1, 2, 5, 20])
@pytest.mark.parametrize("step_size", [1e-4, 0.1, 10.0])
def test_the_wasserstein_step_satisfies_its_equations(d, step_size):
    (mean, cov), (center, precision) = gaussian(17, d), gaussian(18, d)
    new = jko_step(*arrays(mean, cov, precision, center), step_size)
    # The optimal map back, x -> x + step_size grad(V + log rho'), is positive definite and pushes
    # the new measure to the old one.
    back = np.eye(d) + step_size * (precision - np.linalg.inv(new.cov))
    np.testing.assert_allclose(back @ new.cov @ back, cov, atol=1e-10)
    assert np.linalg.eigvalsh((back + back.T) / 2).min() > 0
    np.testing.assert_allclose(
        new.mean + step_size * precision @ (new.mean - center), mean, atol=1e-10
    )


def test_the_wasserstein_step_is_a_minimum():
    (mean, cov), (center, precision) = gaussian(19, 3), gaussian(20, 3)
    inputs = arrays(mean, cov, precision, center)

    def objective(law):
        away = law.mean - center
        energy = (
            away @ precision @ away + jnp.sum(precision * law.cov) - jnp.linalg.slogdet(law.cov)[1]
        ) / 2
        return closed_form.gaussian_w2_pow(*law, *arrays(mean, cov)) / 0.6 + energy

    new = jko_step(*inputs, 0.3)
    gradient = jax.jit(jax.grad(objective))(new)
    np.testing.assert_allclose(gradient.mean, 0.0, atol=1e-9)
    np.testing.assert_allclose(gradient.cov + gradient.cov.T, 0.0, atol=1e-9)


def test_the_wasserstein_step_in_commuting_cases():
    # In each coordinate s'(1 + tau a) - s - tau / s' = 0; for equal coordinates also an SW step of
    # size tau / d.
    scales, rates, tau = np.array([0.5, 1.0, 3.0]), np.array([2.0, 0.3, 1.0]), 0.4
    mean, center = np.array([1.0, 0.0, -1.0]), np.array([0.0, 0.5, 0.5])
    new = jko_step(*arrays(mean, np.diag(scales**2), np.diag(rates), center), tau)
    pairs = zip(scales, rates, strict=True)
    roots = [
        scipy.optimize.brentq(
            lambda x, s=s, a=a: x * (1 + tau * a) - s - tau / x, 1e-3, 10.0, xtol=1e-14
        )
        for s, a in pairs
    ]
    np.testing.assert_allclose(new.cov, np.diag(np.square(roots)), atol=1e-12)
    isotropic = isotropic_step(*arrays(mean, 1.7, center), tau / 3)
    alike = jko_step(*arrays(mean, 1.7**2 * np.eye(3), np.eye(3), center), tau)
    np.testing.assert_allclose(alike.mean, isotropic.mean, rtol=1e-12)
    np.testing.assert_allclose(alike.cov, isotropic.scale**2 * np.eye(3), rtol=1e-12, atol=1e-12)


def test_the_target_is_a_fixed_point_of_the_wasserstein_step():
    center, precision = gaussian(21, 4)
    new = jko_step(*arrays(center, np.linalg.inv(precision), precision, center), 0.7)
    np.testing.assert_allclose(new.mean, center, atol=1e-12)
    np.testing.assert_allclose(new.cov, np.linalg.inv(precision), atol=1e-11)


def test_wasserstein_steps_come_to_ornstein_uhlenbeck_at_first_order():
    (mean, cov), (center, precision) = gaussian(22, 3), gaussian(23, 3)
    inputs = arrays(mean, cov, precision, center)
    exact = ornstein_uhlenbeck(*inputs, 0.8)

    def error(num_steps):
        flow = closed_form.gaussian_jko_flow(*inputs, 0.8 / num_steps, num_steps)
        assert flow.mean.shape == (num_steps + 1, 3)
        np.testing.assert_array_equal(flow.cov[0], cov)
        return np.hypot(
            np.linalg.norm(flow.mean[-1] - exact.mean), np.linalg.norm(flow.cov[-1] - exact.cov)
        )

    errors = np.array([error(num_steps) for num_steps in (100, 200, 400)])
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), 1.0, atol=0.05)
    assert errors[-1] < 0.01


@pytest.mark.slow
def test_the_gradient_of_w2_at_equal_eigenvalues():
    # In a covariance it is I minus the optimal map, here the scaling by 2, and its inverse.
    mean, identity = jnp.zeros(3), jnp.eye(3)
    inputs = (mean, identity, mean + 1.0, 4.0 * identity)
    gradients = jax.jit(jax.grad(closed_form.gaussian_w2_pow, argnums=(0, 1, 2, 3)))(*inputs)
    expected = (-2.0 * np.ones(3), -np.eye(3), 2.0 * np.ones(3), 0.5 * np.eye(3))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-14), gradients, expected)
    same = jax.vmap(jax.grad(closed_form.gaussian_w2_pow, argnums=1), in_axes=(None, 0, None, 0))
    np.testing.assert_allclose(same(mean, inputs[1][None], mean, inputs[1][None]), 0.0, atol=1e-14)
    # A derivative in the means does not look at the covariances, singular or not.
    slope = jax.grad(closed_form.gaussian_w2_pow)(mean, 0 * identity, mean + 1.0, 0 * identity)
    np.testing.assert_array_equal(slope, -2.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_w2_of_equal_laws_is_never_negative(dtype):
    for seed in range(20):
        law = [jnp.asarray(part, dtype) for part in gaussian(seed, 4)]
        assert 0.0 <= w2_pow(*law, *law) < 30 * np.finfo(dtype).eps * np.trace(law[1])
        # The second derivative in the mean is that of |.|^2, whether or not the value is clipped.
        np.testing.assert_array_equal(w2_curvature(*law, *law), 2 * np.eye(4))


def of_symmetric(function, *inputs):
    """A scalar function of the symmetric parts of a stack [2 d d], where all entries may move."""
    masses = np.random.default_rng(0).normal(size=12)

    def scalar(matrices):
        law = function(*((matrices + matrices.swapaxes(1, 2)) / 2), *inputs)
        return jnp.vdot(masses, jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(law)]))

    return scalar


ORIGIN, CENTER = np.zeros(3), np.array([1.0, -2.0, 0.5])
OF_TWO_MATRICES = {
    "w2": lambda cov, other: closed_form.Gaussian(
        jnp.zeros(3),
        closed_form.gaussian_w2_pow(*arrays(ORIGIN), cov, *arrays(CENTER), other) * jnp.eye(3),
    ),
    "ornstein_uhlenbeck": lambda cov, precision: closed_form.ornstein_uhlenbeck(
        *arrays(ORIGIN), cov, precision, *arrays(CENTER), 0.3
    ),
    "jko": lambda cov, precision: closed_form.gaussian_jko_step(
        *arrays(ORIGIN), cov, precision, *arrays(CENTER), 0.3
    ),
    "sw_jko": lambda cov, precision: closed_form.gaussian_sw_jko_step(
        *arrays(ORIGIN),
        cov,
        precision,
        *arrays(CENTER),
        0.3,
        directions_of(jax.random.key(5), 9, 3),
    ),
    "sw_bdf2": lambda cov, precision: closed_form.gaussian_sw_bdf2_step(
        *arrays(ORIGIN),
        cov,
        *arrays(CENTER),
        2.0 * cov,
        precision,
        *arrays(CENTER),
        0.3,
        directions_of(jax.random.key(5), 9, 3),
    ),
}


@pytest.mark.slow_except_first
@pytest.mark.parametrize("name", OF_TWO_MATRICES)
def test_derivatives_at_equal_and_other_eigenvalues(name):
    # By symmetric differences: the gradients of values, and the Hessians of gradients.
    scalar = of_symmetric(OF_TWO_MATRICES[name])
    value, slope = jax.jit(scalar), jax.jit(jax.vmap(jax.grad(scalar)))
    equal = np.stack([2.0 * np.eye(3), np.eye(3)])
    other = np.stack([gaussian(24, 3)[1], gaussian(25, 3)[1]])
    at = jnp.stack(arrays(equal, other))
    for matrices, found in zip(at, slope(at), strict=True):
        expected = central_difference(lambda x: value(jnp.asarray(x)), np.asarray(matrices))
        np.testing.assert_allclose(found, expected, atol=2e-8)
    if name == "sw_bdf2":  # It is sw_jko with another anchor.
        return
    move = np.random.default_rng(1).normal(size=at.shape)
    curvature = jax.jit(lambda at: jax.jvp(jax.vmap(jax.grad(scalar)), (at,), (move,))[1])(at)
    expected = (slope(at + 1e-5 * move) - slope(at - 1e-5 * move)) / 2e-5
    np.testing.assert_allclose(curvature, expected, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ornstein_uhlenbeck", "jko", "sw_jko"])
def test_derivatives_in_time(name):
    directions = () if name != "sw_jko" else (directions_of(jax.random.key(6), 9, 3),)
    step = {
        "ornstein_uhlenbeck": closed_form.ornstein_uhlenbeck,
        "jko": closed_form.gaussian_jko_step,
        "sw_jko": closed_form.gaussian_sw_jko_step,
    }[name]

    def variance(time):
        inputs = arrays(ORIGIN, 2.0 * np.eye(3), np.eye(3), CENTER)
        return jnp.trace(step(*inputs, time, *directions).cov)

    expected = central_difference(jax.jit(variance), np.asarray(0.4))
    np.testing.assert_allclose(jax.jit(jax.grad(variance))(0.4), expected, rtol=1e-8)
    if name == "ornstein_uhlenbeck":
        # d S / dt = 2 (I - A S): at once, and long after the end.
        slopes = jax.vmap(jax.grad(variance))(jnp.asarray([0.0, 1e3]))
        np.testing.assert_allclose(slopes, [-6.0, 0.0], atol=1e-12)


def test_times_may_be_constants_of_a_compiled_function():
    law = jax.jit(
        lambda x: closed_form.ornstein_uhlenbeck(x, x[:, None], *arrays(np.eye(1), [0.0]), 0.3)
    )
    assert np.isfinite(law(jnp.ones(1)).cov)
