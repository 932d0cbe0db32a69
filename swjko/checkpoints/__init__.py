"""Checkpoints of a run: their format, where they are stored, and who may write."""

from swjko.checkpoints.store import CheckpointError, read_history

__all__ = ["CheckpointError", "read_history"]
