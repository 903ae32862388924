"""How tests look at a table."""

import os

import torch

from recis.nn.modules.hashtable_hook_impl import HashtableHookFactory


def long(*ids):
    """An int64 tensor of these ids."""
    return torch.tensor(ids, dtype=torch.int64)


def bits(tensor):
    """All there is to a tensor: unlike `==`, it tells -0.0 from 0.0, and NaN equals itself."""
    raw = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return tensor.dtype, tuple(tensor.shape), bytes(raw.numpy())


def dump(table):
    """Everything a table holds, but for its counters."""
    ids, rows = table.ids_map()
    grad = table.grad()
    content = {
        "ids": ids,
        "rows": rows,
        "gradient's rows": grad.indices(),
        "gradient": grad.values(),
        **{f"slot {slot.name()}": slot.value() for slot in table.slot_group().slots()},
        **{f"buffer {name}": buffer for name, buffer in table.named_buffers()},
    }
    for hook, tables in HashtableHookFactory().get_admits().items():
        for index, state in enumerate(tables[table].state() if table in tables else ()):
            content[f"{hook} state {index}"] = state
    return {name: bits(tensor) for name, tensor in content.items()}


def memory():
    """A folder in memory, whose syncs cost nothing; None where there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def by_id(table, slot="embedding"):
    """What a slot holds, as id -> list, whatever the rows."""
    ids, rows = table.ids_map()
    values = table.slot_group().slot_by_name(slot).read(rows)
    return dict(zip(ids.tolist(), values.tolist(), strict=True))


def train(table, optimizer, ids, grad, **options):
    """One step: looks ids up, gives the output this gradient and applies it."""
    table(ids, **options).backward(grad)
    optimizer.step()
    optimizer.zero_grad()
