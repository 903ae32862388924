"""Tables and tensors to snapshots and back."""

from recis.serialize.loader import Loader as Loader
from recis.serialize.reader import CheckpointReader as CheckpointReader
from recis.serialize.saver import Saver as Saver
