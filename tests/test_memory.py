"""Memory of the kernel: its bound and compiled programs, blocks, and a million points."""

import os

import jax
import jax.numpy as jnp
import pytest

import swjko
from benchmarks import kernel
from swjko.distances.blocks import BLOCK_BUDGET_BYTES, automatic_block_size


def temporaries(n, m, dim, num_projections, weighted, block_size=None):
    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    def value(x, y, directions, x_weights, y_weights):
        weights = {"x_weights": x_weights, "y_weights": y_weights} if weighted else {}
        return swjko.sliced_wasserstein_pow(x, y, directions, block_size=block_size, **weights)

    arguments = (0, 1, 2, 3, 4) if weighted else (0, 1, 2)
    program = jax.jit(jax.value_and_grad(value, arguments)).lower(
        shape(n, dim), shape(m, dim), shape(num_projections, dim), shape(n), shape(m)
    )
    return program.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow_except_first
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("n", "m", "dim", "num_projections"),
    [(1000, 1000, 2, 100), (5000, 7000, 10, 200), (60_000, 60_000, 4, 64)],
)
def test_bytes_said_beforehand_bound_the_compiled_program(n, m, dim, num_projections, weighted):
    said = swjko.sliced_wasserstein_bytes(n, m, num_projections, weighted=weighted)
    assert said / 2.5 < temporaries(n, m, dim, num_projections, weighted) <= said
    assert said <= 1.01 * BLOCK_BUDGET_BYTES


@pytest.mark.slow
def test_blocks_bound_the_temporaries_whatever_the_number_of_directions():
    few, many = (temporaries(2000, 2000, 3, num, False, block_size=16) for num in (64, 512))
    whole = temporaries(2000, 2000, 3, 512, False)
    assert many < few + 512 * 3 * 4 * 4
    assert many < whole / 10


@pytest.mark.parametrize("num_projections", [1, 7, 64, 1000])
def test_automatic_blocks_are_balanced_and_within_the_budget(num_projections):
    for n in (10, 5000, 10**6, 10**8):
        size = automatic_block_size(n, n, num_projections, False)
        assert 1 <= size <= num_projections
        assert size == 1 or size * 2 * n * 32 <= BLOCK_BUDGET_BYTES


@pytest.mark.parametrize("block_size", [None, 8, 2000])
def test_the_target_term_of_an_mmd_is_made_in_blocks(block_size):
    """All pairs of 8000 points in 16 dimensions are 4 GB."""

    def construct(target):
        made = swjko.mmd_to_target(target, lambda x: -jnp.linalg.norm(x), block_size=block_size)
        return made.target_energy

    target = jax.ShapeDtypeStruct((8000, 16), jnp.float32)
    size = jax.jit(construct).lower(target).compile().memory_analysis().temp_size_in_bytes
    assert size < 2**26


@pytest.mark.parametrize("dim", [2, 16])
def test_blocks_of_pairs_bound_the_temporaries(dim):
    """Values and gradients need few times block_size n d numbers."""

    def value(points):
        energy = swjko.interaction(lambda x: -jnp.linalg.norm(x), block_size=8)
        return energy(jax.random.key(0), swjko.Cloud(points))

    program = jax.jit(jax.value_and_grad(value))
    points = jax.ShapeDtypeStruct((4000, dim), jnp.float32)
    size = program.lower(points).compile().memory_analysis().temp_size_in_bytes
    assert size < 4 * 8 * 4000 * (dim + 2) * 4


@pytest.mark.slow
@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="reads the peak from /proc, as Linux has it"
)
def test_a_million_points_fit_in_600_megabytes_whatever_the_number_of_directions():
    few, many = (kernel.peak_memory(1_000_000, num) for num in (16, 48))
    for measured in (few, many):
        # A shift of one in each coordinate costs |a|^2 / d = 1, up to the Monte Carlo error.
        assert 0.5 < measured["value"] < 1.5
        assert measured["peak_mib"] <= 600
    assert abs(many["peak_mib"] - few["peak_mib"]) < 60
