"""Processes that share a run compare it first, by the key-value store that joined them.

A program of several processes waits for ever, or returns nonsense, if they differ in a shape, a
number of steps or a directory. So each process sends the fingerprint of its run to the first one
before anything is compiled, and the first one answers all of them.
"""

import collections
import contextlib
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jaxlib.version
from jax.sharding import Mesh
from jaxtyping import PyTree

from swjko.checkpoints.fingerprint import describe, differences
from swjko.running import lifeline

# A process may have read data or compiled a program before it comes to the run.
_WAIT_SECONDS = 60.0
# Ctrl-C is noticed between two such waits.
_PAUSE_SECONDS = 1.0
_ADVICE = "Start all processes with the same program, arguments and versions."
# The number of the next run that the same processes share.
_runs: collections.defaultdict[str, Iterator[int]] = collections.defaultdict(itertools.count)


class DistributedError(RuntimeError):
    """Processes could not be joined, or differ, or one has failed. The message is one line."""


def store_of_processes() -> Any:
    """Return the client of the key-value store that all joined processes share."""
    from jax.experimental import multihost_utils

    # JAX has no public name for it.
    return vars(multihost_utils)["distributed"].global_state.client


@contextlib.contextmanager
def sharing(mesh: Mesh | None) -> Iterator[Callable[..., None]]:
    """Let the processes of a mesh compare the run that they are about to start.

    Args:
      mesh: Mesh of the run. If it lies in one process, there is nothing to compare.

    Yields:
      ``compare(**things)``, which all processes call in the context with what must be equal. It
      raises DistributedError on all of them if it is not, or if a process has left the context
      by an error.
    """
    if not (isinstance(mesh, Mesh) and mesh.is_multi_process):
        yield lambda **things: None
        return
    shared, has_compared = _SharedRun(mesh), False

    def compare(**things):
        nonlocal has_compared
        things = {name: _without_remote_values(thing) for name, thing in things.items()}
        table = _environment(mesh) | describe(**things)
        # A description shortens long texts, such as paths.
        table |= {name: thing for name, thing in things.items() if isinstance(thing, str)}
        has_compared = True
        shared.compare(table)

    try:
        yield compare
    except Exception as error:
        if not has_compared:
            shared.report(error)
        raise


class _SharedRun:
    """One run of some processes, under keys of its own in the store."""

    def __init__(self, mesh: Mesh):
        self._client = store_of_processes()
        self._processes = sorted({device.process_index for device in mesh.devices.flat})
        group = hashlib.sha256(repr(self._processes).encode()).hexdigest()[:16]
        self._key = f"swjko/{group}/{next(_runs[group])}"
        self._process, self._leader = jax.process_index(), self._processes[0]

    def compare(self, table: Mapping[str, str]) -> None:
        deadline = time.monotonic() + _WAIT_SECONDS
        if self._process == self._leader:
            verdict = self._verdict(table, deadline)
            self._send("verdict", verdict)
        else:
            self._send(self._process, table)
            # The leader itself waits as long for the others.
            verdict = self._receive("verdict", deadline + 2 * _PAUSE_SECONDS)
            if verdict is None:
                verdict = {"error": self._absence(self._leader)}
        if "error" in verdict:
            raise DistributedError(verdict["error"])

    def report(self, error: Exception) -> None:
        """Tell the others that this process has failed before it could compare."""
        text = (str(error).splitlines() or [""])[0]
        reason = f"process {self._process} has failed: {type(error).__name__}: {text}"
        with contextlib.suppress(DistributedError):
            is_leader = self._process == self._leader
            self._send("verdict" if is_leader else self._process, {"error": reason})

    def _verdict(self, table: Mapping[str, str], deadline: float) -> dict[str, str]:
        for process in self._processes[1:]:
            other = self._receive(process, deadline)
            if other is None:
                return {"error": self._absence(process)}
            if "error" in other:
                return other
            sides = (f"on process {self._leader}", f"on process {process}")
            if listed := differences(table, other, sides):
                return {"error": f"the processes differ: {'; '.join(listed)}. {_ADVICE}"}
        return {}

    def _absence(self, process: int) -> str:
        return (
            f"process {process} has not started the run that process {self._process} has started "
            f"{_WAIT_SECONDS:g} seconds ago. {_ADVICE}"
        )

    def _send(self, name: str | int, message: Mapping[str, str]) -> None:
        with _explained():
            self._client.key_value_set(f"{self._key}/{name}", json.dumps(dict(message)))

    def _receive(self, name: str | int, deadline: float) -> dict[str, str] | None:
        """Return a message; None if it does not come in time."""
        with _explained():
            while (left := deadline - time.monotonic()) > 0:
                if (process := lifeline.lost()) is not None:
                    raise DistributedError(
                        f"process {process} has ended or cannot be reached. "
                        "Start all processes again."
                    )
                milliseconds = int(1000 * min(left, _PAUSE_SECONDS)) + 1
                try:
                    key = f"{self._key}/{name}"
                    return json.loads(self._client.blocking_key_value_get(key, milliseconds))
                except jax.errors.JaxRuntimeError as error:
                    if "DEADLINE_EXCEEDED" not in str(error):
                        raise
        return None


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise DistributedError(f"the processes have lost each other: {reason}") from error


def _environment(mesh: Mesh) -> dict[str, str]:
    """Return what else the programs of a mesh depend on."""
    devices: list[Any] = list(mesh.devices.flat)
    return describe(
        mesh={
            "axes": repr(tuple(mesh.shape.items())),
            "devices": [f"{device.process_index}:{device.id}" for device in devices],
            "kinds": sorted({device.device_kind for device in devices}),
        },
        **{
            "version of jaxlib": jaxlib.version.__version__,
            "jax_enable_x64": jax.config.values["jax_enable_x64"],
        },
    )


def _without_remote_values(tree: PyTree) -> Any:
    """Replace arrays with shards on other processes by their shapes and dtypes."""
    leaves, structure = jax.tree.flatten(tree)
    if all(getattr(leaf, "is_fully_addressable", True) for leaf in leaves):
        return tree
    return structure.unflatten(
        leaf
        if getattr(leaf, "is_fully_addressable", True)
        else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for leaf in leaves
    )
