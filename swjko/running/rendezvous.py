"""Processes of one run wait for each other, and learn by name which of them did not come.

``jax.distributed.initialize`` waits as well, but it ends the process without an exception if a
peer does not come. So the processes meet first: each sends one line of JSON over TCP to an
address of process 0, which they then leave to JAX. Lines without the token of the run are
ignored. The token depends on a secret if the environment variable SWJKO_SECRET is set.
"""

import contextlib
import hashlib
import hmac
import json
import os
import selectors
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_LINE_BYTES = 4096
_PAUSE = 0.1
# Strangers that connect and say nothing are sent away after this time, or when there are more.
_HELLO_SECONDS = 2.0
_MOST_CALLERS = 128
# Process 0 may have started to wait later, and it knows best who is missing.
_GRACE_SECONDS = 3.0
_ADVICE = "Start every process with the same coordinator, or wait longer."
_LOOPBACK = ("127.", "::1")


class PeerError(RuntimeError):
    """A peer did not come, or belongs to another run. The message is one line."""


def meet(
    host: str, port: int, num_processes: int, process_id: int, seconds: float
) -> dict[int, socket.socket]:
    """Wait until all processes have come to the address.

    Args:
      host: Name or address of the machine of process 0.
      port: Port there, free on process 0.
      num_processes: Number of processes.
      process_id: Number of this process, counted from 0.
      seconds: How long to wait.

    Returns:
      The open connections, by the process at the other side: on process 0, to all others; on
      these, to process 0.

    Raises:
      PeerError: Some have not come in time; the message names them, on each process that waits.
        Or two processes have the same id, the numbers of processes differ, or the port is in use.
    """
    if num_processes == 1:
        return {}
    if process_id == 0:
        return _gather(host, port, num_processes, seconds)
    return {0: _join(host, port, num_processes, process_id, seconds)}


def local_addresses(host: str) -> list[tuple[int, str]]:
    """Return the addresses of this machine that a name has for other machines.

    Args:
      host: Name or address.

    Returns:
      Pairs of family and address. The list is empty if process 0 must listen on all interfaces,
      because other machines know it by an address that it does not know itself.
    """
    found = []
    with contextlib.suppress(OSError):
        for family, *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            with contextlib.suppress(OSError), socket.socket(family) as probe:
                probe.bind((address[0], 0))
                found.append((int(family), str(address[0])))
    is_loopback = host == "localhost" or host.startswith(_LOOPBACK)
    # Some systems give the name of the machine a loopback address, which no other machine reaches.
    if not is_loopback and all(address.startswith(_LOOPBACK) for _, address in found):
        return []
    return list(dict.fromkeys(found))


def _gather(host: str, port: int, num_processes: int, seconds: float) -> dict[int, socket.socket]:
    deadline = time.monotonic() + seconds
    answer = {"error": "process 0 has failed"}
    with contextlib.ExitStack() as servers, contextlib.ExitStack() as stack:
        peers: dict[int, socket.socket] = {}
        have_come = []
        try:
            members = _members(_listen(servers, host, port), _token(port), deadline)
            for peer, process, processes in members:
                have_come.append(stack.enter_context(peer))
                _require_new_member(process, processes, peers, num_processes, f"{host}:{port}")
                peers[process] = peer
                if len(peers) == num_processes - 1:
                    break
            answer = {"go": True}
        except TimeoutError:
            missing = [str(one) for one in range(1, num_processes) if one not in peers]
            answer = {
                "error": f"process{'es' * (len(missing) > 1)} {', '.join(missing)} of "
                f"{num_processes} did not come to {host}:{port} within {seconds:g} seconds. "
                f"{_ADVICE}"
            }
            raise PeerError(answer["error"]) from None
        except PeerError as error:
            answer = {"error": str(error)}
            raise
        finally:
            for peer in have_come:
                with contextlib.suppress(OSError):
                    peer.settimeout(_HELLO_SECONDS)
                    peer.sendall(_line(answer, _token(port)))
        stack.pop_all()
        return peers


def _require_new_member(
    process: int, processes: int, peers: Mapping[int, Any], num_processes: int, address: str
) -> None:
    if processes != num_processes:
        raise PeerError(
            f"process {process} was started for {processes} processes and process 0 "
            f"for {num_processes}. Start all with the same number."
        )
    if process in peers:
        raise PeerError(
            f"two processes came to {address} with the process id {process}. Give each its own."
        )


class _Caller(NamedTuple):
    """What a connection has sent, and until when it must have sent a line."""

    content: bytearray
    deadline: float


def _members(
    servers: Sequence[socket.socket], token: str, deadline: float
) -> Iterator[tuple[socket.socket, int, int]]:
    """Yield each process that connects, with its id and the number of processes it expects.

    Raises:
      TimeoutError: The deadline has passed.
    """
    callers: dict[socket.socket, _Caller] = {}
    with selectors.DefaultSelector() as selector:

        def dismiss(caller):
            selector.unregister(caller)
            del callers[caller]
            return caller

        try:
            for server in servers:
                server.setblocking(False)
                selector.register(server, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(min(left, _PAUSE)):
                    ready: Any = key.fileobj
                    if ready in servers:
                        _accept(ready, selector, callers)
                    elif _has_said_all(ready, callers):
                        if member := _as_member(bytes(callers[ready].content), token):
                            yield dismiss(ready), *member
                        else:
                            dismiss(ready).close()
                now = time.monotonic()
                late = [caller for caller, told in callers.items() if told.deadline < now]
                for caller in {*late, *list(callers)[: max(0, len(callers) - _MOST_CALLERS)]}:
                    dismiss(caller).close()
        finally:
            for caller in callers:
                caller.close()
    raise TimeoutError


def _accept(
    server: Any, selector: selectors.BaseSelector, callers: dict[socket.socket, _Caller]
) -> None:
    # The caller may have hung up.
    with contextlib.suppress(OSError):
        caller, _ = server.accept()
        caller.setblocking(False)
        selector.register(caller, selectors.EVENT_READ)
        callers[caller] = _Caller(bytearray(), time.monotonic() + _HELLO_SECONDS)


def _has_said_all(caller: Any, callers: dict[socket.socket, _Caller]) -> bool:
    """Read what a caller has sent; return whether this is a line, too much, or its end."""
    content, part = callers[caller].content, b""
    with contextlib.suppress(OSError):
        part = caller.recv(_LINE_BYTES)
    content += part
    return not part or content.endswith(b"\n") or len(content) >= _LINE_BYTES


def _as_member(content: bytes, token: str) -> tuple[int, int] | None:
    """Return the id of a process and the number of processes; None for a stranger."""
    hello = _parse(content, token)
    process, processes = hello.get("process"), hello.get("processes")
    if type(process) is not int or type(processes) is not int:
        return None
    return (process, processes) if 0 < process < processes else None


def _join(
    host: str, port: int, num_processes: int, process_id: int, seconds: float
) -> socket.socket:
    deadline, token = time.monotonic() + seconds, _token(port)
    reason = "nothing answers there"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with contextlib.ExitStack() as stack:
                server = stack.enter_context(socket.create_connection((host, port), timeout=left))
                hello = {"process": process_id, "processes": num_processes}
                server.sendall(_line(hello, token))
                answer = _parse(_read_line(server, deadline + _GRACE_SECONDS), token)
                if "go" in answer:
                    stack.pop_all()
                    return server
            if "error" in answer:
                raise PeerError(str(answer["error"]).splitlines()[0])
            reason = "it answers, but still waits for others"
            if time.monotonic() < deadline:
                reason = "what answers there is not process 0, or has another SWJKO_SECRET"
        except socket.gaierror:
            reason = f"the name {host} is not known"
        except OSError:
            reason = "nothing answers there"
        time.sleep(_PAUSE)
    raise PeerError(
        f"process {process_id} of {num_processes} waited {seconds:g} seconds for process 0 at "
        f"{host}:{port}: {reason}. {_ADVICE}"
    )


def _listen(stack: contextlib.ExitStack, host: str, port: int) -> list[socket.socket]:
    """Listen only on those addresses of the host that this machine has."""
    try:
        if addresses := local_addresses(host):
            return [
                stack.enter_context(socket.create_server((address, port), family=family))
                for family, address in addresses
            ]
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        server = socket.create_server(("", port), family=family, dualstack_ipv6=dual)
        return [stack.enter_context(server)]
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise PeerError(
            f"process 0 cannot listen on port {port}: {reason}. Use a free port."
        ) from None


def _token(port: int) -> str:
    """Return what the processes of one run know, and strangers may not know."""
    secret = os.environ.get("SWJKO_SECRET", "").encode()
    return hmac.new(secret, f"swjko run at port {port}".encode(), hashlib.sha256).hexdigest()


def _line(message: dict[str, Any], token: str) -> bytes:
    return json.dumps(message | {"token": token}).encode() + b"\n"


def _parse(content: bytes, token: str) -> dict[str, Any]:
    """Return a message; an empty one if the bytes do not come from this run."""
    try:
        message = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(message, dict) or not isinstance(message.get("token"), str):
        return {}
    is_ours = hmac.compare_digest(message["token"].encode(errors="replace"), token.encode())
    return message if is_ours else {}


def _read_line(connection: socket.socket, deadline: float) -> bytes:
    content = b""
    with contextlib.suppress(OSError):
        while not content.endswith(b"\n") and len(content) < _LINE_BYTES:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            part = connection.recv(_LINE_BYTES)
            if not part:
                break
            content += part
    return content
