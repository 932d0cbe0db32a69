"""Test configuration: eight forced CPU devices, quick compilation, strict promotion of ranks.

Shapes are checked over the whole package.

Compiled programs are kept in ``$XDG_CACHE_HOME/swjko/tests`` (or below ``~/.cache``), which both
workers and child processes share; ``SWJKO_TEST_CACHE=0`` keeps none. ``SWJKO_TEST_X64=1`` runs the
tests in double precision, ``SWJKO_TEST_OPTIMISED=1`` with the default compiler options.
"""

import contextlib
import importlib.metadata
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Compilation takes most of the time of the tests. With these flags, and without most optimisations
# (below), it takes a quarter, and programs have the same operations. The older emitters exist in
# jaxlib 0.10 only: an unknown flag ends the process.
os.environ["XLA_FLAGS"] += (
    ""
    if os.environ.get("SWJKO_TEST_OPTIMISED") == "1"
    else " --xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1"
    + (
        " --xla_cpu_use_fusion_emitters=false"
        if importlib.metadata.version("jaxlib").startswith("0.10.")
        else ""
    )
)

if os.environ.get("SWJKO_TEST_CACHE") != "0":
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    kept = os.path.join(caches, "swjko", "tests")
    # JAX warns of a directory that it cannot write, and warnings are errors here.
    with contextlib.suppress(OSError):
        os.makedirs(kept, exist_ok=True)
    if os.access(kept, os.W_OK):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", kept)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis
import jax
import jaxtyping
import pytest

jaxtyping.install_import_hook("swjko", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", os.environ.get("SWJKO_TEST_OPTIMISED") != "1")
jax.config.update("jax_enable_x64", os.environ.get("SWJKO_TEST_X64") == "1")

# The same examples at each run; a compilation may take longer than any deadline.
hypothesis.settings.register_profile("swjko", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("swjko")


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def as_users_see_it():
    """Disables the shape checks of the tests, which would raise before the package does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks as slow all sets of parameters but the first of tests that are slow_except_first."""
    seen = set()
    for item in items:
        if item.get_closest_marker("slow_except_first") is None:
            continue
        function = item.nodeid.partition("[")[0]
        if function in seen:
            item.add_marker(pytest.mark.slow)
        seen.add(function)
