"""Processes of one run wait for each other, and learn by name which of them did not come.

``jax.distributed.initialize`` waits as well, but it ends the process without an exception if a
peer does not come. So the processes meet first: each sends one line of JSON over TCP to an
address of process 0, which they then leave to JAX.
"""

import contextlib
import json
import os
import socket
import time
from typing import Any

_LINE_BYTES = 4096
_PAUSE = 0.1
# A stranger that connects and says nothing delays the others by no more than this.
_HELLO_SECONDS = 2.0
# Process 0 may have started to wait later, and it knows best who is missing.
_GRACE_SECONDS = 3.0
_ADVICE = "Start every process with the same coordinator, or wait longer."


class PeerError(RuntimeError):
    """A peer did not come, or belongs to another run. The message is one line."""


def meet(host: str, port: int, num_processes: int, process_id: int, seconds: float) -> None:
    """Wait until all processes have come to the address.

    Args:
      host: Name or address of the machine of process 0.
      port: Port there, free on process 0.
      num_processes: Number of processes.
      process_id: Number of this process, counted from 0.
      seconds: How long to wait.

    Raises:
      PeerError: Some have not come in time; the message names them, on each process that waits.
        Or two processes have the same id, the numbers of processes differ, or the port is in use.
    """
    if num_processes == 1:
        return
    if process_id == 0:
        _gather(host, port, num_processes, seconds)
    else:
        _join(host, port, num_processes, process_id, seconds)


def _gather(host: str, port: int, num_processes: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    missing, peers, answer = set(range(1, num_processes)), [], {"error": "process 0 has failed"}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(port))
        try:
            while missing:
                peer, process, processes = _next(server, stack, deadline)
                peers.append(peer)
                if processes != num_processes:
                    raise PeerError(
                        f"process {process} was started for {processes} processes and process 0 "
                        f"for {num_processes}. Start all with the same number."
                    )
                if process not in missing:
                    raise PeerError(
                        f"two processes came to {host}:{port} with the process id {process}. "
                        "Give each its own."
                    )
                missing.remove(process)
            answer = {"go": True}
        except TimeoutError:
            names = f"process{'es' * (len(missing) > 1)} {', '.join(map(str, sorted(missing)))}"
            answer = {
                "error": f"{names} of {num_processes} did not come to {host}:{port} within "
                f"{seconds:g} seconds. {_ADVICE}"
            }
            raise PeerError(answer["error"]) from None
        except PeerError as error:
            answer = {"error": str(error)}
            raise
        finally:
            for peer in peers:
                with contextlib.suppress(OSError):
                    peer.sendall(_line(answer))


def _next(
    server: socket.socket, stack: contextlib.ExitStack, deadline: float
) -> tuple[socket.socket, int, int]:
    """Return the next process that comes, its id, and the number of processes it was told."""
    while (left := deadline - time.monotonic()) > 0:
        server.settimeout(left)
        peer = stack.enter_context(server.accept()[0])
        peer.settimeout(_HELLO_SECONDS)
        hello = _read(peer)
        peer.settimeout(None)
        if {"process", "processes"} <= set(hello):
            return peer, int(hello["process"]), int(hello["processes"])
    raise TimeoutError


def _join(host: str, port: int, num_processes: int, process_id: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    reason = "nothing answers there"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=left) as server:
                server.sendall(_line({"process": process_id, "processes": num_processes}))
                server.settimeout(max(0.0, deadline - time.monotonic()) + _GRACE_SECONDS)
                answer = _read(server)
            if "go" in answer:
                return
            if "error" in answer:
                raise PeerError(str(answer["error"]))
            reason = "it answers, but still waits for others"
        except socket.gaierror:
            reason = f"the name {host} is not known"
        except OSError:
            reason = "nothing answers there"
        time.sleep(_PAUSE)
    raise PeerError(
        f"process {process_id} of {num_processes} waited {seconds:g} seconds for process 0 at "
        f"{host}:{port}: {reason}. {_ADVICE}"
    )


def _listen(port: int) -> socket.socket:
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=dual)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise PeerError(
            f"process 0 cannot listen on port {port}: {reason}. Use a free port."
        ) from None


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _read(connection: socket.socket) -> dict[str, Any]:
    """Read one line of JSON; return an empty dictionary if it is not a message of ours."""
    content = b""
    with contextlib.suppress(OSError):
        while not content.endswith(b"\n") and len(content) < _LINE_BYTES:
            part = connection.recv(_LINE_BYTES)
            if not part:
                break
            content += part
    try:
        message = json.loads(content)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
