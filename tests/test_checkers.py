"""JAX's own checkers pass: keys are not reused, dtypes not promoted, nothing is moved in silence.

Also pickling, export, and short texts. Keys and dtypes are checked while JAX traces, so most
programs are only traced.
"""

import contextlib
import importlib.util
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import jitted_run
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.tree_util import Partial

import swjko
from swjko import closed_form, flows
from swjko.running import compiled
from swjko.schemes.optimizers import as_optimizer

POINTS = np.linspace(-1.0, 1.0, 16).reshape(8, 2)
SIZES = {"step_size": 0.1, "num_inner_steps": 2, "num_samples": 8}
UNIFORM = np.full(8, 1 / 8)


def points():
    return jnp.asarray(POINTS)


def directions():
    return swjko.uniform_directions(jax.random.key(5), 4, 2)


def log_prob(x):
    return -jnp.sum((x - 1.0) ** 2) / 2


def kernel(x):
    return jnp.exp(-jnp.sum(x**2) / 2)


def sw_jko(family=None, functional=None, optimizer=None, **options):
    family = swjko.gaussian(2) if family is None else family
    functional = swjko.kl_divergence(log_prob) if functional is None else functional
    optimizer = optax.sgd(1e-3) if optimizer is None else optimizer
    return swjko.sw_jko(family, functional, optimizer, **(SIZES | {"num_projections": 4} | options))


def weighted_target():
    weights = jnp.asarray(UNIFORM)
    return swjko.sw_to_target(points() + 1.0, 3, weights=weights, batch_size=4)


SCHEMES = {
    "sw_jko with a tolerance": lambda: sw_jko(inner_tolerance=0.5, num_inner_steps=12),
    "sw_jko with independent latents": lambda: sw_jko(common_latents=False),
    "sw_jko with a line search": lambda: sw_jko(optimizer=optax.lbfgs()),
    "mixture": lambda: sw_jko(swjko.gaussian_mixture(2, 2, learned_weights=True)),
    "particles": lambda: sw_jko(
        swjko.particles(points(), learned_weights=True), weighted_target(), debias=False
    ),
    "coupling": lambda: sw_jko(
        flows.coupling(2, num_layers=2, width=4), swjko.forward_kl(points(), batch_size=4)
    ),
    "spline": lambda: sw_jko(flows.spline(2, num_layers=1, width=4, num_bins=2)),
    "sw_bdf2": lambda: swjko.sw_bdf2(
        *(swjko.gaussian(2), swjko.kl_divergence(log_prob), optax.sgd(1e-3)),
        num_projections=4,
        **SIZES,
    ),
    "adaptive": lambda: swjko.adaptive(sw_jko(), min_step_size=0.01, max_step_size=1.0),
    "guarded": lambda: swjko.guarded(sw_jko()),
    "corrected": lambda: swjko.corrected(
        sw_jko(), log_prob, optax.sgd(1e-3), num_inner_steps=2, num_draws=32, batch_size=8
    ),
    "icnn_jko": lambda: swjko.icnn_jko(
        *(2, swjko.potential(jnp.sum), optax.sgd(1e-3)),
        **(SIZES | {"num_points": 8, "max_steps": 2, "width": 4, "rank": 1}),
    ),
    "direct": lambda: swjko.direct_minimization(
        *(swjko.gaussian(2), swjko.kl_divergence(log_prob), optax.sgd(1e-3)),
        num_inner_steps=2,
        num_samples=8,
    ),
    "langevin": lambda: swjko.langevin(points(), log_prob, step_size=0.1),
    "sliced_flow": lambda: swjko.sliced_flow(
        points(), points() + 1.0, step_size=0.1, num_projections=4, temperature=0.1
    ),
}


def solved(name, key=None):
    key = jax.random.key(0) if key is None else key
    return swjko.solve(key, SCHEMES[name](), 2, chunk_size=1, progress=False, throw=False)


def distribution():
    family = swjko.gaussian(2)
    return swjko.FlowDistribution(family, family.init(jax.random.key(8)))


def certified():
    scheme, keys = sw_jko(), jax.random.split(jax.random.key(1), 3)
    start = scheme.init(keys[0])
    states, _ = swjko.run(keys[1], scheme, start, 2)[1]
    sizes = {"num_samples": 8, "num_repeats": 2}
    with jax.ensure_compile_time_eval():
        rule = swjko.until_certified(jax.random.key(2), scheme, **sizes)
    return (
        swjko.certificate(keys[2], scheme, states, start=start, **sizes),
        rule.judge(scheme, jax.random.key(3), states.step[-1], states.params),
    )


def one_dimensional():
    u, v = points()[:, 0], points()[:5, 1]
    return (
        swjko.wasserstein_1d_pow(u, v, p=1.0, u_weights=jnp.asarray(UNIFORM)),
        swjko.wasserstein_1d_plan(u, v),
        swjko.wasserstein_1d_potentials(u, v),
    )


def cloud():
    return swjko.Cloud(points(), jnp.asarray(UNIFORM), jnp.zeros(8))


FUNCTIONS = {
    "directions": lambda: [
        make(jax.random.key(number), 4, dim)
        for number, (make, dim) in enumerate(
            [
                (swjko.uniform_directions, 2),
                (swjko.orthogonal_directions, 2),
                (swjko.quasi_directions, 3),
                (swjko.quasi_directions, 5),
            ]
        )
    ],
    "distance": lambda: jax.value_and_grad(swjko.sliced_wasserstein)(
        points(), points()[:5] + 1.0, directions(), p=1.5, x_weights=jnp.asarray(UNIFORM)
    ),
    "displacement": lambda: swjko.sliced_displacement(points(), points()[:5], directions()),
    "one-dimensional": one_dimensional,
    "estimate": lambda: swjko.sliced_wasserstein_estimate(
        jax.random.key(0), points(), points()[:5], 4
    ),
    "max_sliced": lambda: swjko.max_sliced_wasserstein(
        jax.random.key(0), points(), points()[:5], num_iterations=2, num_starts=2
    ),
    "mmd": lambda: swjko.mmd_to_target(points(), kernel, weights=jnp.asarray(UNIFORM))(
        jax.random.key(0), cloud()
    ),
    "sum": lambda: swjko.weighted_sum((0.5, swjko.negative_entropy()), (1.0, weighted_target()))(
        jax.random.key(0), cloud()
    ),
    "neighbours": lambda: swjko.nearest_neighbour_negative_entropy()(
        jax.random.key(0), swjko.Cloud(points())
    ),
    "run_many": lambda: swjko.run_many(jax.random.split(jax.random.key(0), 2), sw_jko(), 2),
    "certificate": certified,
    "evaluate": lambda: swjko.evaluate(
        *(jax.random.key(0), swjko.gaussian(2), swjko.kl_divergence(log_prob)),
        distribution().params,
        num_samples=8,
        num_repeats=2,
    ),
    "importance": lambda: swjko.importance(
        jax.random.key(0), distribution(), log_prob, 32
    ).resample(jax.random.key(1), 4),
    "closed form": lambda: closed_form.gaussian_sw_jko_step(
        jnp.zeros(2), jnp.eye(2), jnp.eye(2), jnp.ones(2), 0.1, directions()
    ),
}


def checked():
    stack = contextlib.ExitStack()
    stack.enter_context(jax.debug_key_reuse(True))
    stack.enter_context(jax.numpy_dtype_promotion("strict"))
    return stack


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_passes_the_checkers(name):
    def end(key):
        init_key, run_key = jax.random.split(key)
        return swjko.run(run_key, scheme, scheme.init(init_key), 2)[0]

    with checked():
        scheme = SCHEMES[name]()
        state = jax.eval_shape(jax.jit(end), jax.random.key(0))
    assert state.step.shape == ()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_passes_the_checkers(name):
    with checked():
        assert jax.tree.leaves(jax.eval_shape(jax.jit(FUNCTIONS[name])))


def test_the_checkers_see_a_reused_key_and_a_promotion():
    def reuse(key):
        return jax.random.normal(key) + jax.random.uniform(key)

    with checked(), pytest.raises(jax.errors.KeyReuseError):
        jax.eval_shape(jax.jit(reuse), jax.random.key(0))
    with checked(), pytest.raises(ValueError, match="implicit dtype promotion"):
        jax.eval_shape(jax.jit(lambda: jnp.arange(2) + jnp.ones(2)))


@pytest.mark.parametrize("many", [False, True])
def test_solve_passes_the_checkers(many):
    key = jax.random.key(0)
    with checked():
        solution = solved("sliced_flow", jax.random.split(key, 2) if many else key)
    assert np.all(solution.state.step == 2)


@pytest.mark.parametrize("name", ["langevin", "sliced_flow"])
@pytest.mark.parametrize(
    "make", [lambda: jax.random.key(0, impl="rbg"), lambda: jax.random.PRNGKey(0)]
)
def test_every_kind_of_key_is_accepted(make, name):
    solution = solved(name, make())
    assert int(solution.state.step) == 2
    chex.assert_tree_all_finite(solution.state.params)


def test_old_keys_have_the_draws_of_typed_ones():
    old, new = (solved("langevin", key) for key in (jax.random.PRNGKey(3), jax.random.key(3)))
    chex.assert_trees_all_equal(old.state, new.state)


@pytest.mark.parametrize("name", ["langevin", "sliced_flow"])
def test_a_compiled_run_moves_nothing_between_host_and_device(name):
    scheme, key = SCHEMES[name](), jax.random.key(0)
    state = scheme.init(key)
    jitted_run(key, scheme, state, num_steps=2)
    with jax.transfer_guard("disallow"):
        jitted_run(key, scheme, state, num_steps=2)


def test_a_run_can_be_exported():
    scheme = SCHEMES["langevin"]()

    def end(data, points):
        state = scheme.init(jax.random.key(0))._replace(params=points)
        return jitted_run(jax.random.wrap_key_data(data), scheme, state, num_steps=3)[0].params

    arguments = jax.random.key_data(jax.random.key(1)), points()
    exported = jax.export.export(jax.jit(end))(*arguments)
    if importlib.util.find_spec("flatbuffers"):
        exported = jax.export.deserialize(exported.serialize())
    found = exported.call(*arguments)
    np.testing.assert_allclose(found, end(*arguments), rtol=1e-6)


def of_clouds(x, y):
    functionals = (swjko.sw_to_target(y, 3), swjko.mmd_to_target(y, kernel))
    scheme = swjko.sliced_flow(x, y, step_size=0.1, num_projections=3)
    values = [one(jax.random.key(1), swjko.Cloud(x)) for one in functionals]
    return values, scheme.step(jax.random.key(2), scheme.init(jax.random.key(3)))[0].params


def test_points_may_be_sharded_over_an_explicit_mesh():
    x, y = points(), points() ** 2
    expected = jax.jit(of_clouds)(x, y)
    mesh = jax.make_mesh((4,), ("rows",), (AxisType.Explicit,), devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        place = NamedSharding(mesh, PartitionSpec("rows"))
        found = jax.jit(of_clouds)(*jax.device_put((x, y), place))
    chex.assert_trees_all_close(jax.device_get(found), jax.device_get(expected), rtol=1e-5)


# Pickling and texts.

PICKLED = {
    "particles": lambda: swjko.particles(points()),
    "gaussian": lambda: swjko.gaussian(2),
    "mixture": lambda: swjko.gaussian_mixture(2, 2),
    "coupling": lambda: flows.coupling(2, num_layers=2, width=4),
    "mlp": lambda: flows.mlp(2, 2, width=4),
}


@pytest.mark.parametrize("name", PICKLED)
def test_families_can_be_pickled(name):
    family = PICKLED[name]()
    back = pickle.loads(pickle.dumps(family))
    one, other = (
        swjko.sample(each, each.init(jax.random.key(0)), jax.random.key(1), 8)
        for each in (family, back)
    )
    chex.assert_trees_all_equal(one, other)


@pytest.mark.parametrize("name", ["langevin", "sliced_flow"])
def test_particle_schemes_can_be_pickled(name):
    scheme = SCHEMES[name]()
    back = pickle.loads(pickle.dumps(scheme))
    assert jax.tree.structure(back) == jax.tree.structure(scheme)
    chex.assert_trees_all_equal(jax.tree.leaves(back), jax.tree.leaves(scheme))


@pytest.mark.parametrize("name", SCHEMES)
def test_texts_of_schemes_are_short(name):
    text = repr(SCHEMES[name]())
    assert text.count("\n") <= 40
    assert len(text) < 1600
    assert "array" not in text.lower().replace("arrays", "")


def test_the_text_of_a_scheme_names_its_parts():
    text = repr(sw_jko(flows.coupling(2, num_layers=2, width=4)))
    assert text.startswith("SWJKO(")
    assert text.count("\n") <= 21
    for part in ("dim=2", "log_prob", "num_samples=8", "direction_fn=uniform_directions"):
        assert part in text


# Optimizers.


def schedule(scale, count):
    return scale / (1.0 + count)


EQUAL = {
    "adam": lambda: optax.adam(1e-2),
    "schedule": lambda: optax.adam(optax.cosine_decay_schedule(1e-2, 50)),
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)),
    "line search": optax.lbfgs,
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_optimizers_are_one(name):
    assert as_optimizer(EQUAL[name]()) is as_optimizer(EQUAL[name]())


def test_optimizers_that_may_differ_are_two():
    scales = jnp.asarray([1.0, 2.0])
    makers = [
        lambda: optax.adam(1e-2),
        lambda: optax.adam(2e-2),
        lambda: optax.adam(1e-2, b1=0.8),
        lambda: optax.adamw(1e-2),
        lambda: optax.sgd(1),
        lambda: optax.sgd(1.0),
        lambda: optax.sgd(lambda count: 1.0 / (1.0 + count)),
        lambda: optax.sgd(lambda count: 2.0 / (1.0 + count)),
        lambda: optax.sgd(Partial(schedule, scales[0])),
        lambda: optax.sgd(Partial(schedule, scales[1])),
        lambda: optax.adam(scales[0]),
        lambda: optax.adam(scales[1]),
    ]
    assert len({id(as_optimizer(make())) for make in makers}) == len(makers)


def test_a_new_optimizer_of_equal_numbers_does_not_compile_again():
    functional = swjko.kl_divergence(log_prob)

    def solve():
        scheme = sw_jko(functional=functional, optimizer=optax.adam(1e-2))
        return swjko.solve(jax.random.key(0), scheme, 2, progress=False)

    first = solve()
    before = compiled.start_flows._cache_size(), compiled._compile.cache_info().misses
    chex.assert_trees_all_equal(solve().state, first.state)
    assert (compiled.start_flows._cache_size(), compiled._compile.cache_info().misses) == before
