"""A lock file that keeps two processes from writing into one directory.

It is locked through the operating system, which frees it when its process ends however that ends, and names the process and its host. A
file left by a dead process of this host is taken over. Whether a process of another host lives cannot be told, since file systems shared
by hosts do not always share their locks: its file is left for its owner to remove.
"""

import contextlib
import fcntl
import json
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path


class Locked(Exception):
    """Another process holds the lock; the message goes on from the name of what it locks."""


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds the lock file at ``path``; raises Locked where another process has it, and warns where a dead one left it."""
    file = _acquire(path)
    try:
        owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        os.ftruncate(file, 0)
        os.pwrite(file, owner.encode(), 0)
        yield
    finally:
        # Removed before it is freed: nobody can lock a file that is about to go.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(file)


def _acquire(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            owner, pid, host = _owner(file)
            if not _lock(file, pid if host == socket.gethostname() else None):
                raise Locked(
                    f"is being written by {owner or 'another process'}. Wait for it, or take another directory."
                )
            if owner and host != socket.gethostname():
                raise Locked(f"is locked by {owner}. Once that process is gone, remove {path}.")
            if _is_at(file, path):
                if owner:
                    warnings.warn(
                        f"{path} was left by {owner}, which is gone; it is taken over",
                        RuntimeWarning,
                        stacklevel=7,
                    )
                return file
        except BaseException:
            os.close(file)
            raise
        # Its last owner removed it between our opening and our locking it.
        os.close(file)


def _lock(file: int, pid: int | None) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: the process that is named must do
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
    """Whose it is, in words, process id and host; nobody's where it is empty or half written."""
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
