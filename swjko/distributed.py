"""Runs of several processes: ``initialize`` joins them, after which ``jax.devices()`` and ``swjko.flow_mesh()`` span all of them.

Every process runs the same program on the same inputs. Flows are spread over the devices of all processes; nothing is exchanged while they
run. What one process alone must do, such as writing a report, is left to process 0.
"""

import math
import os
import sys
from typing import Any

import jax

from swjko import validation
from swjko.running.rendezvous import PeerError, meet

# Ids and numbers of processes where JAX's own detection needs more than these.
_IDS = (
    ("SLURM_NTASKS", "SLURM_PROCID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("", "JOB_COMPLETION_INDEX"),
)


class DistributedError(RuntimeError):
    """Processes that could not be joined; one line."""


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    initialization_timeout: float = 60.0,
    heartbeat_timeout: float = 20.0,
) -> None:
    """Joins the processes of a run, by ``jax.distributed.initialize``; call it in each of them before anything else of JAX.

    Args:
      coordinator: ``HOST:PORT`` of process 0, a free port there that the others reach.
      num_processes: how many there are.
      process_id: which this one is, from 0.
      initialization_timeout: seconds in which all have to come.
      heartbeat_timeout: seconds of silence after which a process counts as dead; JAX then aborts the others.

    What is not given comes from the job: of Slurm, Open MPI or Kubernetes as JAX finds it (for Kubernetes it needs the package
    ``kubernetes``; beside a given coordinator and number, an indexed job's JOB_COMPLETION_INDEX is enough), or JAX_COORDINATOR_ADDRESS.

    Raises DistributedError where something is missing, when a peer does not come in time, naming it, on a port in use, on processes that
    disagree on their number or ids, and once JAX is in use; ValueError or TypeError on a coordinator that is no ``HOST:PORT``, and on an
    id or a number out of range.

    Example: ``initialize("node0:1234", 4, int(sys.argv[1])); swjko.solve(keys, scheme, 100, mesh=swjko.flow_mesh())``.
    """
    _require_unused()
    seconds = _as_seconds(initialization_timeout, "initialization_timeout")
    heartbeat = _as_seconds(heartbeat_timeout, "heartbeat_timeout")
    coordinator, num_processes, process_id, local_devices = _detected(
        coordinator, num_processes, process_id, seconds
    )
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    if missing := [name for name, value in given.items() if value is None]:
        raise DistributedError(
            f"no job of Slurm, Open MPI or Kubernetes was found that tells {', '.join(missing)}: give what is missing."
        )
    host, port = _as_address(coordinator)
    num_processes = validation.as_count(num_processes, "num_processes")
    process_id = validation.as_count(process_id, "process_id", 0)
    if process_id >= num_processes:
        raise ValueError(
            f"process_id must be below num_processes, {num_processes}, counted from 0; received {process_id}."
        )
    try:
        meet(host, port, num_processes, process_id, seconds)
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            local_devices,
            cluster_detection_method="deactivate",
            initialization_timeout=math.ceil(seconds),
            heartbeat_timeout_seconds=math.ceil(heartbeat),
        )
    except (PeerError, RuntimeError) as error:
        raise DistributedError(str(error).splitlines()[0]) from error


def leave(code: int) -> None:
    """Ends this process with the code where it is one of several that were joined; else returns.

    For one that has failed alone: an orderly exit waits for the others, who wait for it. They notice within the heartbeat's timeout.
    """
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _require_unused() -> None:
    from jax._src import xla_bridge

    if jax.distributed.is_initialized():
        raise DistributedError("the processes are joined already: initialize may be called once.")
    if xla_bridge.backends_are_initialized():
        raise DistributedError(
            "JAX is in use already: call initialize before the first array, key or jax.devices()."
        )


def _detected(
    coordinator: Any, num_processes: Any, process_id: Any, seconds: float
) -> tuple[Any, Any, Any, Any]:
    """What is given, filled up from the job as JAX does, and the local devices that the job leaves to this process."""
    from jax._src.clusters import ClusterEnv

    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if coordinator is not None:
        for number, own in _IDS:
            if own in os.environ:
                num_processes = (
                    _from_environment(number) if num_processes is None else num_processes
                )
                process_id = _from_environment(own) if process_id is None else process_id
                break
    try:
        return ClusterEnv.auto_detect_unset_distributed_params(
            coordinator, num_processes, process_id, None, None, math.ceil(seconds)
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise DistributedError(
            f"the job of this process cannot be read: {str(error).splitlines()[0]}"
        ) from error


def _from_environment(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise DistributedError(
            f"the environment variable {name} must be a whole number; it is {text!r}."
        ) from None


def _as_seconds(value: Any, name: str) -> float:
    """Without JAX, which must not be in use."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number of seconds; received {value!r}.") from None
    if not 0.0 < seconds < math.inf:
        raise ValueError(f"{name} must be positive and finite; received {value}.")
    return seconds


def _as_address(coordinator: Any) -> tuple[str, int]:
    if not isinstance(coordinator, str):
        raise TypeError(f"coordinator must be HOST:PORT of process 0; received {coordinator!r}.")
    host, colon, port = coordinator.rpartition(":")
    if (
        not (colon and host and port.isascii() and port.isdecimal() and 0 < int(port) < 2**16)
        or "/" in host
    ):
        raise ValueError(
            f"coordinator must be HOST:PORT of process 0, such as node0:1234; received {coordinator!r}."
        )
    return host.removeprefix("[").removesuffix("]"), int(port)
