"""Processes of one run that wait for each other: all come to an address of process 0, or each is told in words who did not.

``jax.distributed.initialize`` does this too, but ends the process without an exception when a peer does not come. So the processes meet
here first, by one line of JSON over TCP, and leave the address free for JAX.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

_LINE_BYTES = 4096
_PAUSE = 0.1
# A stranger that connects and says nothing holds up the others for no longer.
_HELLO_SECONDS = 2.0
# Process 0 may have begun to wait later, and knows best who is missing.
_GRACE_SECONDS = 3.0


class PeerError(RuntimeError):
    """A peer that did not come, or that belongs to another run; one line."""


def meet(host: str, port: int, num_processes: int, process_id: int, seconds: float) -> None:
    """Returns when all processes have come; raises PeerError, on each of them, naming those that have not within so many seconds."""
    if num_processes == 1:
        return
    if process_id == 0:
        _gather(host, port, num_processes, seconds)
    else:
        _join(host, port, num_processes, process_id, seconds)


def _gather(host: str, port: int, num_processes: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    came: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack, _listening(port) as server:
        try:
            while len(came) < num_processes - 1:
                peer, process_id = _next(server, stack, num_processes, deadline)
                if peer is None:
                    missing = [
                        process for process in range(1, num_processes) if process not in came
                    ]
                    raise PeerError(
                        f"{_named(missing)} of {num_processes} did not come to {host}:{port} within {seconds:g} seconds. Start every "
                        "process with the same coordinator, or wait longer."
                    )
                if process_id in came:
                    came[-1] = peer  # to be told as well
                    raise PeerError(
                        f"two processes came to {host}:{port} with the process id {process_id}. Give each its own."
                    )
                came[process_id] = peer
            answer = {"go": True}
        except PeerError as error:
            answer = {"error": str(error)}
            raise
        finally:
            for peer in came.values():
                with contextlib.suppress(OSError, UnboundLocalError):
                    peer.sendall(_line(answer))


def _next(
    server: socket.socket, stack: contextlib.ExitStack, num_processes: int, deadline: float
) -> tuple[socket.socket | None, int]:
    """The next process that comes, and its id; None when time is up."""
    while (left := deadline - time.monotonic()) > 0:
        server.settimeout(left)
        try:
            peer, _ = server.accept()
        except TimeoutError:
            break
        stack.enter_context(peer)
        peer.settimeout(_HELLO_SECONDS)
        hello = _read(peer)
        if not {"process", "processes"} <= set(hello):
            continue
        peer.settimeout(None)
        if hello["processes"] != num_processes:
            told = (
                f"process {hello['process']} was started for {hello['processes']} processes and process 0 for {num_processes}. "
                "Start all with one number."
            )
            with contextlib.suppress(OSError):
                peer.sendall(_line({"error": told}))
            raise PeerError(told)
        return peer, int(hello["process"])
    return None, -1


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
        f"process {process_id} of {num_processes} waited {seconds:g} seconds for process 0 at {host}:{port}: {reason}. Start every process "
        "with the same coordinator, or wait longer."
    )


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        server = socket.create_server(("", port), family=family, dualstack_ipv6=dual)
    except OSError as error:
        raise PeerError(
            f"process 0 cannot listen on port {port}: {os.strerror(error.errno or 0)}. Take a port that is free."
        ) from None
    with server:
        yield server


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _read(connection: socket.socket) -> dict[str, Any]:
    """What the other side says in one line; empty where it says nothing that is ours."""
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


def _named(processes: list[int]) -> str:
    return (
        f"process {processes[0]}"
        if len(processes) == 1
        else f"processes {', '.join(map(str, processes))}"
    )
