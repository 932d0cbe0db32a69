"""A relay through which JAX reaches process 0, and which hides that process 0 has ended.

JAX aborts a process when its connection to process 0 closes, and no handler of Python can prevent
this. So JAX connects to a relay in its own process. If the other side closes its connection, the
relay keeps JAX's side open, and ``lifeline`` and ``failures`` end the process.
"""

import contextlib
import socket
import threading
import time

_PIECE_BYTES = 2**16
_PAUSE, _ATTEMPT_SECONDS = 0.05, 5.0


def open_relay(host: str, port: int, seconds: float) -> str:
    """Start a relay in threads of this process; return its address ``HOST:PORT``.

    Args:
      host: Name or address of the machine of process 0.
      port: Port there.
      seconds: How long to wait until something listens there.
    """
    server = socket.create_server(("127.0.0.1", 0))
    _start(_serve, server, (host, port), seconds)
    return f"127.0.0.1:{server.getsockname()[1]}"


def _serve(server: socket.socket, address: tuple[str, int], seconds: float) -> None:
    while True:
        here, _ = server.accept()
        _start(_connect, here, address, seconds)


def _connect(here: socket.socket, address: tuple[str, int], seconds: float) -> None:
    """Connect to process 0, whose service may not listen yet, and pass bytes both ways."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            there = socket.create_connection(address, timeout=_ATTEMPT_SECONDS)
            break
        except OSError:
            if time.monotonic() > deadline:
                here.close()
                return
            time.sleep(_PAUSE)
    there.settimeout(None)
    for end in (here, there):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _start(_pass_on, there, here)
    _pass_on(here, there)
    for end in (here, there):
        # A close alone would not wake the thread that reads.
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Pass bytes on until the source has ended. The sink stays open."""
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            sink.sendall(piece)


def _start(function, *arguments) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()
