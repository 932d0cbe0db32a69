"""Checkpoints of a run: their format, where they are stored, and who may write."""

from swjko.checkpoints.files import CheckpointError
from swjko.checkpoints.history import read_history

__all__ = ["CheckpointError", "read_history"]
