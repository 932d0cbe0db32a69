"""The ranks of the packages, what importing loads, and what the code never does."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import swjko

PACKAGE = Path(__file__).resolve().parents[1] / "swjko"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
)
# A package imports packages of lower rank, and no other of its own rank.
RANKS = [
    {"_names", "types", "data"},
    {"linalg"},
    {"distances", "networks", "closed_form", "datasets", "images"},
    {"functionals", "families"},
    {"flows", "schemes", "problems"},
    {"diagnostics", "checkpoints", "plots"},
    {"running", "interop"},
    {"distributed", "autoencoder"},
    {"cli"},
    {"__main__"},
]
RANK = {package: rank for rank, packages in enumerate(RANKS) for package in packages}
KNOWS_NETWORK_LIBRARIES = ("networks.", "families.adapters", "flows")
ON_THE_HOST = (
    # Exact flows are computed on the host, in float64.
    "problems.targets",
    "checkpoints.",
    "running.",
    "data.",
    "plots",
    "cli.",
    "distributed",
    "__main__",
)


def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))


def imports(module: str) -> list[tuple[str, str | None]]:
    """(module, name taken from it or None), wherever in the file the import stands."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


def packages_used(module: str) -> set[str]:
    """First parts of the swjko modules that a module imports."""
    used = set()
    for source, name in imports(module):
        parts = source.split(".")
        if parts[0] == "swjko":
            used.add(parts[1] if len(parts) > 1 else name or "")
    return used


@pytest.mark.parametrize("module", MODULES)
def test_a_package_imports_lower_ranks_only(module):
    own = module.split(".")[0]
    assert {
        used for used in packages_used(module) if used != own and RANK[used] >= RANK[own]
    } == set()


def test_no_circle_within_a_package():
    graph = {
        f"swjko.{module}": {
            candidate
            for source, name in imports(module)
            for candidate in (source, f"{source}.{name}")
            if candidate.removeprefix("swjko.") in MODULES
        }
        for module in MODULES
    }
    while ready := [module for module, needs in graph.items() if not needs & set(graph)]:
        for module in ready:
            del graph[module]
    assert not graph


@pytest.mark.parametrize("module", MODULES)
def test_no_private_name_of_another_module(module):
    private = [
        (source, name)
        for source, name in imports(module)
        if any(part.startswith("_") for part in (*source.split(".")[1:], name or ""))
        and (source, name) != ("swjko._names", "__version__")
    ]
    assert private == []


@pytest.mark.parametrize("module", MODULES)
def test_network_libraries_stay_in_their_rooms(module):
    libraries = {source.split(".")[0] for source, _ in imports(module)}
    if libraries & {"flax", "distrax", "haiku", "equinox"}:
        assert module.startswith(KNOWS_NETWORK_LIBRARIES)


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith(ON_THE_HOST)])
def test_host_effects_stay_in_their_rooms(module):
    # jit as a decorator or as an argument is not a call, so any mention counts.
    mentions = {
        ast.unparse(node)
        for node in ast.walk(tree(module))
        if isinstance(node, (ast.Attribute, ast.Name))
    }
    assert not mentions & {"print", "open", "jax.jit", "jit", "jax.pmap", "pjit", "breakpoint"}
    assert not {source for source, _ in imports(module)} & {"signal", "subprocess", "socket"}


@pytest.mark.parametrize("module", MODULES)
def test_no_assert_and_no_change_of_configuration(module):
    nodes = list(ast.walk(tree(module)))
    assert not [node.lineno for node in nodes if isinstance(node, ast.Assert)]
    calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    forbidden = {
        "jax.config.update",
        "config.update",
        "np.random.seed",
        "random.seed",
        "warnings.filterwarnings",
    }
    assert not forbidden & calls


def in_a_fresh_process(code: str) -> str:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("XLA_FLAGS", "JAX_ENABLE_X64")
    } | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = [
    "distrax",
    "sklearn",
    "matplotlib",
    "pandas",
    "flax",
    "diffrax",
    "orbax",
    "rich",
    "ot",
    "tensorflow_probability",
]


def test_importing_loads_nothing_heavy():
    heavy = [*HEAVY, "jax", "jaxlib", "scipy", "optax", "numpy"]
    loaded = in_a_fresh_process(
        f"import sys, swjko; print([name for name in {heavy} if name in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_using_every_public_name_loads_nothing_heavy():
    loaded = in_a_fresh_process(
        "import sys, swjko\n"
        "for name in swjko.__all__:\n    getattr(swjko, name)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_type_checkers_see_the_names_that_are_imported_lazily():
    init = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (guarded,) = [
        node
        for node in init.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    seen = {
        alias.name: node.module for node in guarded.body for alias in getattr(node, "names", ())
    }
    assert set(swjko.__all__) <= {*seen, "__version__"}
    for name, module in seen.items():
        expected = importlib.import_module(module)
        if module == "swjko":
            expected = importlib.import_module(f"swjko.{name}")
            assert getattr(swjko, name) is expected
        else:
            assert getattr(swjko, name) is getattr(expected, name)


@pytest.mark.slow
def test_lazy_names_behave_like_imported_ones():
    code = """
import pickle, sys, typing
import swjko
assert set(swjko.__all__) <= set(dir(swjko))
assert "flows" in dir(swjko)
modules = [swjko.flows, swjko.plots, swjko.problems, swjko.datasets, swjko.images]
assert all(module is sys.modules[module.__name__] for module in modules)
assert pickle.loads(pickle.dumps(swjko.solve)) is swjko.solve
assert pickle.loads(pickle.dumps(swjko.Result.OK)) is swjko.Result.OK
assert typing.get_type_hints(swjko.solve)["return"] is swjko.Solution
assert not hasattr(swjko, "wings")
from swjko import *
assert solve is swjko.solve
try:
    from swjko import wings
except ImportError:
    print("refused")
"""
    assert in_a_fresh_process(code).strip() == "refused"


@pytest.mark.slow
def test_importing_changes_no_configuration():
    code = """
import jax
before = dict(jax.config.values)
import swjko, swjko.flows
print(before == dict(jax.config.values), len(before) > 20)
"""
    assert in_a_fresh_process(code).split() == ["True", "True"]


def test_importing_touches_no_device():
    # Whoever imports may still choose the platform and the number of devices, or join a cluster.
    # JAX refuses to change the number of its devices once it has looked at them.
    code = """
import jax, swjko, swjko.flows
jax.config.update("jax_num_cpu_devices", 3)
print(jax.device_count())
"""
    assert in_a_fresh_process(code).strip() == "3"


@pytest.mark.slow
def test_works_without_distrax():
    code = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        absent = ("distrax", "tensorflow_probability", "matplotlib", "sklearn", "diffrax")
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import jax, jax.numpy as jnp, optax, swjko
from swjko import flows

energy = swjko.kl_divergence(lambda x: -jnp.sum(x**2))
scheme = swjko.sw_jko(flows.coupling(2, num_layers=2, width=4), energy, optax.adam(1e-3),
                      step_size=0.1, num_inner_steps=2, num_samples=8, num_projections=4)
solution = swjko.solve(jax.random.key(0), scheme, num_steps=1)
print(solution.result.name)
try:
    import distrax
except ModuleNotFoundError:
    print("absent")
"""
    assert in_a_fresh_process(code).split() == ["OK", "absent"]
