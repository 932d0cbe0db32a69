"""A relay through which JAX reaches process 0, and which hides that process 0 has ended.

JAX aborts a process when its connection to process 0 closes, and no handler of Python can prevent
this. So JAX connects to a relay on the same machine. If the other side closes its connection, the
relay keeps JAX's side open, and ``lifeline`` and ``failures`` end the process.

The relay is a separate small process, because JAX's heartbeats pass through it: a thread would wait
while another holds Python's lock. It runs this file, which imports nothing of the package. It
ends when its standard input closes, however the process ends that has started it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

_PIECE_BYTES = 2**16
_PAUSE, _ATTEMPT_SECONDS = 0.05, 5.0
_relays: list[subprocess.Popen[bytes]] = []


def open_relay(host: str, port: int, seconds: float) -> str:
    """Start a relay; return its address ``HOST:PORT``.

    Args:
      host: Name or address of the machine of process 0.
      port: Port there.
      seconds: How long to wait until something listens there.

    Raises:
      OSError: The relay cannot be started.
    """
    command = [sys.executable, "-I", "-S", __file__, host, str(port), str(seconds)]
    # Ctrl-C in a terminal goes to all processes of a session.
    relay = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _relays.append(relay)
    line = relay.stdout.readline() if relay.stdout else b""
    if not line.strip().isdigit():
        raise OSError(f"the relay to process 0 did not start: {sys.executable} {__file__}")
    return f"127.0.0.1:{int(line)}"


def serve(host: str, port: int, seconds: float) -> None:
    """Be the relay, until standard input closes.

    Args:
      host: Name or address of the machine of process 0.
      port: Port there.
      seconds: How long to wait until something listens there.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    server = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{server.getsockname()[1]}\n")
    sys.stdout.flush()
    _start(_accept, server, (host, port), seconds)
    sys.stdin.buffer.read()
    os._exit(0)


def _accept(server: socket.socket, address: tuple[str, int], seconds: float) -> None:
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


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
