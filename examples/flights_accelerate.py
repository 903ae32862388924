"""The flights in a training loop of Hugging Face Accelerate.

`accelerator.prepare` takes the small network, its optimizer and the batches, but no table: each
worker's part of it is its own, and `DynamicEmbedding` sends gradients where they belong. Killed and
started again, the training goes on from its last snapshot.

    pip install accelerate
    torchrun --standalone --nproc-per-node 2 examples/flights_accelerate.py --rows 50000
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from flights import LateModel
from flights_data import load_flights
from flights_workers import SharedEmbedding
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from recis.framework import Saver

SAVE_STEPS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, help="of the year's flights only the first so many")
    parser.add_argument("--out", type=Path, default=Path("build/snapshots"))
    args = parser.parse_args()
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    flights = load_flights(args.rows)
    embedding = SharedEmbedding()
    model = LateModel(embedding, flights.ids.shape[1])
    # As it is before `prepare`, so that any number of workers can load it.
    parts = nn.ModuleList([embedding, model.deep])
    sparse = embedding.optimizer()
    model.deep, dense, batches = accelerator.prepare(
        model.deep,
        torch.optim.Adam(model.deep.parameters(), lr=2e-3),
        DataLoader(TensorDataset(flights.ids, flights.late), batch_size=64),
    )
    saver = Saver(parts, sparse, str(args.out))
    saver.register_for_checkpointing("dense_optimizer", dense)
    step = saver.restore() or 0
    accelerator.print(f"From step {step} on")
    for ids, late in accelerator.skip_first_batches(batches, step):
        loss = binary_cross_entropy_with_logits(model(ids), late)
        accelerator.backward(loss)
        for optimizer in (sparse, dense):
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        if step % SAVE_STEPS == 0:
            saver.save(step)
            accelerator.print(f"step {step}: loss {accelerator.reduce(loss.detach(), 'mean'):.3f}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
