"""Callbacks of a training loop."""

from recis.hooks.filter_hook import HashTableFilterHook as HashTableFilterHook
from recis.hooks.hook import Hook as Hook
