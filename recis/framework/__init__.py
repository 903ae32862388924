"""Whole training states: saved at intervals, restored bit for bit."""

from recis.framework.checkpoint_manager import CheckpointManager as CheckpointManager
from recis.framework.saver import Saver as Saver
