"""Families of networks: bijections, architectures, and models of users."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.signal
import scipy.stats
from flax import linen, nnx
from helpers import TOLERANCES, check_bijection, constant_bytes, perturbed, sw_jko

import swjko
from swjko import flows
from swjko.networks import convolutional
from swjko.networks import coupling as couplings

COUPLINGS = {
    "coupling": lambda dim, layers: flows.coupling(dim, num_layers=layers, width=16),
    "coupling with LU": lambda dim, layers: flows.coupling(
        dim, num_layers=max(3, layers), width=16, mixing="lu"
    ),
    "coupling with fixed coordinates": lambda dim, layers: flows.coupling(
        dim, num_layers=layers, width=16, num_fixed=min(2, dim - 2)
    ),
    "spline": lambda dim, layers: flows.spline(dim, num_layers=layers, width=16),
}


def refused(message, error=ValueError):
    return pytest.raises(error, match=message)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("name", COUPLINGS)
@pytest.mark.parametrize(("dim", "num_layers"), [(2, 4), (3, 3), (5, 1), (10, 4)])
@pytest.mark.parametrize(("dtype", "inverse_tolerance", "log_det_tolerance"), TOLERANCES)
def test_couplings_invert_with_opposite_log_dets(
    name, dim, num_layers, dtype, inverse_tolerance, log_det_tolerance, key
):
    with jax.enable_x64(dtype == "float64"):
        family = COUPLINGS[name](dim, num_layers)
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), perturbed(family, key, 0.05))
        z = jnp.asarray(np.random.default_rng(dim).normal(size=(40, dim)), dtype)
        tolerances = (4 * inverse_tolerance, log_det_tolerance)
        check_bijection(family, params, z, dtype, tolerances, jacobian=False)


@pytest.mark.parametrize("dim", [2, 3, 7, 16, 33])
def test_interleaving_separates_every_pair_of_coordinates(dim):
    row, together = jnp.arange(dim)[None, :], np.ones((dim, dim), bool)
    for _ in range(int(np.ceil(np.log2(dim)))):
        first, second = (np.asarray(half[0]) for half in couplings._halves(row))
        together[np.ix_(first, second)] = together[np.ix_(second, first)] = False
        row = couplings._interleave(*couplings._halves(row))
    np.testing.assert_array_equal(together, np.eye(dim, dtype=bool))
    dealt = couplings._deal(couplings._interleave(*couplings._halves(row)))
    np.testing.assert_array_equal(jnp.concatenate(dealt, axis=1), row)


@pytest.mark.slow
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
def test_bad_spline_settings_are_refused(arguments, message):
    with refused(message):
        flows.spline(2, **arguments)


def test_log_scales_are_bounded_by_construction(key):
    family = flows.coupling(2, num_layers=2, width=8)
    params = jax.tree.map(jnp.zeros_like, family.init(key))
    for half in ("second_given_first", "first_given_second"):
        params[half]["bias_out"] += 1e6
    log_density = family.push(params, jnp.zeros((1, 2))).log_density
    # Two layers move each coordinate once, by a log-scale of at most 2.
    np.testing.assert_allclose(log_density[0], -np.log(2 * np.pi) - 4.0, rtol=1e-4)


@pytest.mark.parametrize("name", ["coupling", "spline"])
def test_couplings_of_one_dimension_are_refused(name):
    with refused(rf"flows.{name} needs dim >= 2.*swjko\.gaussian"):
        COUPLINGS[name](1, 2)


def test_mlp_of_other_dimensions_reaches_its_space(key):
    family = flows.mlp(3, 5, init_mean=2.0)
    assert swjko.sample(family, family.init(key), key, 4).points.shape == (4, 5)
    assert not family.has_density


@pytest.mark.slow_except_first
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
    # As documented: mean about init_mean, deviations of the order of init_scale.
    assert abs(points.mean() + 1.0) < 0.5
    assert 0.05 < points.std(axis=0).mean() < 1.0


def test_convolutions_of_both_kinds_and_of_doubled_pictures_agree(key):
    """Matrix products, which the CPU uses, XLA's convolution, and that of the doubled image."""
    with jax.enable_x64(True):
        one = convolutional._Convolution(3, 4, nnx.Rngs(0))
        kernel = one.kernel[...].astype(float)
        x = jax.random.normal(key, (2, 5, 4, 3), float)
        padded = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
        reference = scipy.signal.correlate(padded, np.asarray(kernel[..., 1]), mode="valid")[..., 0]
        for name in ("_by_products", "_by_library", "_convolved"):
            convolved = getattr(convolutional, name)
            np.testing.assert_allclose(convolved(x, kernel)[0, ..., 1], reference, rtol=1e-10)
        doubled = x.repeat(2, axis=1).repeat(2, axis=2)
        np.testing.assert_allclose(one.of_doubled(x), one(doubled), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("shape", "output", "message"),
    [
        ((8, 8), "linear", r"shape must be \(height, width, channels\).* got \(8, 8\)"),
        ((8, 0, 1), "linear", r"shape\[1\] \(width\) must be at least 1; got 0"),
        ((8.5, 8, 1), "linear", r"shape\[0\] \(height\) must be a static integer"),
        ((8, 8, 1), "tanh", "output must be one of 'linear', 'sigmoid'; got 'tanh'"),
    ],
)
def test_bad_shapes_and_outputs_are_refused(shape, output, message):
    with refused(message, (ValueError, TypeError)):
        flows.convolutional(4, shape, output=output)


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
    with refused(r"shape \(3, 2\)"):
        flows.from_nnx(lambda rngs: nnx.Linear(2, 4, rngs=rngs), dim=2)


class Normalised(nnx.Module):
    """Batch normalisation, dropout, and a constant."""

    def __init__(self, rngs, mean=0.0):
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.norm.mean[...] += mean
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.shift = nnx.Variable(jnp.asarray(3.0))

    def __call__(self, z):
        return self.dropout(self.norm(z)) + self.shift[...]


def evaluated(rngs, mean=0.0):
    model = Normalised(rngs, mean)
    model.eval()
    return model


@pytest.mark.slow
def test_from_nnx_keeps_frozen_state_as_data(key, tmp_path):
    one, other = (flows.from_nnx(lambda rngs, m=m: evaluated(rngs, m), dim=2) for m in (0.0, 2.0))
    params, z = one.init(key), one.latent(key, 5)
    assert set(params) == {"norm"}
    for family, mean in ((one, 0.0), (other, 2.0)):
        expected = (z - mean) / np.sqrt(1 + 1e-5) + 3.0
        np.testing.assert_allclose(family.push(params, z).points, expected, rtol=1e-5, atol=1e-5)
    assert max(constant_bytes(lambda f, *at: f.push(*at), one, params, z), default=0) < 8
    scheme = sw_jko(one, swjko.sw_to_target(jnp.ones((8, 2)), 3))
    for _ in range(2):  # the second resumes
        solution = swjko.solve(key, scheme, 1, checkpoint_dir=tmp_path, progress=False)
        assert solution.result == swjko.Result.OK


def test_from_nnx_takes_a_trained_model(key):
    model = evaluated(nnx.Rngs(0), 2.0)
    family = flows.from_nnx(lambda rngs: model, dim=2)
    z = family.latent(key, 5)
    np.testing.assert_allclose(family.push(family.init(key), z).points, model(z), rtol=1e-5)


def test_from_nnx_refuses_state_that_calls_change():
    with refused(r"state no call changes.*Got BatchStat, RngCount\. Call model\.eval\(\)"):
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


def test_from_linen_refuses_other_things(as_users_see_it):
    with refused(r"module must be a flax\.linen\.Module", TypeError):
        flows.from_linen(lambda z: z, dim=2)
    with refused(r"shape \(3, 2\)"):
        flows.from_linen(linen.Dense(5), dim=2)
    for module in (
        linen.BatchNorm(use_running_average=False),
        linen.Dropout(0.5, deterministic=False),
    ):
        with refused("state no call changes.*Pass use_running_average=True to BatchNorm"):
            flows.from_linen(module, dim=2)


class LinenConstants(linen.Module):
    @linen.compact
    def __call__(self, z):
        shift = self.variable("constants", "shift", lambda: jnp.full((1, 2), 3.0))
        normalised = linen.BatchNorm(use_running_average=True)(z)
        return linen.Dropout(0.5, deterministic=True)(normalised) + shift.value


def test_from_linen_keeps_other_collections_as_data(key):
    family = flows.from_linen(LinenConstants(), dim=2)
    params, z = family.init(key), family.latent(key, 5)
    assert set(params) == {"BatchNorm_0"}
    points = family.push(params, z).points
    np.testing.assert_allclose(points, z / np.sqrt(1 + 1e-5) + 3.0, rtol=1e-5)
    assert len(jax.tree.leaves(family)) == 3


def affine_params(key):
    return {"shift": jax.random.normal(key, (3,)), "log_scale": 0.3 * jnp.arange(3.0)}


def scalar_affine(params):
    import distrax

    return distrax.ScalarAffine(shift=params["shift"], log_scale=params["log_scale"])


def chain_of_affine(params):
    import distrax

    return distrax.Chain(
        [distrax.Block(distrax.Tanh(), 1), distrax.Block(scalar_affine(params), 1)]
    )


@pytest.mark.parametrize("make_bijector", [chain_of_affine, scalar_affine])
def test_from_distrax_against_the_autodiff_jacobian(make_bijector, key):
    with jax.enable_x64(True):
        family = flows.from_distrax(affine_params, make_bijector, dim=3)
        params = family.init(key)
        z = 0.5 * jax.random.normal(key, (5, 3))
        cloud = jax.jit(family.push)(params, z)
        push_one = jax.jacfwd(lambda z: family.push(params, z[None]).points[0])
        log_dets = np.linalg.slogdet(jax.jit(jax.vmap(push_one))(z))[1]
        reference = scipy.stats.norm.logpdf(z).sum(axis=1) - log_dets
        log_prob = jax.jit(family.log_prob)(params, cloud.points)
        np.testing.assert_allclose(cloud.log_density, reference, rtol=1e-9)
        np.testing.assert_allclose(log_prob, reference, rtol=1e-8)
        total = jax.grad(lambda params: jnp.sum(family.push(params, z).points ** 2))
        gradient = jax.jit(total)(params)
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


def test_from_distrax_refuses_other_things():
    with refused("make_bijector must return a distrax bijector", TypeError):
        flows.from_distrax(affine_params, lambda params: params, dim=3)


@pytest.mark.parametrize(
    ("dim", "options", "message"),
    [
        (2, {"num_layers": 2, "mixing": "lu"}, r"mixing='lu' needs num_layers >= 3.*got 2"),
        (2, {"mixing": "LU"}, "mixing must be one of 'permutation', 'lu'; got 'LU'"),
        *(
            (dim, {"num_fixed": fixed}, f"leave two coordinates.*got num_fixed={fixed}, dim={dim}")
            for dim, fixed in ((3, 2), (2, 1), (4, 4))
        ),
    ],
)
def test_bad_couplings_are_refused(dim, options, message):
    with refused(message):
        flows.coupling(dim, **options)


@pytest.mark.slow_except_first
@pytest.mark.parametrize(("num_layers", "num_mixings"), [(3, 1), (4, 1), (5, 2), (6, 2)])
def test_every_affine_layer_between_couplings_moves_points(num_layers, num_mixings, key):
    """None follows the last coupling, where it would be part of the affine layer there."""
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
    start = {"init_mean": jnp.arange(5.0), "init_scale": 2.0}
    family = flows.coupling(5, num_layers=3, width=8, mixing="lu", num_fixed=2, **start)
    params = perturbed(family, key)
    z = family.latent(key, 7)
    push = jax.jit(family.push)
    points = push(params, z).points
    fixed = jnp.arange(3.0, 5.0)[None, :] + 2.0 * z[:, 3:]
    np.testing.assert_allclose(points[:, 3:], fixed, rtol=1e-6)
    for half, pairs in (("second_given_first", 2), ("first_given_second", 1)):
        weights_in = params[half]["weights_in"]
        for index in range(pairs):
            for coordinate in (-2, -1):
                silent = weights_in.at[index, coordinate].set(0.0)
                blind = params | {half: params[half] | {"weights_in": silent}}
                assert float(jnp.max(jnp.abs(push(blind, z).points - points))) > 1e-3


@pytest.mark.slow
def test_a_flow_with_a_fixed_coordinate_finds_the_conditional_law(key):
    """x | t ~ N(0.8 t, I e^(t / 2)) with t ~ N(0, 1) fixed; the target has t ~ N(3, 0.25)."""

    def target(point):
        x, t = point[:2], point[2]
        exponent = -jnp.sum((x - 0.8 * t) ** 2) * jnp.exp(-t / 2) / 2
        conditional = exponent - t / 2 - jnp.log(2 * jnp.pi)
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
    # The mean KL of the conditional laws, without that of the laws of t.
    assert float(jnp.mean(ratio)) < 0.01
    assert abs(float(jnp.mean(t))) < 0.03


def test_scanned_layers_see_their_own_weights(key):
    family = flows.coupling(2, num_layers=4, width=4)
    params = perturbed(family, key)
    z = family.latent(key, 5)
    push = jax.jit(family.push)
    whole = push(params, z).points
    for half in ("second_given_first", "first_given_second"):
        for pair in (0, 1):
            weights = jax.tree.map(lambda leaf, pair=pair: leaf.at[pair].set(0.0), params[half])
            silent = params | {half: weights}
            assert float(jnp.max(jnp.abs(push(silent, z).points - whole))) > 1e-3
