"""Embedding tables as torch modules."""

from recis.nn.hashtable_hook import AdmitHook as AdmitHook
from recis.nn.hashtable_hook import FilterHook as FilterHook
from recis.nn.modules._agreement import ExchangeError as ExchangeError
from recis.nn.modules.embedding import DynamicEmbedding as DynamicEmbedding
from recis.nn.modules.embedding import EmbeddingOption as EmbeddingOption
from recis.nn.modules.embedding_engine import EmbeddingEngine as EmbeddingEngine
from recis.nn.modules.hashtable import HashTable as HashTable
from recis.nn.modules.prefetched import Prefetched as Prefetched
