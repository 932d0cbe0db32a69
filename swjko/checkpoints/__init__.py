"""Checkpoints of a run: their format, where they are stored, and who may write."""

from swjko.checkpoints.files import CheckpointError
from swjko.checkpoints.history import read_history
from swjko.checkpoints.reading import SavedRun, load

__all__ = ["CheckpointError", "SavedRun", "load", "read_history"]
