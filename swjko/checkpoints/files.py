"""Files that are opened without following links, and written so that no other file is lost.

A path in a run directory may name anything: a link, a pipe, a device, a file of the user. Only
regular files are opened. New files are created exclusively, and get their name when they are
complete. An error of the file system becomes a ``CheckpointError`` with the path and the reason.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

# Windows has no links that anybody may create, and no pipes in folders.
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_TEMPORARY = re.compile(r"(step-[0-9]{10,}\.ckpt|history\.jsonl)\.[0-9a-f]{8}\.tmp")
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK)


class CheckpointError(RuntimeError):
    """A directory cannot be used or written. Existing checkpoints are never modified."""


class InTheWay(OSError):
    """Something that is not ours has the name of a file that is needed.

    Args:
      path: The name.
      what: What was found there, such as "a symbolic link".
    """

    def __init__(self, path: Path, what: str):
        super().__init__(errno.EEXIST, f"{path} is in the way: it is {what}", str(path))

    def __str__(self) -> str:
        return f"{self.strerror}. It was left as it is. Move it, or use another path."


@contextlib.contextmanager
def explained(directory: Path, what: str) -> Iterator[None]:
    """Turn errors of the file system into a CheckpointError that says what failed.

    Args:
      directory: The run directory.
      what: What is done with it, such as "write in".
    """
    try:
        yield
    except InTheWay as error:
        raise CheckpointError(f"cannot {what} checkpoint_dir {directory}: {error}") from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename not in (None, str(directory)) else ""
        raise CheckpointError(
            f"cannot {what} checkpoint_dir {directory}: {where}{error.strerror or error}. "
            "Checkpoints saved before are intact. Fix the cause, then solve again with resume=True."
        ) from error


def open_regular(path: Path, flags: int) -> int:
    """Open a regular file; return its descriptor.

    Args:
      path: Its path. Links in the place of the file are not followed, and pipes do not block.
      flags: Flags of ``os.open``.

    Raises:
      InTheWay: There is something other than a regular file.
    """
    # Opening a device may already do something to it.
    with contextlib.suppress(FileNotFoundError):
        _require_regular(path, os.lstat(path).st_mode)
    try:
        file = os.open(path, flags | _CAREFULLY, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InTheWay(path, "a symbolic link") from None
        raise
    try:
        _require_regular(path, os.fstat(file).st_mode)
    except BaseException:
        os.close(file)
        raise
    return file


def is_regular(path: Path) -> bool:
    """Return whether a path names a regular file, and not a link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def require_regular(path: Path) -> None:
    """Raise InTheWay if there is anything but a regular file; accept that there is nothing."""
    with contextlib.suppress(FileNotFoundError):
        _require_regular(path, os.lstat(path).st_mode)


def write_atomically(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file so that its readers see the old content or the new, never a part.

    This holds even if the process or the machine stops: the content is on the disk before the
    file gets its name.

    Args:
      path: File to create or replace, in an existing directory. A link is replaced by the file.
      content: All bytes of the file.
      replace: Whether an existing file may be replaced.

    Raises:
      InTheWay: The file exists and ``replace`` is False, or it is a directory, pipe or device.
    """
    _require_replaceable(path, replace)
    temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}.tmp")
    file = open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        try:
            write_all(file, content)
            os.fsync(file)
        finally:
            os.close(file)
        _publish(temporary, path, replace)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if error.filename is None:
            error.filename = str(path)
        raise
    flush(path.parent)


def write_all(file: int, content: bytes) -> None:
    """Write all bytes to a file descriptor."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def flush(path: Path) -> None:
    """Wait until a file or a directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY | _CAREFULLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(directory: Path) -> None:
    """Remove the incomplete files that a killed run has left in its directory."""
    for path in directory.iterdir():
        if _TEMPORARY.fullmatch(path.name) and is_regular(path):
            os.unlink(path)


def set_aside(path: Path) -> None:
    """Rename a damaged file. Files that were set aside before are kept."""
    names = (f"{path.name}.damaged{f'-{count}' if count else ''}" for count in range(10**6))
    free = next(name for name in names if not os.path.lexists(path.with_name(name)))
    os.replace(path, path.with_name(free))


def _publish(temporary: Path, path: Path, replace: bool) -> None:
    if replace:
        os.replace(temporary, path)
        return
    try:
        # Unlike a rename, a link never replaces a file.
        os.link(temporary, path)
    except FileExistsError:
        raise InTheWay(path, "a file that was written meanwhile") from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _require_replaceable(path, replace)
        os.replace(temporary, path)
    else:
        os.unlink(temporary)


def _require_replaceable(path: Path, replace: bool) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not replace:
        raise InTheWay(path, "a file that was written meanwhile")
    if not stat.S_ISLNK(mode):
        _require_regular(path, mode)


def _require_regular(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {"a symbolic link": stat.S_ISLNK, "a directory": stat.S_ISDIR, "a pipe": stat.S_ISFIFO}
    names = [name for name, is_kind in kinds.items() if is_kind(mode)]
    raise InTheWay(path, names[0] if names else "a device or a socket")
