"""Tests beside other libraries, which may warn and need no strict promotion of ranks."""

import jax
import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if "interop" in item.path.parts:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(autouse=True)
def as_other_libraries_compute():
    with jax.numpy_rank_promotion("allow"):
        yield
