"""Test configuration: CPU with eight forced devices, strict rank promotion, and run-time shape checks over the package."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_llvm_disable_expensive_passes=true"
)

import hypothesis
import jax
import jaxtyping
import pytest

jaxtyping.install_import_hook("swjko", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_enable_x64", os.environ.get("SWJKO_TEST_X64", "0") == "1")

# The same examples at each run; a compilation may take longer than any deadline.
hypothesis.settings.register_profile("swjko", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("swjko")


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def as_users_see_it():
    """Without the shape checks of the tests, which would raise before the package's own messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
