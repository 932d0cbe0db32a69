"""The sort kernel against NumPy's stable sort."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import swjko
from swjko.distances import sorting, sorting_network
from swjko.distances.sorting import sort_rows, sort_rows_with_permutation, unsort_rows

DTYPES = ["float16", "bfloat16", "float32", "float64"]


def rows_of(dtype, seed=0, shape=(7, 33)):
    rng = np.random.default_rng(seed)
    return jnp.asarray(np.round(rng.normal(size=shape), 1), dtype)


def numpy_sorted(values):
    host = np.asarray(values, np.float64)
    permutation = np.argsort(host, axis=-1, kind="stable")
    return np.take_along_axis(host, permutation, -1), permutation


@pytest.mark.slow_except_first
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 64), (7, 33)])
def test_sorts_as_numpy_with_ties_in_order(dtype, shape):
    with jax.enable_x64(True):
        values = rows_of(dtype, shape=shape)
        expected, expected_permutation = numpy_sorted(values)
        alone = sort_rows(values)
        ordered, permutation = sort_rows_with_permutation(values)
        assert alone.dtype == ordered.dtype == jnp.dtype(dtype)
        assert permutation.dtype == jnp.int32
        np.testing.assert_array_equal(np.asarray(alone, np.float64), expected)
        np.testing.assert_array_equal(np.asarray(ordered, np.float64), expected)
        np.testing.assert_array_equal(permutation, expected_permutation)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data())
def test_any_floats(dtype, data):
    width = 32 if dtype == "float32" else 64
    # JAX may flush subnormals on a CPU, so their order among zeros is not promised.
    elements = st.floats(width=width, allow_nan=False, allow_subnormal=False)
    values = data.draw(hnp.arrays(dtype, (2, 9), elements=elements))
    with jax.enable_x64(True):
        ordered, permutation = sort_rows_with_permutation(jnp.asarray(values))
        alone = sort_rows(jnp.asarray(values))
    expected, expected_permutation = numpy_sorted(values)
    np.testing.assert_array_equal(ordered, expected.astype(dtype))
    np.testing.assert_array_equal(alone, expected.astype(dtype))
    np.testing.assert_array_equal(permutation, expected_permutation)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_negative_zero_is_zero_and_infinities_are_at_the_ends(dtype):
    with jax.enable_x64(True):
        values = jnp.asarray([[0.0, -0.0, np.inf, -1.0, 0.0, -0.0, -np.inf, 1.0]], dtype)
        for sort in (sort_rows_with_permutation, jax.jit(sort_rows_with_permutation)):
            ordered, permutation = sort(values)
            np.testing.assert_array_equal(
                ordered, [[-np.inf, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0, np.inf]]
            )
            np.testing.assert_array_equal(permutation, [[6, 3, 0, 1, 4, 5, 7, 2]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_goes_to_an_end_and_the_rest_is_sorted(dtype, sign):
    with jax.enable_x64(True):
        values = jnp.asarray([[2.0, np.copysign(np.nan, sign), -np.inf, 1.0, np.inf]], dtype)
        for ordered in (sort_rows(values), sort_rows_with_permutation(values)[0]):
            row = np.asarray(ordered[0])
            assert np.isnan(row[0]) or np.isnan(row[-1])
            np.testing.assert_array_equal(row[~np.isnan(row)], [-np.inf, 1.0, 2.0, np.inf])


@pytest.mark.slow_except_first
@pytest.mark.parametrize("shape", [(6, 31), (6, 32)], ids=["one device", "several"])
def test_unsort_is_the_inverse_of_the_permutation(shape, monkeypatch):
    # The forms for a single device, and for rows that devices may share. No other test has these
    # shapes, whose compiled programs would be taken.
    monkeypatch.setattr(sorting, "_may_be_sharded", lambda: shape == (6, 32))
    values = rows_of("float32", shape=shape)
    ordered, permutation = sort_rows_with_permutation(values)
    np.testing.assert_array_equal(unsort_rows(ordered, permutation), values)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_derivatives_are_the_permuted_tangents(dtype):
    with jax.enable_x64(True):
        values, tangent = rows_of(dtype), rows_of(dtype, seed=1)
        permutation = numpy_sorted(values)[1]
        expected = np.take_along_axis(np.asarray(tangent), permutation, -1)
        np.testing.assert_array_equal(jax.jvp(sort_rows, (values,), (tangent,))[1], expected)
        np.testing.assert_array_equal(
            jax.jvp(lambda x: sort_rows_with_permutation(x)[0], (values,), (tangent,))[1], expected
        )
        # The transpose puts the cotangent of place j back where the value of place j came from.
        expected = np.zeros_like(np.asarray(tangent))
        np.put_along_axis(expected, permutation, np.asarray(tangent), -1)
        for function in (sort_rows, lambda x: sort_rows_with_permutation(x)[0]):
            (pulled,) = jax.vjp(function, values)[1](tangent)
            np.testing.assert_array_equal(pulled, expected)


@pytest.mark.slow
def test_second_derivative_of_a_function_of_sorted_values():
    # f(x) = sum_j j sorted(x)_j^2 / 2 has the Hessian diag(rank of x_i) away from ties.
    with jax.enable_x64(True):
        x = jnp.asarray([0.3, -1.2, 2.0, 0.9])
        hessian = jax.hessian(
            lambda x: jnp.sum(jnp.arange(4.0) * sort_rows(x[None, :])[0] ** 2) / 2
        )(x)
        np.testing.assert_allclose(
            hessian, np.diag(np.argsort(np.argsort(np.asarray(x)))), atol=1e-12
        )


class TransformationTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    def test_the_same_under_jit(self):
        values = rows_of("float32")
        ordered, permutation = self.variant(sort_rows_with_permutation)(values)
        expected, expected_permutation = numpy_sorted(values)
        np.testing.assert_array_equal(ordered, expected)
        np.testing.assert_array_equal(permutation, expected_permutation)

    def test_vmap_is_a_loop(self):
        values = rows_of("float32", shape=(3, 4, 17))
        ordered, permutation = jax.vmap(sort_rows_with_permutation)(values)
        for one, one_ordered, one_permutation in zip(values, ordered, permutation, strict=True):
            expected, expected_permutation = numpy_sorted(one)
            np.testing.assert_array_equal(one_ordered, expected)
            np.testing.assert_array_equal(one_permutation, expected_permutation)


def test_the_forms_of_other_platforms_agree_with_the_cpu_one():
    # Called by name, with distinct values: the GPU form leaves the order of equal ones open.
    values = np.random.default_rng(0).normal(size=(7, 33)).astype(np.float32)
    values[0, :3] = np.inf, 0.0, -np.inf
    values = jnp.asarray(values)
    for form in (sorting._sort_pairs, sorting._sort_unsigned_pairs):
        for other, packed in zip(form(values), sorting._sort_packed(values), strict=True):
            np.testing.assert_array_equal(other, packed)
    for form in (sorting._sort_generic, sorting._sort_unsigned):
        np.testing.assert_array_equal(
            form(rows_of("float32")), sorting._sort_as_integers(rows_of("float32"))
        )


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_form_for_gpus_sends_nan_to_an_end(sign):
    values = jnp.asarray(
        [[2.0, np.copysign(np.nan, sign), -np.inf, -0.0, np.inf, 0.0]], jnp.float32
    )
    for ordered in (sorting._sort_unsigned(values), sorting._sort_unsigned_pairs(values)[0]):
        row = np.asarray(ordered[0])
        assert np.isnan(row[0]) or np.isnan(row[-1])
        np.testing.assert_array_equal(row[~np.isnan(row)], [-np.inf, 0.0, 0.0, 2.0, np.inf])


@pytest.mark.parametrize(
    ("platform", "key_type"), [("cuda", "ui32"), ("rocm", "ui32"), ("cpu", "i64"), ("tpu", "f32")]
)
def test_each_platform_gets_its_own_sort(platform, key_type):
    with swjko.native_kernels(False):
        traced = jax.jit(sort_rows_with_permutation).trace(rows_of("float32"))
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    (line,) = (line for line in program.splitlines() if "stablehlo.sort" in line)
    assert ("is_stable = false" in line) == (platform in ("cuda", "rocm"))
    comparator = program[program.index("stablehlo.sort") :].split("stablehlo.compare")[0]
    assert f"%arg1: tensor<{key_type}>" in comparator


# The fourth works through its rows in blocks, the last of them filled up.
@pytest.mark.parametrize(
    ("rows", "length"), [(100, 1000), (40, 2048), (1000, 50), (530, 2000), (32, 1563)]
)
@pytest.mark.parametrize("is_sharded", [False, True], ids=["one device", "several"])
def test_the_network_sorts_as_numpy_does(rows, length, is_sharded, monkeypatch):
    monkeypatch.setattr(sorting, "_may_be_sharded", lambda: is_sharded)
    # Both forms have shapes of their own, or the compiled programs of one would be taken for both.
    rows += is_sharded
    values = np.random.default_rng(length).normal(size=(rows, length)).astype(np.float32)
    values[3, 5], values[4, 7], values[5, 2:4], values[6, :20], values[7, 3] = (
        np.inf,
        -np.inf,
        (-0.0, 0.0),
        1.0,
        np.nan,
    )
    assert values.size >= sorting_network.NETWORK_MIN_SIZE
    for ordered in (sorting.jax.jit(sort_rows)(values), jax.jit(sorting._sort_by_network)(values)):
        np.testing.assert_array_equal(ordered, np.sort(values))
    stable = np.argsort(values, axis=1, kind="stable")
    for ordered, permutation in (
        jax.jit(sort_rows_with_permutation)(values),
        jax.jit(sorting._sort_packed_by_network)(values),
    ):
        np.testing.assert_array_equal(ordered, np.sort(values))
        np.testing.assert_array_equal(permutation, stable)


@pytest.mark.parametrize("shape", [(3, 50), (64, 1000)])
def test_rows_of_integers_are_sorted_as_by_numpy(shape):
    with jax.enable_x64(True):
        keys = np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape) * 2**40
        np.testing.assert_array_equal(
            jax.jit(sorting.sort_rows_of_integers)(jnp.asarray(keys)), np.sort(keys)
        )


def test_many_long_rows_are_sorted_in_pieces(monkeypatch):
    monkeypatch.setattr(sorting, "native_sorts", lambda: None)
    monkeypatch.setattr(sorting, "_PIECES_MIN_SIZE", 100)
    monkeypatch.setattr(sorting, "_may_be_sharded", lambda: False)
    values = rows_of("float32", shape=(29, 33))
    program = jax.jit(sort_rows_with_permutation).lower(values).as_text()
    assert program.count("stablehlo.sort") == 10
    expected, expected_permutation = numpy_sorted(values)
    ordered, permutation = jax.jit(sort_rows_with_permutation)(values)
    np.testing.assert_array_equal(ordered, expected.astype(np.float32))
    np.testing.assert_array_equal(permutation, expected_permutation)
    np.testing.assert_array_equal(jax.jit(sort_rows)(values), expected.astype(np.float32))


@pytest.mark.slow
def test_one_index_for_each_entry_where_there_is_one_device(monkeypatch):
    values = rows_of("float32", shape=(29, 33))
    for several in (False, True):
        monkeypatch.setattr(sorting, "_may_be_sharded", lambda several=several: several)
        program = (
            jax.jit(lambda *entries: unsort_rows(*entries))
            .lower(*sort_rows_with_permutation(values))
            .as_text()
        )
        assert "stablehlo.scatter" in program
        assert ("input_batching_dims = [0]" in program) == several
