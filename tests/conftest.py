"""Test configuration: CPU with eight forced devices, strict rank promotion, and run-time shape checks over the package."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("swjko", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_enable_x64", os.environ.get("SWJKO_TEST_X64", "0") == "1")


@pytest.fixture
def key():
    return jax.random.key(0)
