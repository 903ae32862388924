"""Optimizers that update only the rows a gradient has reached."""

from recis.optim.sparse_adagrad import SparseAdagrad as SparseAdagrad
from recis.optim.sparse_adam import SparseAdam as SparseAdam
from recis.optim.sparse_adamw import SparseAdamW as SparseAdamW
from recis.optim.sparse_adamw_tf import SparseAdamWTF as SparseAdamWTF
from recis.optim.sparse_optim import SparseOptimizer as SparseOptimizer
from recis.optim.sparse_row_wise_adagrad import SparseRowWiseAdagrad as SparseRowWiseAdagrad
from recis.optim.sparse_sgd import SparseSGD as SparseSGD
