"""JAX's own checkers pass: keys are not reused, dtypes not promoted, nothing is moved in silence.

Also pickling, export, and short texts. Keys and dtypes are checked while JAX traces, so most
programs are only traced.
"""

import ast
import contextlib
import copy
import importlib.util
import pickle
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import public_rows
import pytest
from helpers import jitted_run
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.tree_util import Partial
from public_rows import FUNCTIONS, SCHEMES, kernel, log_prob, points, sw_jko, weighted_target

import swjko
from swjko import flows
from swjko.running import compiled
from swjko.schemes.optimizers import as_optimizer
from swjko.types.readable import html_table

# Public names that are not functions, or that act on the host and have tests elsewhere.
NO_CALLS = {
    *("Certificate", "CheckpointError", "DirectionFn", "Estimate", "Family", "FlowError"),
    *("Functional", "Importance", "Info", "MaxSliced", "QuantileTable", "Raveled", "Result"),
    *("SavedRun", "Scheme", "Solution", "State", "__version__", "closed_form", "distributed"),
}
ON_THE_HOST = {
    *("flow_mesh", "load", "native_kernels", "shard_flows", "sliced_wasserstein_bytes", "solve"),
    *("stack_flows", "until_stationary"),
}


def solved(name, key=None):
    key = jax.random.key(0) if key is None else key
    return swjko.solve(key, SCHEMES[name](), 2, chunk_size=1, progress=False, throw=False)


def test_every_public_name_has_a_row():
    tree = ast.parse(Path(public_rows.__file__).read_text(encoding="utf-8"))
    called = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "swjko"
    }
    assert set(swjko.__all__) - called == NO_CALLS | ON_THE_HOST


def checked():
    stack = contextlib.ExitStack()
    stack.enter_context(jax.debug_key_reuse(True))
    stack.enter_context(jax.numpy_dtype_promotion("strict"))
    return stack


# Typed keys of the default kind, and in slow tests the others.
KINDS = [
    pytest.param(kind, marks=[] if kind == "typed" else [pytest.mark.slow])
    for kind in public_rows.KINDS
]


@pytest.mark.slow_except_first
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_passes_the_checkers(name, kind):
    def end(key):
        init_key, run_key = jax.random.split(key)
        return swjko.run(run_key, scheme, scheme.init(init_key), 2)[0]

    with checked(), public_rows.keys_of_kind(kind):
        scheme = SCHEMES[name]()
        state = jax.eval_shape(jax.jit(end), public_rows.key(0))
    assert state.step.shape == ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_passes_the_checkers(name, kind):
    with checked(), public_rows.keys_of_kind(kind):
        assert jax.tree.leaves(jax.eval_shape(jax.jit(FUNCTIONS[name])))


# ``running/test_debug_modes.py`` has the others.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["conditional", "forward_kl", "ksd", "posterior", "quantiles", "rejection", "slice_matching"],
)
def test_functions_return_the_same_without_compilation(name):
    compiled = jax.jit(FUNCTIONS[name])()
    with jax.disable_jit():
        found = FUNCTIONS[name]()
    chex.assert_trees_all_close(found, compiled, rtol=2e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_functions_move_nothing_between_host_and_device(name):
    function = jax.jit(FUNCTIONS[name])
    expected = function()
    with jax.transfer_guard("disallow"):
        found = function()
    chex.assert_trees_all_equal(found, expected)


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


@pytest.mark.parametrize("name", ["langevin", "svgd"])
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

FAMILIES = {
    "particles": lambda: swjko.particles(points()),
    "gaussian": lambda: swjko.gaussian(2),
    "mixture": lambda: swjko.gaussian_mixture(2, 2),
    "coupling": lambda: flows.coupling(2, num_layers=2, width=4),
    "mlp": lambda: flows.mlp(2, 2, width=4),
    "conditional": public_rows.conditional,
    "slice matching": lambda: (
        swjko.slice_matching(jax.random.key(0), points(), num_steps=2, num_knots=3).family
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_families_can_be_pickled(name):
    family = FAMILIES[name]()
    back = pickle.loads(pickle.dumps(family))
    one, other = (
        swjko.sample(each, each.init(jax.random.key(0)), jax.random.key(1), 8)
        for each in (family, back)
    )
    chex.assert_trees_all_equal(one, other)


# The map of this one is a lambda of the test.
PICKLED = [name for name in SCHEMES if name not in ("pushforward", "grid")]


@pytest.mark.slow_except_first
@pytest.mark.parametrize("name", PICKLED)
def test_schemes_can_be_pickled_and_copied(name):
    scheme = SCHEMES[name]()
    for back in (pickle.loads(pickle.dumps(scheme)), copy.deepcopy(scheme), copy.copy(scheme)):
        chex.assert_trees_all_equal(jax.tree.leaves(back), jax.tree.leaves(scheme))
        # Equal structures share compiled programs.
        assert jax.tree.structure(back) == jax.tree.structure(scheme)


@pytest.mark.slow
def test_a_pickled_scheme_runs_in_another_process(tmp_path):
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, 50))
    )
    scheme = sw_jko(functional=swjko.sw_to_target(points(), 3), optimizer=optimizer)
    (tmp_path / "scheme.pickle").write_bytes(pickle.dumps(scheme))
    code = """
import pickle, sys
scheme = pickle.load(open(sys.argv[1], "rb"))
import jax, swjko
state = swjko.run(jax.random.key(0), scheme, scheme.init(jax.random.key(1)), 2)[0]
print(repr(state.params["mean"].tolist()))
"""
    arguments = [sys.executable, "-c", code, str(tmp_path / "scheme.pickle")]
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "JAX_PLATFORMS": "cpu"}
    found = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    expected = jitted_run(jax.random.key(0), scheme, scheme.init(jax.random.key(1)), num_steps=2)[0]
    np.testing.assert_allclose(ast.literal_eval(found.stdout), expected.params["mean"], atol=1e-5)


def test_a_pickle_of_other_code_is_refused(monkeypatch):
    text = pickle.dumps(sw_jko(optimizer=optax.adam(1e-2)))
    monkeypatch.delattr("optax._src.transform.scale_by_adam")
    with pytest.raises(pickle.UnpicklingError, match="same versions of optax and Python"):
        pickle.loads(text)


def test_a_lambda_is_left_to_the_pickler():
    schedule = eval("lambda count: 1e-3", {"__name__": "__main__"})
    scheme = sw_jko(optimizer=optax.sgd(schedule))
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(scheme)
    assert copy.deepcopy(scheme).optimizer == scheme.optimizer


@pytest.mark.slow
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


HTML = {
    "scheme": lambda: sw_jko(flows.coupling(2, num_layers=2, width=4)),
    "family": lambda: swjko.gaussian(2),
    "functional": weighted_target,
    "drift": lambda: swjko.svgd(log_prob),
    "distribution": public_rows.distribution,
    "target": lambda: swjko.raveled(log_prob, jnp.zeros(2)),
    "solution": lambda: solved("langevin"),
    "importance": lambda: swjko.importance(
        jax.random.key(0), public_rows.distribution(), log_prob, 32
    ),
    "certificate": lambda: public_rows.certified()[0],
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=[pytest.mark.slow] if name in ("certificate", "importance") else []
        )
        for name in HTML
    ],
)
def test_notebooks_show_a_small_table(name):
    text = HTML[name]()._repr_html_()
    assert len(text) < 4000
    assert text.startswith("<table>")
    root = xml.etree.ElementTree.fromstring(text)  # so all texts are escaped
    assert 1 <= len(root.findall(".//tr")) <= 16


def test_values_in_tables_are_escaped_and_short():
    text = html_table("<b>", {"a & b": "<script>", "long": "x" * 1000, "one": jnp.float32(0.25)})
    assert "&lt;script&gt;" in text
    assert "a &amp; b" in text
    assert "0.25" in text
    assert len(text) < 800


# Optimizers.


def schedule(scale, count):
    return scale / (1.0 + count)


EQUAL = {
    "adam": lambda: optax.adam(1e-2),
    "schedule": lambda: optax.adam(optax.cosine_decay_schedule(1e-2, 50)),
    "schedule in parts": lambda: optax.adam(
        optax.warmup_cosine_decay_schedule(0.0, 1e-2, 5, 50), b1=0.8
    ),
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
        lambda: optax.adam(optax.join_schedules([optax.constant_schedule(1.0)] * 2, [5])),
        lambda: optax.adam(optax.join_schedules([optax.constant_schedule(1.0)] * 2, [6])),
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
