"""The checkpoint from which a run resumes: the newest that is intact and belongs to the run."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swjko.checkpoints.files import CheckpointError, InTheWay, open_regular, require_regular
from swjko.checkpoints.fingerprint import differences
from swjko.checkpoints.format import (
    HISTORY,
    Checkpoint,
    Damaged,
    TooLarge,
    checkpoint_paths,
    load,
    starts_like_frames,
)
from swjko.checkpoints.history import REPORTS
from swjko.checkpoints.sharded import ShardedArrays
from swjko.checkpoints.single import SingleFile, check_records
from swjko.schemes.base import State

_VERSIONS = ("version of swjko", "version of jax")
# A longer run continues a shorter one. "resumed" says what has happened to the run.
_MAY_DIFFER = {"num_steps", "resumed"}


def newest_checkpoint(
    directory: Path,
    run: Mapping[str, str],
    start: State,
    recorded: Any,
    back_end: SingleFile | ShardedArrays,
    *,
    resume: bool,
) -> tuple[Checkpoint | None, dict[Path, str], list[str]]:
    """Return the newest intact checkpoint of a run, why newer ones are damaged, and new versions.

    A run may have been meant to be shorter, and a library may have had another patch version.

    Args:
      directory: The run directory. Nothing in it is changed.
      run: Fingerprint of the run.
      start: State at step 0, with which the leaves are compared.
      recorded: What a step records, with which the history is compared.
      back_end: Where the states are.
      resume: Whether the directory may hold checkpoints.

    Raises:
      CheckpointError: There is another run or a longer one, a history without a checkpoint, or no
        intact one.
    """
    where, damaged = f"checkpoint_dir {directory}", {}
    paths = checkpoint_paths(directory)
    _require_usable(directory, where, bool(paths), resume)
    for path in paths:
        try:
            found = load(path, back_end.largest(start))
            versions = _require_same(where, found.run, run)
            back_end.check(found, start)
            check_records(found, recorded)
            _require_enough_steps(where, found.step, run)
            return found, damaged, versions
        except TooLarge as error:
            _require_same(where, error.run, run)
            damaged[path] = str(error)
        except (Damaged, InTheWay, FileNotFoundError) as error:
            damaged[path] = str(error)
        except OSError as error:
            # A bad sector is damage. Without permission or a server nothing is known.
            if error.errno != errno.EIO:
                raise
            damaged[path] = str(error)
    if damaged:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in damaged.items())
        raise CheckpointError(f"{where} has no intact checkpoint: {reasons}. Nothing was changed.")
    return None, {}, []


def require_own_history(path: Path, found: Checkpoint | None) -> None:
    """Raise InTheWay if the history is not the one that the checkpoint accounts for.

    Args:
      path: Its path; there may be no such file.
      found: The checkpoint. Bytes beyond those it knows are cut off, so they must be ours.
    """
    try:
        file = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        if os.fstat(file).st_nlink > 1:
            raise InTheWay(path, "a file with a second name (a hard link)")
        if not (found and found.history) and not starts_like_frames(os.read(file, 32)):
            raise InTheWay(path, "not the history of a run")
    finally:
        os.close(file)


def _require_usable(directory: Path, where: str, has_checkpoints: bool, resume: bool) -> None:
    histories = [directory / HISTORY, directory / REPORTS]
    if not has_checkpoints and any(map(os.path.lexists, histories)):
        raise CheckpointError(
            f"{where} holds a history but no checkpoint. Remove it, or use another directory."
        )
    if has_checkpoints and not resume:
        raise CheckpointError(
            f"{where} holds checkpoints. Pass resume=True, or use another directory."
        )
    for path in histories:
        require_regular(path)


def _require_same(where: str, saved: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """Return the versions that differ in their patch; raise CheckpointError if more differs."""
    patched = {name for name in _VERSIONS if _is_patch(saved.get(name, ""), present.get(name, ""))}
    old, new = (
        {name: value for name, value in run.items() if name not in patched | _MAY_DIFFER}
        for run in (saved, present)
    )
    if listed := differences(old, new):
        raise CheckpointError(
            f"{where} holds another run ({'; '.join(listed)}). Use another directory, "
            "or what that run was started with. Nothing was changed."
        )
    old, new = ({name: run[name] for name in sorted(patched)} for run in (saved, present))
    return differences(old, new)


def _is_patch(saved: str, present: str) -> bool:
    """Return whether two versions differ in no more than their patch."""
    return saved != present and saved.split(".")[:2] == present.split(".")[:2]


def _require_enough_steps(where: str, step: int, run: Mapping[str, str]) -> None:
    num_steps = int(run.get("num_steps", step))
    if step > num_steps:
        raise CheckpointError(
            f"{where} holds a run of {step} steps; got num_steps={num_steps}. Pass num_steps="
            f"{step} or more, or use another directory. Nothing was changed."
        )
