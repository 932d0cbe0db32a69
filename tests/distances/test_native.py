"""The optional sorts of swjko-native: the same results as in JAX, wherever they run."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import swjko
from swjko.distances import native
from swjko.distances.sliced import debiased_sliced_wasserstein_pow
from swjko.distances.sorting import (
    sort_rows,
    sort_rows_of_integers,
    sort_rows_with_permutation,
    unsort_rows,
)

installed = pytest.mark.skipif(
    native._installed() is None, reason="swjko-native is not installed: pip install ./native"
)
SHAPES = [(1, 1), (3, 2), (40, 33), (300, 1000), (2, 70_001), (0, 5)]


def rows_with_ties(shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    if shape[0] > 2:
        values[1, : shape[1] // 3], values[2, -1] = 0.5, np.inf
        values[0, ::2], values[0, 1::2] = -0.0, 0.0
    return values


def clouds(n=65, m=65, dim=3):
    keys = jax.random.split(jax.random.key(0), 3)
    x, y = jax.random.normal(keys[0], (n, dim)), 0.5 + jax.random.normal(keys[1], (m, dim))
    return x, y, swjko.uniform_directions(keys[2], 40, dim)


def with_and_without(function, *arguments):
    """Results of a compiled function by the native sorts and in JAX."""
    results = []
    for use in (True, False):
        with swjko.native_kernels(use):
            compiled = jax.jit(function).lower(*arguments)
            assert ("swjko_native" in compiled.as_text()) == use
            results.append(compiled.compile()(*arguments))
    return results


def assert_close(results, tolerance=1e-7):
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-6, atol=tolerance),
        *results,
    )


@installed
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_sorted_as_by_numpy(shape):
    values = rows_with_ties(shape)
    np.testing.assert_array_equal(jax.jit(sort_rows)(values), np.sort(values))
    ordered, permutation = jax.jit(sort_rows_with_permutation)(values)
    np.testing.assert_array_equal(ordered, np.sort(values))
    np.testing.assert_array_equal(permutation, np.argsort(values, axis=1, kind="stable"))
    np.testing.assert_array_equal(jax.jit(unsort_rows)(ordered, permutation), values)


@installed
def test_integers_of_64_bits_are_sorted_under_vmap_too():
    with jax.enable_x64(True):
        keys = np.random.default_rng(0).integers(-(2**62), 2**62, size=(3, 4, 100))
        np.testing.assert_array_equal(jax.jit(sort_rows_of_integers)(keys[0]), np.sort(keys[0]))
        mapped = jax.vmap(sort_rows_of_integers)
        np.testing.assert_array_equal(jax.jit(mapped)(keys), np.sort(keys))


@installed
def test_nan_goes_to_an_end_of_its_row():
    values = rows_with_ties((40, 33))
    values[5, 7] = np.nan
    ordered = np.asarray(jax.jit(sort_rows)(values))
    assert np.isnan(ordered[5]).sum() == 1
    assert np.isnan(ordered[5, [0, -1]]).any()


@installed
@pytest.mark.parametrize(
    ("n", "m", "p"), [(65, 65, 2.0), (64, 64, 2.0), (64, 64, 1.0), (64, 48, 2.0), (5, 5, 3.0)]
)
@pytest.mark.parametrize("argnums", [0, 1, (0, 1, 2)])
def test_values_and_gradients_equal_those_in_jax(n, m, p, argnums):
    def distance(x, y, directions):
        return swjko.sliced_wasserstein_pow(x, y, directions, p=p)

    assert_close(with_and_without(jax.value_and_grad(distance, argnums), *clouds(n, m)))


@installed
@pytest.mark.parametrize("n", [2, 64, 65])
@pytest.mark.parametrize("argnums", [0, 1])
def test_the_jackknife_equals_that_in_jax(n, argnums):
    function = jax.value_and_grad(debiased_sliced_wasserstein_pow, argnums)
    assert_close(with_and_without(function, *clouds(n, n)), tolerance=1e-6)


@installed
def test_weights_and_unequal_sizes_equal_those_in_jax():
    x, y, directions = clouds(64, 48)
    weights = jax.nn.softmax(x[:, 0])

    def distance(x, weights):
        return swjko.sliced_wasserstein_pow(x, y, directions, x_weights=weights)

    assert_close(with_and_without(jax.value_and_grad(distance, (0, 1)), x, weights))


@installed
def test_second_derivatives_equal_those_in_jax():
    x, y, directions = clouds(9, 9)

    def along(x, direction):
        gradient = jax.grad(lambda x: swjko.sliced_wasserstein_pow(x, y, directions))
        return jax.jvp(gradient, (x,), (direction,))[1]

    assert_close(with_and_without(along, x, jnp.ones_like(x).at[3].set(-2.0)))


@installed
def test_mapped_over_flows():
    x, y, directions = clouds(32, 32)
    many = jnp.stack([x, 2.0 * x, x[::-1]])
    distance = jax.grad(lambda x: swjko.sliced_wasserstein_pow(x, y, directions))
    assert_close(with_and_without(jax.vmap(distance), many))


@installed
def test_each_device_sorts_the_rows_that_it_has():
    mesh = jax.make_mesh((4,), ("rows",), (AxisType.Auto,), devices=jax.devices()[:4])
    sharding = NamedSharding(mesh, PartitionSpec("rows"))
    values = jax.device_put(rows_with_ties((40, 33)), sharding)
    program = jax.jit(sort_rows_with_permutation).lower(values).compile()
    assert "all-gather" not in program.as_text()
    ordered, _ = program(values)
    assert ordered.sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_array_equal(ordered, np.sort(values))
    spec = PartitionSpec("rows")
    mapped = jax.shard_map(sort_rows, mesh=mesh, in_specs=spec, out_specs=spec)
    np.testing.assert_array_equal(jax.jit(mapped)(values), np.sort(values))


@installed
def test_exported_with_and_without():
    values = rows_with_ties((4, 33))
    with swjko.native_kernels(False):
        exported = jax.export.export(jax.jit(sort_rows))(values)
    np.testing.assert_array_equal(exported.call(values), np.sort(values))
    allowed = [jax.export.DisabledSafetyCheck.custom_call("swjko_native_SwjkoSort")]
    with swjko.native_kernels(True):
        exported = jax.export.export(jax.jit(sort_rows), disabled_checks=allowed)(values)
    np.testing.assert_array_equal(exported.call(values), np.sort(values))


@installed
@pytest.mark.slow
def test_a_run_ends_where_it_ends_in_jax():
    def flow():
        scheme = swjko.sw_jko(
            swjko.flows.coupling(2, num_layers=2, width=8),
            swjko.kl_divergence(lambda x: -jnp.sum((x - 1.0) ** 2)),
            optax.adam(1e-2),
            step_size=0.1,
            num_inner_steps=10,
            num_samples=64,
            num_projections=16,
        )
        return swjko.solve(jax.random.key(0), scheme, num_steps=2, progress=False)

    ends = []
    for use in (True, False):
        with swjko.native_kernels(use):
            ends.append(flow().state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *ends)


@pytest.fixture
def fake_native(monkeypatch):
    module = types.SimpleNamespace(INTERFACE=native._INTERFACE)
    monkeypatch.setitem(sys.modules, "swjko_native", module)
    native._installed.cache_clear()
    yield module
    native._installed.cache_clear()


def test_it_is_used_where_it_is_installed_and_wanted(fake_native):
    assert native.native_sorts() is fake_native
    with swjko.native_kernels(False):
        assert native.native_sorts() is None


def test_another_interface_warns_and_sorts_run_in_jax(fake_native):
    fake_native.INTERFACE = native._INTERFACE + 1
    with pytest.warns(RuntimeWarning, match="interface"):
        assert native.native_sorts() is None
    np.testing.assert_array_equal(sort_rows(jnp.asarray([[2.0, 1.0]])), [[1.0, 2.0]])


def test_without_it_sorts_run_in_jax(monkeypatch):
    monkeypatch.setitem(sys.modules, "swjko_native", None)
    native._installed.cache_clear()
    assert native.native_sorts() is None
    native._installed.cache_clear()


def test_the_switch_takes_true_or_false_alone():
    with pytest.raises(TypeError, match="use"):
        swjko.native_kernels(1)  # pyright: ignore[reportArgumentType]
