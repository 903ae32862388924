"""recis: a checkpointable embedding-store engine for PyTorch.

Start with `recis.nn.HashTable` and an optimizer from `recis.optim`; `recis.Store` makes tables
larger than memory and durable; `recis.Snapshot` serves what `recis.serialize` saved.
"""

from recis._engine import build_info as build_info
from recis._engine import clear_idle_buffers as clear_idle_buffers
from recis._engine import set_large_pages as set_large_pages
from recis.snapshot.serve import Snapshot as Snapshot
from recis.store import Store as Store

__version__: str = build_info()["version"]
