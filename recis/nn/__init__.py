"""Embedding tables as torch modules."""

from recis.nn.hashtable_hook import AdmitHook as AdmitHook
from recis.nn.hashtable_hook import FilterHook as FilterHook
from recis.nn.modules.hashtable import HashTable as HashTable
