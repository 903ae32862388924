"""What tables are made of and asked for: dtypes, ids and their layouts, optimizers."""

import torch
from hypothesis import strategies as st

from recis import optim

FLOATING = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
INTEGER = [torch.int8, torch.int32, torch.int64]
EDGES = [0, -1, -2, -(2**63), 2**63 - 1, 2**52, 2**52 - 1, 2**52 + 1]
IDS = st.lists(
    st.sampled_from(EDGES + list(range(3, 10))) | st.integers(-(2**63), 2**63 - 1), max_size=12
)
SEEDS = st.integers(0, 2**32 - 1)
LAYOUTS = st.sampled_from(["flat", "scalar", "2-D", "transposed", "strided", "repeated"])
SCALES = st.sampled_from([1e-3, 1.0, 30.0])

DECAY = {"weight_decay": st.sampled_from([0.0, 0.01])}
ADAGRAD = {
    "lr": st.just(0.1),
    "initial_accumulator_value": st.just(0.1),
    "eps": st.just(1e-10),
    **DECAY,
}
ADAM = {
    "lr": st.sampled_from([1e-3, 0.1]),
    "beta1": st.sampled_from([0.0, 0.9]),
    "beta2": st.just(0.999),
    "eps": st.sampled_from([1e-8, 1e-3]),
    "amsgrad": st.booleans(),
    **DECAY,
}
SGD = {"lr": st.just(0.1), "nesterov": st.just(False), **DECAY}
OPTIMIZERS = {
    name: st.tuples(st.just(optimizer), st.fixed_dictionaries(hyper))
    for name, optimizer, hyper in [
        ("sgd", optim.SparseSGD, {**SGD, "momentum": st.just(0.0)}),
        ("momentum", optim.SparseSGD, {**SGD, "momentum": st.just(0.9), "nesterov": st.booleans()}),
        ("adagrad", optim.SparseAdagrad, {**ADAGRAD, "lr_decay": st.sampled_from([0.0, 0.1])}),
        ("row-wise adagrad", optim.SparseRowWiseAdagrad, ADAGRAD),
        ("adam", optim.SparseAdam, ADAM),
        ("adamw", optim.SparseAdamW, ADAM),
        ("adamw-tf", optim.SparseAdamWTF, {**ADAM, "use_nesterov": st.booleans()}),
    ]
}


def laid_out(ids, layout):
    """A tensor of some of these ids, in one of the shapes and strides that tensors come in."""
    flat = torch.tensor(ids, dtype=torch.int64)
    pairs = flat[: len(ids) // 2 * 2].view(2, -1)
    if layout == "scalar" and ids:
        return flat[0]
    return {
        "2-D": pairs,
        "transposed": pairs.t(),
        "strided": torch.stack([flat, flat + 1], dim=1)[:, 0],
        "repeated": flat.expand(2, len(ids)),
    }.get(layout, flat)
