"""Models of equinox, flowjax and haiku as families, and bijections of other libraries."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import sw_jko
from jax.tree_util import Partial

import swjko
from swjko import flows
from swjko.autoencoder import decoded
from swjko.families.preprocessing import preprocessed

eqx = pytest.importorskip("equinox", reason="equinox is in the extra interop")


class Shear(eqx.Module):
    """x -> (x_0, x_1 + a sin x_0): volume preserving."""

    amplitude: jax.Array
    order: jax.Array  # integers are not trained

    def forward_and_log_det(self, z):
        return z.at[self.order[1]].add(self.amplitude * jnp.sin(z[0])), jnp.zeros(())

    def inverse_and_log_det(self, x):
        return x.at[self.order[1]].add(-self.amplitude * jnp.sin(x[0])), jnp.zeros(())


def make_shear(key):
    return Shear(jax.random.normal(key, ()), jnp.arange(2))


def test_equinox_modules_with_and_without_a_density(key):
    family = flows.from_equinox(make_shear, dim=2)
    params = family.init(key)
    assert set(params) == {".amplitude"}
    cloud, z = swjko.sample(family, params, key, 5), family.latent(key, 5)
    shift = params[".amplitude"] * jnp.sin(z[:, 0])
    np.testing.assert_allclose(cloud.points[:, 1], z[:, 1] + shift, rtol=1e-5)
    np.testing.assert_allclose(
        cloud.log_density, jax.scipy.stats.norm.logpdf(z).sum(axis=1), rtol=1e-5
    )
    np.testing.assert_allclose(family.log_prob(params, cloud.points), cloud.log_density, rtol=1e-5)

    def make(key):
        return eqx.nn.MLP(3, 2, 8, 1, key=key)

    generator = flows.from_equinox(make, dim=2, latent_dim=3)
    z = generator.latent(key, 4)
    np.testing.assert_allclose(
        generator.push(generator.init(key), z).points, jax.vmap(make(key))(z), rtol=1e-5
    )
    assert not generator.has_density


@pytest.mark.slow
def test_a_flow_of_an_equinox_module_saves_and_resumes(key, tmp_path):
    family = flows.from_equinox(lambda key: eqx.nn.Linear(2, 2, key=key), dim=2)
    scheme = sw_jko(family, swjko.sw_to_target(jnp.ones((8, 2)), 3))
    options = {"checkpoint_dir": tmp_path, "progress": False}
    first = swjko.solve(key, scheme, num_steps=1, **options)
    again = swjko.solve(key, scheme, num_steps=1, **options)
    for one, other in zip(
        *map(jax.tree.leaves, (first.state.params, again.state.params)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("base", ["Normal", "StandardNormal"])
def test_flowjax_flows_have_their_own_density(base, key):
    distributions = pytest.importorskip("flowjax.distributions")
    from flowjax.flows import coupling_flow

    law = {"Normal": lambda: distributions.Normal(jnp.ones(2), 2.0)}.get(
        base, lambda: distributions.StandardNormal((2,))
    )()

    def make(key):
        return coupling_flow(key, base_dist=law, flow_layers=2, nn_width=8)

    family = flows.from_flowjax(make)
    flow, params = make(jax.random.key(0)), family.init(jax.random.key(0))
    cloud = jax.jit(swjko.sample, static_argnames="num")(family, params, key, num=5)
    np.testing.assert_allclose(cloud.log_density, flow.log_prob(cloud.points), rtol=1e-4)
    np.testing.assert_allclose(
        family.log_prob(params, cloud.points), cloud.log_density, rtol=1e-4, atol=1e-4
    )
    scheme = sw_jko(family, swjko.kl_divergence(lambda x: -jnp.sum(x**2)))
    solution = swjko.solve(key, scheme, num_steps=1, progress=False)
    moved = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), params, solution.state.params)
    assert max(moved.values()) > 1e-4


def test_frozen_parameters_of_flowjax_stay(key):
    paramax = pytest.importorskip("paramax")
    from flowjax.bijections import Affine

    def make(key):
        del key
        bijection = Affine(jnp.ones(2), 2 * jnp.ones(2))
        return eqx.tree_at(lambda b: b.loc, bijection, replace_fn=paramax.non_trainable)

    family = flows.from_flowjax(make)
    params = family.init(key)
    assert [name for name in params if "loc" in name] == []
    assert len(params) == 1
    cloud = swjko.sample(family, params, key, 4)
    np.testing.assert_allclose(cloud.points, 1 + 2 * family.latent(key, 4), rtol=1e-5)


def test_haiku_modules_are_maps(key):
    hk = pytest.importorskip("haiku", reason="dm-haiku is in the extra interop")
    model = hk.without_apply_rng(hk.transform(lambda z: hk.nets.MLP([8, 2])(z)))
    family = swjko.pushforward(
        lambda key: model.init(key, jnp.zeros((1, 3))), model.apply, dim=2, latent_dim=3
    )
    assert swjko.sample(family, family.init(key), key, 4).points.shape == (4, 2)


def bijections():
    yield "distrax scalars", lambda: distrax.ScalarAffine(1.0, 2.0)
    yield (
        "distrax",
        lambda: distrax.UnconstrainedAffine(
            jnp.array([[2.0, 0.5], [0.0, 1.0]]), jnp.array([1.0, 2.0])
        ),
    )
    yield (
        "numpyro",
        lambda: pytest.importorskip("numpyro.distributions").transforms.AffineTransform(
            jnp.array([1.0, 2.0]), jnp.array([0.5, 2.0])
        ),
    )
    yield (
        "flowjax",
        lambda: pytest.importorskip("flowjax.bijections").Affine(
            jnp.array([1.0, 2.0]), jnp.array([0.5, 2.0])
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "make"), list(bijections()))
def test_families_preprocessed_by_bijections_have_the_density_of_their_jacobian(name, make, key):
    family = preprocessed(swjko.gaussian(2), make())
    params = family.init(key)
    z = family.latent(key, 4)
    cloud = family.push(params, z)
    jacobians = jax.vmap(jax.jacobian(lambda z: family.push(params, z[None]).points[0]))(z)
    expected = jax.scipy.stats.norm.logpdf(z).sum(axis=1) - jnp.linalg.slogdet(jacobians)[1]
    np.testing.assert_allclose(cloud.log_density, expected, rtol=1e-5)
    np.testing.assert_allclose(family.log_prob(params, cloud.points), expected, rtol=1e-5)


def test_any_decoder_is_taken(key):
    weights = jnp.ones((2, 3))
    family = decoded(swjko.gaussian(2), Partial(lambda weights, z: z @ weights, weights))
    params = family.init(key)
    z = family.latent(key, 4)
    np.testing.assert_allclose(family.push(params, z).points, z @ weights, rtol=1e-6)
    assert family.dim == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: flows.from_equinox(make_shear(jax.random.key(0)), dim=2),
            "make_model must be a function from a key to an equinox module; got a module Shear",
        ),
        (lambda: flows.from_equinox(lambda key: 3.0, dim=2), "make_model must return an equinox"),
        (lambda: flows.from_equinox(make_shear, dim=0), "dim must be at least 1"),
        (
            lambda: flows.from_equinox(lambda key: eqx.nn.Linear(2, 5, key=key), dim=2),
            r"shape \(3, 2\); got \(3, 5\)",
        ),
        (
            lambda: decoded(swjko.gaussian(2), lambda codes: jnp.zeros((2, 2))),
            r"decode` must map codes of shape \(3, 2\)",
        ),
        (
            lambda: preprocessed(swjko.gaussian(3), distrax.ScalarAffine(jnp.zeros(2))),
            "preprocessing` must keep the 3 coordinates of the family; got .*shapes",
        ),
    ],
)
def test_other_models_are_refused(call, message, as_users_see_it):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_flowjax_flows_that_are_refused(as_users_see_it):
    distributions = pytest.importorskip("flowjax.distributions")
    from flowjax.flows import coupling_flow

    def make(key, **options):
        options = {"base_dist": distributions.Normal(jnp.zeros(2))} | options
        return coupling_flow(key, flow_layers=1, nn_width=4, **options)

    with pytest.raises(ValueError, match=r"without conditions; got .* cond_shape \(3,\)"):
        flows.from_flowjax(lambda key: make(key, cond_dim=3))
    law = distributions.StudentT(4.0, jnp.zeros(2))
    with pytest.raises(
        TypeError, match=r"a flow from a normal law; got Transformed from .*Student"
    ):
        flows.from_flowjax(lambda key: make(key, base_dist=law))
