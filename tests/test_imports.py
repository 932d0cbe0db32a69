"""The order of the modules, what importing the package loads, and what its code never does: from the sources, or in a fresh process."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "swjko"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")

# From the pieces to the whole: a module imports only those before it.
ORDER = [
    "types",
    "validation",
    "directions",
    "sorting",
    "line",
    "wasserstein",
    "transport",
    "estimates",
    "closed_form",
    "functionals",
    "neighbours",
    "triangular",
    "families",
    "preprocessing",
    "couplings",
    "probes",
    "continuous",
    "convex",
    "convolutional",
    "flows",
    "scheme",
    "sw_jko",
    "sw_bdf2",
    "direct",
    "adaptive",
    "icnn_jko",
    "particle_flows",
    "guards",
    "layout",
    "ensemble",
    "configuration",
    "lock",
    "checkpoints",
    "rendezvous",
    "distributed",
    "sharded_checkpoints",
    "interrupts",
    "programs",
    "progress",
    "driver",
    "autoencoder",
    "diagnostics",
    "certificates",
    "stopping",
    "plots",
    "datasets",
    "image_files",
    "images",
    "problems",
    "report",
    "experiments",
    "sweep",
    "generation",
    "__main__",
]
# What starts programs of its own or speaks to a terminal: the driver and the command line. The rest leaves both to the caller.
ON_THE_HOST = {"layout", "ensemble", "interrupts", "programs", "progress", "driver", "stopping"} | {
    "problems",
    "report",
    "experiments",
    "sweep",
    "generation",
    "__main__",
}


def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def imported(module: str) -> set[str]:
    """Full names of modules, and of what is taken from them, wherever in the file the import stands."""
    names = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update({node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names})
            assert node.level == 0, f"{module} has a relative import"
    return names


def test_every_module_has_a_place():
    assert set(MODULES) <= set(ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_upwards(module):
    parts = {name.split(".")[1] for name in imported(module) if name.startswith("swjko.")}
    assert parts & set(MODULES) <= set(ORDER[: ORDER.index(module)])


def test_only_flows_and_their_architectures_know_the_network_libraries():
    users = {module for module in MODULES if {name.split(".")[0] for name in imported(module)} & {"flax", "distrax", "haiku", "equinox"}}
    assert users <= {"couplings", "continuous", "convex", "convolutional", "flows", "autoencoder"}


def calls(module: str) -> list[str]:
    return [ast.unparse(node.func) for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("module", [module for module in MODULES if module not in ON_THE_HOST])
def test_the_library_neither_prints_nor_compiles(module):
    # jit as a decorator or as an argument is no call, so any mention counts.
    mentions = {ast.unparse(node) for node in ast.walk(tree(module)) if isinstance(node, (ast.Attribute, ast.Name))}
    assert not mentions & {"print", "jax.jit", "jit", "jax.pmap", "pjit", "breakpoint"}


@pytest.mark.parametrize("module", MODULES)
def test_no_assert_and_no_change_of_configuration(module):
    assert not [node.lineno for node in ast.walk(tree(module)) if isinstance(node, ast.Assert)]
    assert not {"jax.config.update", "config.update", "np.random.seed", "random.seed", "warnings.filterwarnings"} & set(calls(module))


def in_a_fresh_process(code: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_ENABLE_X64")} | {
        "JAX_PLATFORMS": "cpu"
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_loads_nothing_heavy():
    heavy = ["distrax", "sklearn", "matplotlib", "pandas", "flax", "diffrax", "orbax", "rich", "ot", "tensorflow_probability"]
    loaded = in_a_fresh_process(f"import sys, swjko; print([name for name in {heavy} if name in sys.modules])")
    assert loaded.strip() == "[]"


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
    code = "import swjko, swjko.flows; from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    assert in_a_fresh_process(code).strip() == "False"


def test_works_without_distrax():
    code = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("distrax", "tensorflow_probability", "matplotlib", "sklearn", "diffrax"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import jax, jax.numpy as jnp, optax, swjko
from swjko import flows

scheme = swjko.sw_jko(flows.coupling(2, num_layers=2, width=4), swjko.kl_divergence(lambda x: -jnp.sum(x**2)), optax.adam(1e-3),
                      step_size=0.1, num_inner_steps=2, num_samples=8, num_projections=4)
solution = swjko.solve(jax.random.key(0), scheme, num_steps=1)
print(solution.result.name)
try:
    import distrax
except ModuleNotFoundError:
    print("absent")
"""
    assert in_a_fresh_process(code).split() == ["OK", "absent"]
