"""A lock file, ``.swjko.lock``, that keeps two processes from writing into one directory.

The file is locked through the operating system, which releases it when its process ends for any
reason. It names the process and its host. A file left by a dead process of this host is taken
over. File systems shared by hosts do not always share locks, so a file of another host stays
until its owner or a person removes it.

Only a file that was written here is taken over or removed: a regular file with a single name
that holds a process and its host and nothing else. After a crash it may be empty, or hold zeros.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from swjko.checkpoints.files import InTheWay, open_regular

LOCK = ".swjko.lock"
_LONGEST = 4096
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


class Locked(Exception):
    """Another process holds the lock. The message continues a sentence about the directory."""


@contextlib.contextmanager
def lock(path: Path) -> Iterator[str]:
    """Hold the lock file at a path.

    Yields:
      The dead process that left the file, such as "process 12 on node0"; "" if there was none.

    Raises:
      Locked: Another process holds it, or may hold it.
      InTheWay: There is something that is not such a lock file. It is not touched.
    """
    file, owner = _acquire(path)
    try:
        content = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        os.ftruncate(file, 0)
        if os.pwrite(file, content, 0) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        yield owner
    finally:
        # Removed before it is released, so that nobody can lock a file that is about to go.
        with contextlib.suppress(OSError):
            if _is_at(file, path):
                os.unlink(path)
        with contextlib.suppress(OSError):
            os.close(file)


def _acquire(path: Path) -> tuple[int, str]:
    while True:
        try:
            file = open_regular(path, os.O_RDWR)
        except FileNotFoundError:
            try:
                file = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                continue
        try:
            owner, pid, host = _owner(file, path)
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
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        # The file system has no locks. Ask whether the named process is alive.
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


def _owner(file: int, path: Path) -> tuple[str, int | None, str | None]:
    """Return the owner in words, its process id and host; nothing from an empty file."""
    content = os.pread(file, _LONGEST + 1, 0)
    if os.fstat(file).st_nlink > 1:
        raise InTheWay(path, "a file with a second name (a hard link)")
    if len(content) <= _LONGEST and not content.strip(b"\0"):
        return "", None, None
    with contextlib.suppress(ValueError, RecursionError):
        owner = json.loads(content)
        if isinstance(owner, dict) and owner.keys() == {"pid", "host"}:
            pid, host = owner["pid"], owner["host"]
            if type(pid) is int and 0 < pid < 2**31 and isinstance(host, str):
                return f"process {pid} on {host}", pid, host
    raise InTheWay(path, "not a lock file of a run")


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False
