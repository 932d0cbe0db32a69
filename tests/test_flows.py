"""Flows on flax: bijector laws (inverse, log-determinant, identity at the start), architecture, user models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_families import perturbed

import swjko
from swjko import flows


@pytest.mark.parametrize("dim", [2, 3, 5, 10])
@pytest.mark.parametrize(("dtype", "inverse_tolerance", "log_det_tolerance"), [("float32", 1e-5, 1e-4), ("float64", 1e-10, 1e-9)])
def test_coupling_inverse_and_log_det(dim, dtype, inverse_tolerance, log_det_tolerance, key):
    with jax.enable_x64(dtype == "float64"):
        family = flows.coupling(dim, num_layers=4, width=16)
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), perturbed(family, key, 0.05))
        z = jax.random.normal(key, (40, dim), dtype)
        cloud = family.push(params, z)
        assert cloud.points.dtype == jnp.dtype(dtype)
        assert float(jnp.max(jnp.abs(cloud.points - z))) > 0.1
        # log_prob inverts the map: the density at a pushed point is right only where its latent is.
        log_prob = family.log_prob(params, cloud.points)
        np.testing.assert_allclose(log_prob, cloud.log_density, rtol=log_det_tolerance, atol=log_det_tolerance)
        _, inverse = flow_maps(dim)
        np.testing.assert_allclose(
            inverse(params, cloud.points)[0], z, atol=inverse_tolerance * 10 if dtype == "float32" else inverse_tolerance
        )


def flow_maps(dim):
    graph, _ = nnx.split(nnx.eval_shape(lambda: flows._CouplingFlow(dim, 4, 16, nnx.Rngs(0))))
    return (
        lambda params, z: nnx.merge(graph, params).forward_and_log_det(z),
        lambda params, x: nnx.merge(graph, params).inverse_and_log_det(x),
    )


@pytest.mark.parametrize("dim", [2, 3, 7, 16])
def test_masks_separate_every_pair_of_coordinates(dim):
    layers = 2 * int(np.ceil(np.log2(dim)))
    masks = np.asarray(flows._CouplingFlow(dim, layers, 4, nnx.Rngs(0))._masks())
    for i in range(dim):
        assert {0.0, 1.0} == set(masks[:, i])
        for j in range(i):
            assert np.any(masks[:, i] != masks[:, j])


def test_log_scales_are_bounded_by_construction(key):
    family = flows.coupling(2, num_layers=2, width=8)
    params = jax.tree.map(jnp.zeros_like, family.init(key))
    params["bias_out"] = jnp.full_like(params["bias_out"], 1e6)
    log_density = family.push(params, jnp.zeros((1, 2))).log_density
    # Two layers move each coordinate once, by a log-scale of at most 2.
    np.testing.assert_allclose(log_density[0], -np.log(2 * np.pi) - 4.0, rtol=1e-4)


def test_coupling_of_one_dimension_says_what_to_take_instead():
    with pytest.raises(ValueError, match=r"dim >= 2.*swjko\.gaussian"):
        flows.coupling(1)


def test_mlp_of_other_dimensions_reaches_its_space(key):
    family = flows.mlp(3, 5, init_mean=2.0)
    assert swjko.sample(family, family.init(key), key, 4).points.shape == (4, 5)
    assert not family.has_density


class Shear(nnx.Module):
    """x -> (x_0, x_1 + a sin x_0): volume preserving."""

    def __init__(self, rngs):
        self.amplitude = nnx.Param(jax.random.normal(rngs.params(), ()))

    def forward_and_log_det(self, z):
        return z.at[:, 1].add(self.amplitude[...] * jnp.sin(z[:, 0])), jnp.zeros_like(z[:, 0])

    def inverse_and_log_det(self, x):
        return x.at[:, 1].add(-self.amplitude[...] * jnp.sin(x[:, 0])), jnp.zeros_like(x[:, 0])


def test_from_nnx_with_a_density(key):
    family = flows.from_nnx(Shear, dim=2)
    assert family.has_density
    params = family.init(key)
    cloud = swjko.sample(family, params, key, 6)
    np.testing.assert_allclose(family.log_prob(params, cloud.points), cloud.log_density, rtol=1e-5)
    assert isinstance(params, dict)


def test_from_nnx_generator_and_wrong_output(key):
    family = flows.from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs), dim=2, latent_dim=3)
    assert swjko.sample(family, family.init(key), key, 4).points.shape == (4, 2)
    with pytest.raises(ValueError, match=r"shape \(3, 2\)"):
        flows.from_nnx(lambda rngs: nnx.Linear(2, 4, rngs=rngs), dim=2)


class Normalised(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, rngs=rngs)

    def __call__(self, z):
        return self.norm(z)


def test_from_nnx_refuses_state_that_steps_would_lose():
    with pytest.raises(ValueError, match=r"only state is nnx\.Param.*BatchStat"):
        flows.from_nnx(Normalised, dim=2)


def test_scanned_layers_see_their_own_weights(key):
    """A flow of two layers equals the composition of its layers taken alone."""
    family = flows.coupling(2, num_layers=2, width=4)
    params = perturbed(family, key)
    z = family.latent(key, 5)
    whole = family.push(params, z).points
    for kept in (0, 1):
        silent = {name: leaf if name == "affine" else leaf.at[1 - kept].set(0.0) for name, leaf in params.items()}
        assert float(jnp.max(jnp.abs(family.push(silent, z).points - whole))) > 1e-3
