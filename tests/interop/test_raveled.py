"""Named parameters as flat points: values, names, bounds, modes, and what is refused."""

import dataclasses
import pickle

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from helpers import constant_bytes, sw_jko
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import swjko

POSITION = {"mu": jnp.asarray(0.5), "theta": jnp.arange(6.0).reshape(2, 3), "a": [jnp.ones(2)]}


def named(data, position):
    spread = jnp.sum((position["theta"] - position["mu"]) ** 2) + jnp.sum(position["a"][0] ** 4)
    return -0.5 * spread - jnp.sum(data**2) * position["mu"] ** 2


def test_flat_points_have_the_density_of_their_positions():
    target = swjko.raveled(Partial(named, jnp.ones(3)), POSITION)
    flat, unravel = ravel_pytree(POSITION)
    np.testing.assert_array_equal(target.start, flat)
    np.testing.assert_array_equal(target.ravel(POSITION), flat)
    assert target.dim == 9
    assert target.names == (
        *("a.0[0]", "a.0[1]", "mu", "theta[0,0]", "theta[0,1]", "theta[0,2]"),
        *("theta[1,0]", "theta[1,1]", "theta[1,2]"),
    )
    points = jax.random.normal(jax.random.key(0), (5, 9))
    expected = [named(jnp.ones(3), unravel(point)) for point in points]
    np.testing.assert_allclose(jax.vmap(target.log_prob)(points), expected, rtol=1e-5)
    draws = target.constrain(points)
    assert jax.tree.structure(draws) == jax.tree.structure(POSITION)
    np.testing.assert_array_equal(draws["theta"][3], unravel(points[3])["theta"])


def test_data_are_leaves_and_new_data_trace_nothing():
    traces = []

    def logdensity(data, position):
        traces.append(0)
        return -jnp.sum((data - position["mu"]) ** 2)

    value = jax.jit(lambda target, x: target.log_prob(x))
    targets = [
        swjko.raveled(Partial(logdensity, jnp.full(1000, mean)), {"mu": jnp.asarray(0.0)})
        for mean in (1.0, 2.0)
    ]
    made = len(traces)
    for target, expected in zip(targets, (-1000.0, -4000.0), strict=True):
        np.testing.assert_allclose(value(target, jnp.zeros(1)), expected, rtol=1e-5)
    assert len(traces) == made + 1
    assert max(constant_bytes(value, targets[0], jnp.zeros(1)), default=0) < 1000
    assert pickle.loads(pickle.dumps(swjko.raveled(optax.global_norm, POSITION))).dim == 9


def gamma_log_prob(position):
    """Gamma(3, rate 2) of the scale; N(scale, 1) of x, which has no bounds."""
    scale = position["scale"]
    return 2 * jnp.log(scale) - 2 * scale - 0.5 * (position["x"] - scale) ** 2


def test_a_bounded_parameter_has_the_density_of_its_logarithm():
    density = swjko.bounded(gamma_log_prob, {"scale": distrax.Lambda(jnp.exp)})
    target = swjko.raveled(density, {"scale": 2.0, "x": np.float32(-1.0)})
    np.testing.assert_allclose(target.start, [np.log(2.0), -1.0], rtol=1e-6)
    points = np.array([[0.3, 1.0], [-2.0, 0.5], [1.1, -1.0]], np.float32)
    scale = np.exp(points[:, 0])
    exact = scipy.stats.gamma.logpdf(scale, 3, scale=0.5) + points[:, 0]
    exact += scipy.stats.norm.logpdf(points[:, 1], scale)
    shift = jax.vmap(target.log_prob)(jnp.asarray(points)) - exact
    np.testing.assert_allclose(shift, shift[0] * np.ones(3), atol=1e-5)
    draws = target.constrain(jnp.asarray(points))
    np.testing.assert_allclose(draws["scale"], scale, rtol=1e-6)
    np.testing.assert_array_equal(draws["x"], points[:, 1])
    np.testing.assert_allclose(
        target.ravel({"scale": jnp.asarray(3.0), "x": jnp.asarray(0.0)}), [np.log(3.0), 0.0]
    )


@pytest.mark.parametrize(
    ("bijector", "position"),
    [
        (lambda: distrax.Sigmoid(), [0.2, 0.9]),
        (lambda: distrax.Lambda(jax.nn.softplus, inverse=lambda x: jnp.log(jnp.expm1(x))), [1, 2]),
        (lambda: distrax.ScalarAffine(shift=1.0, scale=3.0), [0.5, 2.0]),
        (
            lambda: distrax.UnconstrainedAffine(
                jnp.array([[2.0, 0.5], [0.0, 1.0]]), jnp.array([1.0, 2.0])
            ),
            [0.5, 2.0],
        ),
    ],
)
def test_log_dets_of_bijectors_against_the_autodiff_jacobian(bijector, position):
    density = swjko.bounded(jnp.sum, bijector())
    target = swjko.raveled(density, jnp.asarray(position, float))
    point = jnp.array([0.7, -0.4])
    jacobian = np.asarray(jax.jacobian(target.unravel)(point))
    expected = jnp.sum(target.unravel(point)) + np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(target.log_prob(point), expected, rtol=1e-5)


def log_gamma(x):
    """Gamma(a) and rate b of exp(x): the mode is log(a / b), and the curvature there a."""
    a, b = jnp.array([4.0, 25.0]), jnp.array([1.0, 500.0])
    return jnp.sum(a * x - b * jnp.exp(x))


def test_laplace_finds_mode_and_curvature():
    mean, covariance = swjko.gaussian_moments(swjko.laplace(log_gamma, jnp.zeros(2)).params)
    np.testing.assert_allclose(mean, np.log([4.0, 0.05]), atol=1e-4)
    np.testing.assert_allclose(covariance, np.diag([0.25, 0.04]), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_laplace_of_a_gaussian_whitens_it():
    rng = np.random.default_rng(0)
    factor = np.tril(rng.normal(size=(4, 4))) + 3 * np.diag([1e-2, 1.0, 10.0, 1.0])
    center, precision = jnp.arange(4.0), jnp.asarray(np.linalg.inv(factor @ factor.T), float)

    def log_prob(center, precision, x):
        return -0.5 * jnp.dot(x - center, precision @ (x - center))

    target = swjko.raveled(Partial(log_prob, center, precision), jnp.zeros(4))
    white = target.whitened(swjko.laplace(target.log_prob, target.start))
    points = jax.random.normal(jax.random.key(0), (6, 4))
    values = jax.vmap(white.log_prob)(points)
    expected = -0.5 * jnp.sum(points**2, axis=1) + np.linalg.slogdet(factor)[1]
    np.testing.assert_allclose(values, expected, rtol=2e-3)
    np.testing.assert_allclose(jax.vmap(white.ravel)(white.constrain(points)), points, atol=1e-3)
    with pytest.raises(ValueError, match="distribution` must be one of the 4 coordinates"):
        white.whitened(swjko.laplace(white.log_prob, white.start))


@pytest.mark.slow
def test_a_flow_starts_at_a_target_and_its_draws_have_names(key):
    target = swjko.raveled(Partial(named, jnp.ones(3)), POSITION)
    scheme = sw_jko(swjko.gaussian(target.dim), swjko.kl_divergence(target.log_prob))
    solution = swjko.solve(key, scheme, num_steps=1, progress=False)
    draws = target.constrain(solution.distribution.sample(key, 7).points)
    assert {name: jax.tree.map(jnp.shape, value) for name, value in draws.items()} == {
        "mu": (7,),
        "theta": (7, 2, 3),
        "a": [(7, 2)],
    }


def flat(position):
    return -jnp.sum(position["mu"] ** 2)


AT_ZERO = {"mu": jnp.zeros(2)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: swjko.raveled(3.0, AT_ZERO), "logdensity must be a function"),
        (lambda: swjko.raveled(flat, {"mu": jnp.arange(2)}), r"position\['mu'\] must be real"),
        (lambda: swjko.raveled(flat, {"mu": 1}), r"position\['mu'\] must be real.*int"),
        (lambda: swjko.raveled(flat, {}), "`position` must hold at least one number"),
        (lambda: swjko.raveled(lambda p: p["mu"], AT_ZERO), "logdensity` must map one position"),
        (lambda: swjko.raveled(lambda p: p, AT_ZERO), "logdensity` must map one.*got a dict"),
        (
            lambda: swjko.raveled(flat, {"mu": jnp.array([jnp.nan, 0.0])}),
            "logdensity` must be finite at the start; got nan",
        ),
        (lambda: swjko.raveled(lambda p: -jnp.inf * p["mu"][0] ** 0, AT_ZERO), "got -inf"),
        (
            lambda: swjko.raveled(flat, AT_ZERO).ravel({"nu": jnp.zeros(2)}),
            "position` must have the structure .*'mu'.* got .*'nu'",
        ),
        (
            lambda: swjko.raveled(flat, AT_ZERO).ravel({"mu": jnp.zeros(3)}),
            r"position` must have the shapes \(\(2,\),\)",
        ),
        (
            lambda: swjko.raveled(flat, AT_ZERO).log_prob(jnp.zeros(1)),
            r"point` must have the 2 coordinates of the target; got shape \(1,\)",
        ),
        (
            lambda: swjko.raveled(lambda p: -float(p["mu"][0] ** 2), AT_ZERO),
            "logdensity` must be traceable by JAX",
        ),
        (
            lambda: swjko.raveled(flat, AT_ZERO).constrain(jnp.zeros((4, 3))),
            "points` must have the 2 coordinates of the target; got 3",
        ),
        (
            lambda: swjko.raveled(swjko.bounded(flat, {"nu": distrax.Sigmoid()}), AT_ZERO),
            "bijectors` must name parameters of the position, mu; got nu",
        ),
        (lambda: swjko.bounded(flat, {"mu": jnp.exp}), "bijectors` must be bijectors of distrax"),
        (
            lambda: swjko.raveled(
                swjko.bounded(flat, {"mu": distrax.ScalarAffine(jnp.zeros(3))}), AT_ZERO
            ),
            r"bijectors` must have one of the size of position\['mu'\], shape \(2,\)",
        ),
        (
            lambda: swjko.raveled(
                swjko.bounded(flat, {"mu": distrax.ScalarAffine(jnp.zeros(3))}), {"mu": jnp.ones(1)}
            ),
            r"bijectors` must have one of the size of position\['mu'\], shape \(1,\)",
        ),
        (
            lambda: swjko.laplace(lambda x: x[0] - x[1] ** 2, jnp.zeros(2)),
            r"log_prob` must (be curved downwards|have a mode).*init_scale=",
        ),
    ],
)
def test_bad_targets_are_refused(call, message, as_users_see_it):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_target_of_traced_positions_is_made_inside_jit():
    @jax.jit
    def value(position):
        target = swjko.raveled(flat, position)
        return dataclasses.replace(target, start=target.start).log_prob(target.start)

    np.testing.assert_allclose(value({"mu": jnp.array([1.0, 2.0])}), -5.0)
