"""A lock file that keeps two processes from writing into one directory.

The file is locked through the operating system, which releases it when its process ends for any
reason. It names the process and its host. A file left by a dead process of this host is taken
over. File systems shared by hosts do not always share locks, so a file of another host stays
until its owner or a person removes it.
"""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path


class Locked(Exception):
    """Another process holds the lock. The message continues a sentence about the directory."""


@contextlib.contextmanager
def lock(path: Path) -> Iterator[str]:
    """Hold the lock file at a path.

    Yields:
      The dead process that left the file, such as "process 12 on node0"; "" if there was none.
    """
    file, owner = _acquire(path)
    try:
        content = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        os.ftruncate(file, 0)
        os.pwrite(file, content.encode(), 0)
        yield owner
    finally:
        # Removed before it is released, so that nobody can lock a file that is about to go.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(file)


def _acquire(path: Path) -> tuple[int, str]:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            owner, pid, host = _owner(file)
            is_here = host == socket.gethostname()
            if not _lock(file, pid if is_here else None):
                raise Locked(
                    f"is in use by {owner or 'another process'}. "
                    "Wait until it ends, or use another directory."
                )
            if owner and not is_here:
                raise Locked(f"is locked by {owner}. If that process has ended, remove {path}.")
            if _is_at(file, path):
                return file, owner
        except BaseException:
            os.close(file)
            raise
        # Its last owner removed the file after this process opened it and before it locked it.
        os.close(file)


def _lock(file: int, pid: int | None) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # The file system has no locks. Ask whether the named process is alive.
        return pid is None or not _is_alive(pid)
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _owner(file: int) -> tuple[str, int | None, str | None]:
    """Return the owner in words, its process id and host; nothing from an incomplete file."""
    try:
        owner = json.loads(os.pread(file, 4096, 0))
        return f"process {owner['pid']} on {owner['host']}", int(owner["pid"]), str(owner["host"])
    except (ValueError, TypeError, KeyError):
        return "", None, None


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
