"""Functions of embeddings."""

from recis.nn.functional.pooling import pool as pool
from recis.nn.functional.pooling import tile as tile
