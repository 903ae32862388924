"""Tensors of rows that differ in length."""

from recis.ragged.tensor import RaggedTensor as RaggedTensor
