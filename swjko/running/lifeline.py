"""Idle connections between process 0 and the others, which close when a process has ended.

The system closes the connections of a process however it ends, and keepalive probes find a machine
that is gone. Both come long before the heartbeat's timeout, at which JAX aborts.
"""

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Mapping

# Probes begin after this part of the heartbeat's timeout, follow each other after half as much
# time, and after two of them the connection is lost.
_FIRST_PROBE, _PROBES = 0.25, 2
_lost: list[int] = []
_is_lost = threading.Event()


def watch_over(
    connections: Mapping[int, socket.socket], seconds: float, end: Callable[[], object]
) -> None:
    """Watch connections in a thread, and keep them open.

    Args:
      connections: A connection for each process at the other side.
      seconds: The heartbeat's timeout.
      end: Is called in a thread when the first connection is lost.
    """
    if not connections:
        return
    for connection in connections.values():
        _probe(connection, seconds)
    arguments = (dict(connections), end)
    threading.Thread(target=_watch, args=arguments, daemon=True).start()


def lost(seconds: float = 0.0) -> int | None:
    """Return the number of the first process that has ended or cannot be reached, if any.

    Args:
      seconds: How long to wait for one.
    """
    return _lost[0] if _is_lost.wait(seconds) else None


def _watch(connections: dict[int, socket.socket], end: Callable[[], object]) -> None:
    with selectors.DefaultSelector() as selector:
        for process, connection in connections.items():
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ, process)
        while True:
            for key, _ in selector.select():
                with contextlib.suppress(BlockingIOError):
                    if _is_closed(connections[key.data]):
                        _lost.append(key.data)
                        _is_lost.set()
                        end()
                        return


def _is_closed(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1)
    except BlockingIOError:
        raise
    except OSError:
        return True


def _probe(connection: socket.socket, seconds: float) -> None:
    first = max(1, round(_FIRST_PROBE * seconds))
    # Not every system has all of these options.
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, first)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, first // 2))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
