"""Flows on flax: bijector laws (inverse, log-determinant, identity at the start), architecture, user models."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.signal
import scipy.stats
from flax import linen, nnx
from helpers import perturbed

import swjko
from swjko import flows
from swjko.networks import convolutional
from swjko.networks import coupling as couplings

COUPLINGS = {
    "coupling": lambda dim, num_layers: flows.coupling(dim, num_layers=num_layers, width=16),
    "coupling with LU": lambda dim, num_layers: flows.coupling(
        dim, num_layers=max(3, num_layers), width=16, mixing="lu"
    ),
    "coupling with fixed coordinates": lambda dim, num_layers: flows.coupling(
        dim, num_layers=num_layers, width=16, num_fixed=min(2, dim - 2)
    ),
    "spline": lambda dim, num_layers: flows.spline(dim, num_layers=num_layers, width=16),
}


@pytest.mark.parametrize("name", COUPLINGS)
@pytest.mark.parametrize(("dim", "num_layers"), [(2, 4), (3, 3), (5, 1), (10, 4)])
@pytest.mark.parametrize(
    ("dtype", "inverse_tolerance", "log_det_tolerance"),
    [("float32", 1e-5, 1e-4), ("float64", 1e-10, 1e-9)],
)
def test_couplings_invert_with_opposite_log_dets(
    name, dim, num_layers, dtype, inverse_tolerance, log_det_tolerance, key
):
    """The family is standardised and the model in it is not: at mean 0 and scale 1 they are one."""
    with jax.enable_x64(dtype == "float64"):
        family = COUPLINGS[name](dim, num_layers)
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), perturbed(family, key, 0.05))
        z = np.random.default_rng(dim).normal(size=(40, dim)).astype(dtype)
        cloud = jax.device_get(jax.jit(family.push)(params, z))
        assert cloud.points.dtype == jnp.dtype(dtype)
        assert np.max(np.abs(cloud.points - z)) > 0.1
        back, log_det = jax.jit(family.log_prob.args[2].args[0])(params, cloud.points)
        np.testing.assert_allclose(back, z, rtol=inverse_tolerance, atol=inverse_tolerance * 4)
        base = scipy.stats.norm.logpdf(z).sum(axis=1)
        np.testing.assert_allclose(
            base + log_det, cloud.log_density, rtol=log_det_tolerance, atol=log_det_tolerance
        )


@pytest.mark.parametrize("dim", [2, 3, 7, 16, 33])
def test_interleaving_parts_every_pair_of_coordinates(dim):
    row, together = jnp.arange(dim)[None, :], np.ones((dim, dim), bool)
    for _ in range(int(np.ceil(np.log2(dim)))):
        first, second = (np.asarray(half[0]) for half in couplings._halves(row))
        together[np.ix_(first, second)] = together[np.ix_(second, first)] = False
        row = couplings._interleave(*couplings._halves(row))
    np.testing.assert_array_equal(together, np.eye(dim, dtype=bool))
    np.testing.assert_array_equal(
        jnp.concatenate(couplings._deal(couplings._interleave(*couplings._halves(row))), axis=1),
        row,
    )


def test_splines_leave_points_beyond_their_bound_alone(key):
    family = flows.spline(2, num_layers=2, width=8, bound=2.0, init_mean=1.0, init_scale=3.0)
    params = jax.tree.map(lambda leaf: leaf + 0.3, family.init(key)) | {
        "affine": family.init(key)["affine"]
    }
    z = jnp.array([[-2.5, 2.5], [0.6, -0.8], [9.0, -9.0]])
    cloud = family.push(params, z)
    np.testing.assert_allclose(cloud.points[0::2], 1.0 + 3.0 * z[0::2], rtol=1e-6)
    assert float(jnp.max(jnp.abs(cloud.points[1] - (1.0 + 3.0 * z[1])))) > 0.01
    assert bool(jnp.all(jnp.isfinite(cloud.log_density)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_bins": 1}, "num_bins must be at least 2"),
        ({"bound": 0.0}, "bound must be a positive number"),
        ({"bound": np.inf}, "bound"),
    ],
)
def test_spline_settings_that_make_no_spline(arguments, message):
    with pytest.raises(ValueError, match=message):
        flows.spline(2, **arguments)


def test_log_scales_are_bounded_by_construction(key):
    family = flows.coupling(2, num_layers=2, width=8)
    params = jax.tree.map(jnp.zeros_like, family.init(key))
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            jnp.full_like(leaf, 1e6) if path[-1] == jax.tree_util.DictKey("bias_out") else leaf
        ),
        params,
    )
    log_density = family.push(params, jnp.zeros((1, 2))).log_density
    # Two layers move each coordinate once, by a log-scale of at most 2.
    np.testing.assert_allclose(log_density[0], -np.log(2 * np.pi) - 4.0, rtol=1e-4)


@pytest.mark.parametrize("name", ["coupling", "spline"])
def test_coupling_of_one_dimension_says_what_to_take_instead(name):
    with pytest.raises(ValueError, match=rf"flows.{name} needs dim >= 2.*swjko\.gaussian"):
        COUPLINGS[name](1, 2)


def test_mlp_of_other_dimensions_reaches_its_space(key):
    family = flows.mlp(3, 5, init_mean=2.0)
    assert swjko.sample(family, family.init(key), key, 4).points.shape == (4, 5)
    assert not family.has_density


@pytest.mark.parametrize(
    ("shape", "output"), [((8, 8, 1), "sigmoid"), ((5, 7, 3), "linear"), ((1, 2, 1), "linear")]
)
def test_convolutional_generator_of_any_height_and_width(shape, output, key):
    family = flows.convolutional(4, shape, width=3, output=output, init_mean=-1.0, init_scale=0.5)
    params = family.init(key)
    points = np.asarray(jax.jit(family.push)(params, family.latent(key, 60)).points, np.float64)
    assert points.shape == (60, np.prod(shape))
    assert not family.has_density
    if output == "sigmoid":
        assert 0 < points.min() < points.max() < 1
        points = np.log(points / (1 - points))
    # The documented start: mean about init_mean, deviations of the order of init_scale, and noise that matters.
    assert abs(points.mean() + 1.0) < 0.5
    assert 0.05 < points.std(axis=0).mean() < 1.0


def test_convolutions_of_both_kinds_and_of_doubled_pictures_agree(key):
    """On the CPU by matrix products, elsewhere by XLA's convolution: one function, and the one of the picture as it is doubled."""
    with jax.enable_x64(True):
        one = convolutional._Convolution(3, 4, nnx.Rngs(0))
        kernel = one.kernel[...].astype(float)
        x = jax.random.normal(key, (2, 5, 4, 3), float)
        reference = scipy.signal.correlate(
            np.pad(x[0], ((1, 1), (1, 1), (0, 0))), np.asarray(kernel[..., 1]), mode="valid"
        )[..., 0]
        for convolved in (
            convolutional._by_products,
            convolutional._by_library,
            convolutional._convolved,
        ):
            np.testing.assert_allclose(convolved(x, kernel)[0, ..., 1], reference, rtol=1e-10)
        doubled = x.repeat(2, axis=1).repeat(2, axis=2)
        np.testing.assert_allclose(one.of_doubled(x), one(doubled), rtol=1e-5, atol=1e-6)


def test_convolutional_sides_are_checked_at_once(as_users_see_it):
    for shape, message in (
        ((8, 8), r"shape must be \(height, width, channels\).* received \(8, 8\)"),
        ((8, 0, 1), r"shape\[1\] \(width\) must be at least 1; received 0"),
        ((8.5, 8, 1), r"shape\[0\] \(height\) must be a static integer"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            flows.convolutional(4, shape)
    with pytest.raises(
        ValueError, match="output must be one of 'linear', 'sigmoid'; got 'tanh'"
    ):
        flows.convolutional(4, (8, 8, 1), output="tanh")


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


class LinenShear(linen.Module):
    def setup(self):
        self.amplitude = self.param("amplitude", linen.initializers.normal(1.0), ())

    def forward_and_log_det(self, z):
        return z.at[:, 1].add(self.amplitude * jnp.sin(z[:, 0])), jnp.zeros_like(z[:, 0])

    def inverse_and_log_det(self, x):
        return x.at[:, 1].add(-self.amplitude * jnp.sin(x[:, 0])), jnp.zeros_like(x[:, 0])


def test_from_linen_with_and_without_a_density(key):
    family = flows.from_linen(LinenShear(), dim=2)
    params = family.init(key)
    cloud = swjko.sample(family, params, key, 6)
    z = family.latent(key, 6)
    np.testing.assert_allclose(
        cloud.points[:, 1], z[:, 1] + params["amplitude"] * jnp.sin(z[:, 0]), rtol=1e-5
    )
    np.testing.assert_allclose(family.log_prob(params, cloud.points), cloud.log_density, rtol=1e-5)
    generator = flows.from_linen(linen.Dense(2), dim=2, latent_dim=3)
    assert not generator.has_density
    assert swjko.sample(generator, generator.init(key), key, 4).points.shape == (4, 2)


def test_from_linen_refuses_what_is_no_fitting_module(as_users_see_it):
    with pytest.raises(TypeError, match=r"module must be a flax\.linen\.Module"):
        flows.from_linen(lambda z: z, dim=2)
    with pytest.raises(ValueError, match=r"shape \(3, 2\)"):
        flows.from_linen(linen.Dense(5), dim=2)
    with pytest.raises(ValueError, match="nothing but params; it also has batch_stats"):
        flows.from_linen(linen.BatchNorm(use_running_average=False), dim=2)


def affine_params(key):
    return {"shift": jax.random.normal(key, (3,)), "log_scale": 0.3 * jnp.arange(3.0)}


def chain_of_affine(params):
    import distrax

    affine = distrax.ScalarAffine(shift=params["shift"], log_scale=params["log_scale"])
    return distrax.Chain([distrax.Block(distrax.Tanh(), 1), distrax.Block(affine, 1)])


def scalar_affine(params):
    import distrax

    return distrax.ScalarAffine(shift=params["shift"], log_scale=params["log_scale"])


@pytest.mark.parametrize("make_bijector", [chain_of_affine, scalar_affine])
def test_from_distrax_against_the_autodiff_jacobian(make_bijector, key):
    with jax.enable_x64(True):
        family = flows.from_distrax(affine_params, make_bijector, dim=3)
        params = family.init(key)
        z = 0.5 * jax.random.normal(key, (5, 3))
        cloud = jax.jit(family.push)(params, z)
        jacobians = jax.jit(jax.vmap(jax.jacfwd(lambda z: family.push(params, z[None]).points[0])))(
            z
        )
        reference = scipy.stats.norm.logpdf(z).sum(axis=1) - np.linalg.slogdet(jacobians)[1]
        np.testing.assert_allclose(cloud.log_density, reference, rtol=1e-9)
        np.testing.assert_allclose(
            jax.jit(family.log_prob)(params, cloud.points), reference, rtol=1e-8
        )
        gradient = jax.jit(jax.grad(lambda params: jnp.sum(family.push(params, z).points ** 2)))(
            params
        )
        assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradient))


def test_a_bijector_in_a_scheme_traces_once(key):
    traces = []

    def make_bijector(params):
        traces.append(1)
        return scalar_affine(params)

    family = flows.from_distrax(affine_params, make_bijector, dim=3)
    push = jax.jit(lambda family, params, z: family.push(params, z).points)
    before = len(traces)
    for _ in range(3):
        push(family, family.init(key), jnp.ones((2, 3)))
    assert len(traces) == before + 1


def test_from_distrax_refuses_what_is_no_bijector():
    with pytest.raises(TypeError, match="make_bijector must return a distrax bijector"):
        flows.from_distrax(affine_params, lambda params: params, dim=3)


def test_affine_layers_between_couplings_need_couplings_on_both_sides():
    with pytest.raises(ValueError, match=r"mixing='lu' needs num_layers >= 3.*received 2"):
        flows.coupling(2, num_layers=2, mixing="lu")
    with pytest.raises(
        ValueError, match="mixing must be one of 'permutation', 'lu'; got 'LU'"
    ):
        flows.coupling(2, mixing="LU")


@pytest.mark.parametrize(("num_layers", "num_mixings"), [(3, 1), (4, 1), (5, 2), (6, 2)])
def test_every_affine_layer_between_couplings_moves_points(num_layers, num_mixings, key):
    """Those after the last coupling would be part of the affine layer there, and are left out."""
    family = flows.coupling(3, num_layers=num_layers, width=4, mixing="lu")
    params = perturbed(family, key)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(params["mixings"])} == {num_mixings}
    z = family.latent(key, 5)
    push = jax.jit(family.push)
    whole = push(params, z).points
    for index in range(num_mixings):
        for name, leaf in params["mixings"].items():
            silent = params | {"mixings": params["mixings"] | {name: leaf.at[index].set(0.0)}}
            assert float(jnp.max(jnp.abs(push(silent, z).points - whole))) > 1e-3


def test_fixed_coordinates_stay_and_all_couplings_see_them(key):
    family = flows.coupling(
        5,
        num_layers=3,
        width=8,
        mixing="lu",
        num_fixed=2,
        init_mean=jnp.arange(5.0),
        init_scale=2.0,
    )
    params = perturbed(family, key)
    z = family.latent(key, 7)
    push = jax.jit(family.push)
    points = push(params, z).points
    np.testing.assert_allclose(
        points[:, 3:], jnp.arange(3.0, 5.0)[None, :] + 2.0 * z[:, 3:], rtol=1e-6
    )
    for half, pairs in (("second_given_first", 2), ("first_given_second", 1)):
        weights_in = params[half]["weights_in"]
        for index in range(pairs):
            for coordinate in (-2, -1):
                blind = params | {
                    half: params[half] | {"weights_in": weights_in.at[index, coordinate].set(0.0)}
                }
                assert float(jnp.max(jnp.abs(push(blind, z).points - points))) > 1e-3


def test_flow_given_a_coordinate_finds_the_conditional_law_whatever_the_law_of_the_coordinate(key):
    """x | t ~ N(0.8 t, I e^(t / 2)) with t ~ N(0, 1) fixed, where the target has t ~ N(3, 0.25): KL ends at that of the laws of t."""

    def target(point):
        x, t = point[:2], point[2]
        conditional = (
            -jnp.sum((x - 0.8 * t) ** 2) * jnp.exp(-t / 2) / 2 - t / 2 - jnp.log(2 * jnp.pi)
        )
        return conditional - 2 * (t - 3.0) ** 2 - jnp.log(jnp.pi / 2) / 2

    family = flows.coupling(3, num_layers=4, width=32, num_fixed=1)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 600))
    scheme = swjko.direct_minimization(
        family, swjko.kl_divergence(target), optimizer, num_inner_steps=600, num_samples=256
    )
    state, _ = jax.jit(type(scheme).step)(scheme, key, scheme.init(key))
    cloud = swjko.sample(family, state.params, key, 20_000)
    t = cloud.points[:, 2]
    exact = -(t**2) / 2 - jnp.log(2 * jnp.pi) / 2 + 2 * (t - 3.0) ** 2 + jnp.log(jnp.pi / 2) / 2
    ratio = cloud.log_density - jax.vmap(target)(cloud.points) - exact
    # What is left is the mean KL of the conditional laws.
    assert float(jnp.mean(ratio)) < 0.01
    assert abs(float(jnp.mean(t))) < 0.03


@pytest.mark.parametrize(("dim", "num_fixed"), [(3, 2), (2, 1), (4, 4)])
def test_fixed_coordinates_must_leave_two(dim, num_fixed):
    with pytest.raises(
        ValueError,
        match=f"num_fixed must leave two coordinates.*received num_fixed={num_fixed}, dim={dim}",
    ):
        flows.coupling(dim, num_fixed=num_fixed)


def test_scanned_layers_see_their_own_weights(key):
    family = flows.coupling(2, num_layers=4, width=4)
    params = perturbed(family, key)
    z = family.latent(key, 5)
    push = jax.jit(family.push)
    whole = push(params, z).points
    for half in ("second_given_first", "first_given_second"):
        for pair in (0, 1):
            silent = params | {
                half: jax.tree.map(lambda leaf, pair=pair: leaf.at[pair].set(0.0), params[half])
            }
            assert float(jnp.max(jnp.abs(push(silent, z).points - whole))) > 1e-3
