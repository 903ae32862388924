"""What does a training step cost: forward, loss = (emb * w).sum(), backward, optimizer?

Each contestant lives in a process of its own. recis and torch run Adam; FBGEMM, which has no Adam
for CPUs, runs row-wise Adagrad, with a third of the state. The floor is the loss without a table.
"""

from __future__ import annotations

from functools import cache

import torch
from common import (
    BATCH_IDS,
    Batch,
    Homes,
    Laps,
    Report,
    Spread,
    Vocabulary,
    arguments,
    ratio,
)
from peers import TRAINERS, Trainer, installed, is_recis, random_rows

Phases = dict[str, float]  # median seconds

GOALS = {"torch": 3.5, "fbgemm": 1.7}  # their time / recis time

# A torch step over the kernels of a minimal engine, by rows and threads: what an engine can
# reach at most, were autograd and the loss free.
CEILING = {
    (1_000_000, 1): 6.6,
    (1_000_000, 2): 6.2,
    (10_000_000, 1): 6.4,
    (10_000_000, 2): 7.4,
}


def main() -> None:
    parser = arguments(
        __doc__, rows=1_000_000, dims=[64], threads=[1, 2], rounds=5, peers=["torch", "fbgemm"]
    )
    parser.add_argument("--memory-gb", type=float, default=12, help="what all may hold at once")
    options = parser.parse_args()
    names = [*installed(options.peers), "floor"]
    report = Report(__doc__, f"{options.rows:,} rows, {BATCH_IDS:,} ids of Zipf 1.05 a step, ms")
    for dim in options.dims:
        state_bytes = options.rows * dim * 3 * 4
        keep = state_bytes * len(names) <= options.memory_gb * 1e9
        with Homes(_turn, options.rows, dim, options.threads, keep=keep) as homes:
            turns = report.interleave(homes, names, options)
        for threads in options.threads:
            phases = {name: [turn[threads] for turn in turns[name]] for name in names}
            _add(report, options.rows, dim, threads, phases)
    report.finish(options.json)


def _turn(name: str, rows: int, dim: int, thread_counts: list[int]) -> dict[int, Phases]:
    """Returns the phases of a step for each number of threads; runs in the contestant's process."""
    trainer, batches = _trainer(name, rows, dim)
    phases = {}
    for threads in thread_counts:
        torch.set_num_threads(threads)
        _train(trainer, batches[:2], dim)
        phases[threads] = _train(trainer, batches, dim)
    return phases


@cache
def _trainer(name: str, rows: int, dim: int) -> tuple[Trainer, list[Batch]]:
    vocabulary = Vocabulary(rows)
    return TRAINERS[name](vocabulary, dim), vocabulary.zipf()


def _train(trainer: Trainer, batches: list[Batch], dim: int) -> Phases:
    laps = Laps()
    weights = random_rows(BATCH_IDS, dim)
    for batch in batches:
        laps.start()
        embeddings = trainer.forward(batch)
        laps.end("forward")
        loss = (embeddings * weights).sum()
        laps.end("loss")
        torch.autograd.backward(loss)
        laps.end("backward")
        trainer.step()
        del embeddings, loss
        laps.end("step")
    return laps.medians()


def _add(
    report: Report, rows: int, dim: int, threads: int, phases: dict[str, list[Phases]]
) -> None:
    def column(name: str, phase: str = "total") -> list[float]:
        return [turn[phase] for turn in phases[name]]

    for name, turns in phases.items():
        row: dict[str, object] = {"dim": dim, "threads": threads, "who": name}
        row["M ids/s"] = Spread.of([BATCH_IDS / turn["total"] / 1e6 for turn in turns])
        row |= {phase: Spread.of([turn[phase] * 1e3 for turn in turns]) for phase in turns[0]}
        row["time / recis"] = ratio(column(name), column("recis"))
        report.rows.append(row)
    for name in filter(is_recis, phases):
        case = f"dim {dim}, {threads} threads"
        for peer, times in GOALS.items():
            if peer in phases:
                got = ratio(column(peer), column(name))
                report.goal(f"{case}: {peer} time / {name} time", got, at_least=times)
        if "torch" in phases:
            engine = [a - b for a, b in zip(column(name), column("floor"), strict=True)]
            got = ratio(column("torch"), engine)
            ceiling = CEILING.get((rows, threads), "unknown")
            report.notes.append(f"{case}: torch time / ({name} - floor) {got}, ceiling {ceiling}")


if __name__ == "__main__":
    main()
