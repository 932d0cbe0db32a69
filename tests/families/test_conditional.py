"""Conditional flows: densities against Jacobians, a Gaussian posterior in closed form, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import jitted_run

import swjko
from swjko import flows

MATRIX = jnp.array([[1.0, 0.5], [0.0, 1.0], [1.0, -1.0]])
NOISE = 0.5


def perturbed(family, key):
    leaves, tree = jax.tree.flatten(family.init(key))
    keys = jax.random.split(key, len(leaves))
    moved = [
        leaf + 0.3 * jax.random.normal(one, leaf.shape, leaf.dtype)
        for leaf, one in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dim", "kind"), [(3, "coupling"), pytest.param(1, "spline", marks=pytest.mark.slow)]
)
def test_densities_are_those_of_the_jacobian(dim, kind, key):
    with jax.enable_x64(True):
        contexts = 3.0 + jax.random.normal(key, (20, 2))
        family = flows.conditional(dim, contexts, kind=kind, num_layers=3, width=8, init_scale=2.0)
        start = perturbed(family, key)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), start)
        log_prob = jax.jit(family.log_prob)
        cloud = swjko.sample(family, params, key, 6)
        assert cloud.points.shape == (6, dim + 2)
        density = log_prob(params, cloud.points)
        np.testing.assert_allclose(density, cloud.log_density, rtol=1e-9, atol=1e-9)
        noise = family.noise(key, 1)

        def image(z):
            return family.push(params, (z[None], contexts[3:4])).points[0, :dim]

        jacobian = jax.jit(jax.jacfwd(image))(noise[0])
        expected = -0.5 * jnp.sum(noise**2) - 0.5 * dim * jnp.log(2 * jnp.pi)
        expected -= jnp.linalg.slogdet(jacobian)[1]
        law = family.given(params, contexts[3])
        found = law.log_prob(image(noise[0])[None])
        np.testing.assert_allclose(found[0], expected, rtol=1e-9, atol=1e-9)
        drawn = law.sample(key, 5)
        density = law.log_prob(drawn.points)
        np.testing.assert_allclose(density, drawn.log_density, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_given_law_is_a_distribution_for_importance_weights(key):
    contexts = jax.random.normal(key, (20, 2))
    family = flows.conditional(2, contexts, kind="coupling", num_layers=1, width=4)
    law = family.given(family.init(key), contexts[3])
    assert swjko.importance(key, law, lambda x: -jnp.sum(x**2) / 2, 30).log_weights.shape == (30,)


@pytest.mark.slow
def test_amortised_posterior_of_a_linear_gaussian_model(key):
    """x ~ N(0, I), c = A x + noise: x given c is N(S A'c / s^2, S), S = (I + A'A / s^2)^-1."""
    x_key, noise_key, run_key = jax.random.split(key, 3)
    x = jax.random.normal(x_key, (4000, 2))
    contexts = x @ MATRIX.T + NOISE * jax.random.normal(noise_key, (4000, 3))
    family = flows.conditional(2, contexts, kind="coupling", num_layers=2, width=16)
    scheme = swjko.direct_minimization(
        family,
        swjko.forward_kl(jnp.concatenate([x, contexts], axis=1), batch_size=256),
        optax.adam(optax.cosine_decay_schedule(1e-2, 600)),
        num_inner_steps=600,
        num_samples=8,
    )
    state, _ = jitted_run(run_key, scheme, scheme.init(key), num_steps=1, record=swjko.infos)
    cov = np.linalg.inv(np.eye(2) + MATRIX.T @ MATRIX / NOISE**2)
    for observed in ([1.0, 1.0, 0.0], [-2.0, 0.5, -1.5]):
        law = family.given(state.params, jnp.array(observed))
        points = np.asarray(law.sample(key, 4000).points)
        mean = cov @ np.asarray(MATRIX).T @ np.array(observed) / NOISE**2
        deviation = np.sqrt(np.diag(cov))
        assert np.all(np.abs(points.mean(axis=0) - mean) < 0.3 * deviation)
        np.testing.assert_allclose(points.std(axis=0), deviation, rtol=0.2)


@pytest.mark.slow
def test_a_step_of_sw_jko_moves_pairs(key):
    contexts = jax.random.normal(key, (50, 1))
    pairs = jnp.concatenate([2.0 * contexts, contexts], axis=1)
    family = flows.conditional(1, contexts, kind="coupling", num_layers=1, width=4)
    scheme = swjko.sw_jko(
        family,
        swjko.sw_to_target(pairs, 8),
        optax.adam(1e-2),
        step_size=1.0,
        num_inner_steps=5,
        num_samples=32,
        num_projections=8,
    )
    state, info = jax.jit(scheme.step)(key, scheme.init(key))
    assert int(state.result) == swjko.Result.OK
    assert np.isfinite(info.energy)


def test_bad_input_is_refused(key, as_users_see_it):
    contexts = jnp.zeros((4, 3)) + jnp.arange(4.0)[:, None]
    family = flows.conditional(2, contexts, kind="coupling", num_layers=1, width=4)
    with pytest.raises(ValueError, match="context must have the length of the contexts, 3; got 2"):
        family.given(family.init(key), jnp.zeros(2))
    params = family.init(key)
    with pytest.raises(ValueError, match=r"must be pairs \(x, context\) of 2 and 3 .* got 4"):
        family.log_prob(params, jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="must have the 2 coordinates of x; got 3"):
        family.given(params, jnp.zeros(3)).log_prob(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="contexts must have rank 2"):
        flows.conditional(2, jnp.zeros(4))
    with pytest.raises(ValueError, match="kind must be"):
        flows.conditional(2, contexts, kind="autoregressive")
