"""The optimizers' updates in numpy, in the order of operations that the engine promises.

Every function takes the weights `w` and gradient `g` of one row, flat and of the type that the
arithmetic is done in, its states, the hyper-parameters `h` and the table's step, counted from 1.
It returns the new weights and states.
"""

import numpy as np

STRANDS_BYTES = 64  # a row-wise sum runs in as many strands as 64 bytes hold elements


def decayed(g, w, h):
    """The gradient with weight decay added."""
    return g + w.dtype.type(h["weight_decay"]) * w if h["weight_decay"] else g


def sgd(w, g, states, h, step):
    number = w.dtype.type
    momentum = number(h["momentum"])
    g = decayed(g, w, h)
    if momentum:
        states = [momentum * states[0] + g]
        g = g + momentum * states[0] if h["nesterov"] else states[0]
    return w - number(h["lr"]) * g, states


def adagrad(w, g, states, h, step):
    number = w.dtype.type
    g = decayed(g, w, h)
    total = states[0] + g * g
    rate = number(h["lr"] / (1 + (step - 1) * h["lr_decay"]))
    return w - rate * (g / (np.sqrt(total) + number(h["eps"]))), [total]


def row_wise_adagrad(w, g, states, h, step):
    number = w.dtype.type
    g = decayed(g, w, h)
    strands = STRANDS_BYTES // w.itemsize
    squares = np.zeros(strands, w.dtype)
    for at in range(0, w.size, strands):
        part = g[at : at + strands]
        squares[: part.size] += part * part
    while squares.size > 1:
        half = squares.size // 2
        squares = squares[:half] + squares[half:]
    total = states[0] + squares / number(w.size)
    return w - number(h["lr"]) / (np.sqrt(total) + number(h["eps"])) * g, [total]


def _adam(w, g, states, h, step, decay=1.0):
    number = w.dtype.type
    beta1, beta2 = h["beta1"], h["beta2"]
    step_size = h["lr"] * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
    w = w * number(decay)
    m = number(beta1) * states[0] + number(1 - beta1) * g
    v = number(beta2) * states[1] + number(1 - beta2) * (g * g)
    largest = [np.maximum(v, states[2])] if h["amsgrad"] else []
    denominator = np.sqrt(largest[0] if largest else v) + number(h["eps"])
    nesterov = h.get("use_nesterov", False)
    direction = number(beta1) * m + number(1 - beta1) * g if nesterov else m
    return w - number(step_size) * (direction / denominator), [m, v, *largest]


def adam(w, g, states, h, step):
    return _adam(w, decayed(g, w, h), states, h, step)


def adamw(w, g, states, h, step):
    return _adam(w, g, states, h, step, 1 - h["lr"] * h["weight_decay"])


def adamw_tf(w, g, states, h, step):
    return _adam(w, g, states, h, step, 1 - h["weight_decay"])


SPARSE_ADAM = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def slots_of(optimizer, h):
    """Names of the slots that an optimizer of this class and these hyper-parameters keeps."""
    adam_slots = SPARSE_ADAM if h.get("amsgrad") else SPARSE_ADAM[:2]
    return {
        "SparseSGD": ["sparse_sgd_momentum"] if h.get("momentum") else [],
        "SparseAdagrad": ["sparse_adagrad_sum"],
        "SparseRowWiseAdagrad": ["sparse_row_wise_adagrad_sum"],
        "SparseAdam": [f"sparse_adam_{name}" for name in adam_slots],
        "SparseAdamW": [f"sparse_adamw_{name}" for name in adam_slots],
        "SparseAdamWTF": [f"sparse_adamw_tf_{name}" for name in adam_slots],
    }[optimizer.__name__]


UPDATES = {
    "SparseSGD": sgd,
    "SparseAdagrad": adagrad,
    "SparseRowWiseAdagrad": row_wise_adagrad,
    "SparseAdam": adam,
    "SparseAdamW": adamw,
    "SparseAdamWTF": adamw_tf,
}
