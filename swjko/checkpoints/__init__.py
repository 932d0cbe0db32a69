"""Checkpoints of a run: their format, where they are stored, and who may write."""

from swjko.checkpoints.history import read_history
from swjko.checkpoints.store import CheckpointError

__all__ = ["CheckpointError", "read_history"]
