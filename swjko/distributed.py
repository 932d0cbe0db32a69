"""Runs of several processes: after ``initialize``, JAX sees the devices of all of them.

Every process runs the same program on the same inputs. ``swjko.flow_mesh()`` spans all devices,
flows are spread over them, and flows exchange nothing while they run. Process 0 alone writes
reports and checkpoints.
"""

import math
import os
import re
import socket
import sys
from typing import Any

import jax

from swjko.running.agreement import DistributedError as DistributedError
from swjko.running.failures import end_without_peer, linger
from swjko.running.lifeline import watch_over
from swjko.running.relay import open_relay
from swjko.running.rendezvous import PeerError, local_addresses, meet
from swjko.types import validation

# Environment variables of a job: the number of processes, and the id of this one.
_JOBS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("SLURM_NTASKS", "SLURM_PROCID"),
    ("", "JOB_COMPLETION_INDEX"),
)
# JAX chooses the port of a coordinator among the last ones, by the id of the job.
_NUM_PORTS = 2**12
_BIND = "JAX_COORDINATOR_BIND_ADDRESS"
_OPEN_MPI_URI = "OMPI_MCA_orte_hnp_uri"
_OPEN_MPI_HOST = re.compile(r"(\d+)\..*?(?:tcp://([^,:]+)|tcp6://\[([^,\]]+))")
_SLURM_HOST = re.compile(r"([^,\[]+)(?:\[(\w+))?")


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    initialization_timeout: float = 60.0,
    heartbeat_timeout: float = 20.0,
) -> None:
    """Join the processes of a run; call it in each of them before anything else of JAX.

    Missing arguments are read from the job's environment: of Slurm, of Open MPI, or of an indexed
    job of Kubernetes, which gives the process id. JAX itself looks for what is then still
    missing; for Kubernetes this needs the package ``kubernetes``.

    Process 0 listens on the addresses of the coordinator's name alone. If it has none of them
    itself, as behind a service of Kubernetes, it listens on all interfaces. Callers that do not
    belong to the run are ignored. Set SWJKO_SECRET to the same text in the environment of each
    process to tell runs apart on a network that others use.

    Args:
      coordinator: ``HOST:PORT`` of process 0: a free port there that all processes can reach.
        The environment variable JAX_COORDINATOR_ADDRESS replaces it if it is missing.
      num_processes: Number of processes.
      process_id: Number of this process, counted from 0.
      initialization_timeout: Seconds within which all processes must come.
      heartbeat_timeout: Seconds of silence after which a process counts as dead although it has
        not ended. JAX then aborts the other processes.

    Raises:
      DistributedError: An argument is missing, a peer did not come in time, the port is in use,
        the processes disagree on their number or ids, or JAX is in use already.

    Example:
      ``initialize("node0:1234", 4, int(sys.argv[1]))``
    """
    _require_unused()
    initialization_timeout = _as_seconds(initialization_timeout, "initialization_timeout")
    heartbeat_timeout = _as_seconds(heartbeat_timeout, "heartbeat_timeout")
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS") or _job_address()
    if coordinator is not None:
        names = next((names for names in _JOBS if names[1] in os.environ), ("", ""))
        num_processes = _from_environment(names[0]) if num_processes is None else num_processes
        process_id = _from_environment(names[1]) if process_id is None else process_id
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    listening: dict[str, Any] = {}
    peers: dict[int, socket.socket] = {}
    try:
        if coordinator is not None and num_processes is not None and process_id is not None:
            host, port = _as_address(coordinator)
            num_processes, process_id = _as_numbers(num_processes, process_id)
            peers = meet(host, port, num_processes, process_id, initialization_timeout)
            if process_id > 0:
                coordinator = open_relay(host, port, initialization_timeout)
            # JAX would listen on all interfaces, and its service obeys whoever calls it.
            elif _BIND not in os.environ and local_addresses(host):
                listening = {"coordinator_bind_address": coordinator}
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=math.ceil(initialization_timeout),
            heartbeat_timeout_seconds=math.ceil(heartbeat_timeout),
            **listening,
        )
    except (PeerError, RuntimeError, KeyError, OSError) as error:
        raise DistributedError(str(error).splitlines()[0]) from error
    except ValueError as error:
        if not missing:
            raise
        raise DistributedError(
            f"{', '.join(missing)} must be given, because no job of Slurm, Open MPI or Kubernetes "
            "was found."
        ) from error
    watch_over(peers, heartbeat_timeout, lambda: end_without_peer(heartbeat_timeout))


def leave(code: int) -> None:
    """Exit at once, if this process is one of several that were joined.

    Use it in a process that fails alone. An orderly exit would wait for the other processes,
    which wait for this one. They notice the exit within the heartbeat timeout. After a failure in
    ``swjko.solve``, process 0 first waits a few seconds, in which the others end by themselves.

    Args:
      code: Exit code of the process.
    """
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        linger()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _require_unused() -> None:
    if jax.distributed.is_initialized():
        raise DistributedError("initialize must be called once; the processes are joined already.")
    try:
        # Without arguments JAX refuses as well, but only after it has looked at its devices.
        jax.distributed.initialize(cluster_detection_method="deactivate")
    except ValueError:
        return
    except RuntimeError as error:
        raise DistributedError(
            "initialize must be called before the first array, key or jax.devices(); "
            "JAX is in use already."
        ) from error


def _job_address() -> str | None:
    """Return the address that JAX gives process 0 of an Open MPI 4 or Slurm job."""
    if match := _OPEN_MPI_HOST.match(os.environ.get(_OPEN_MPI_URI, "")):
        host, job = match[2] or match[3], int(match[1]) // _NUM_PORTS
    elif match := _SLURM_HOST.match(os.environ.get("SLURM_STEP_NODELIST", "")):
        host, job = match[1] + (match[2] or ""), _from_environment("SLURM_JOB_ID") or 0
    else:
        return None
    port = os.environ.get("JAX_COORDINATOR_PORT") or 2**16 - _NUM_PORTS + job % _NUM_PORTS
    return f"{host}:{port}"


def _from_environment(name: str) -> int | None:
    text = os.environ.get(name)
    try:
        return None if text is None else int(text)
    except ValueError:
        raise DistributedError(
            f"the environment variable {name} must be a whole number; got {text!r}."
        ) from None


def _as_numbers(num_processes: int, process_id: int) -> tuple[int, int]:
    num_processes = validation.as_count(num_processes, "num_processes")
    process_id = validation.as_count(process_id, "process_id", 0)
    if process_id >= num_processes:
        raise ValueError(
            f"process_id must be below num_processes, which is {num_processes}; "
            f"got {process_id}. Count processes from 0."
        )
    return num_processes, process_id


def _as_seconds(value: float, name: str) -> float:
    # Without JAX, which must not be in use yet.
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number of seconds; got {value!r}.") from None
    if not 0.0 < seconds < math.inf:
        raise ValueError(f"{name} must be positive and finite; got {value}.")
    return seconds


def _as_address(coordinator: str) -> tuple[str, int]:
    message = (
        f"coordinator must be HOST:PORT of process 0, such as node0:1234; got {coordinator!r}."
    )
    if not isinstance(coordinator, str):
        raise TypeError(message)
    host, _, port = coordinator.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) < 2**16
    if not (host and is_port) or "/" in host:
        raise ValueError(message)
    return host.removeprefix("[").removesuffix("]"), int(port)
