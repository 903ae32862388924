"""What does a call cost when there are few ids in it, or one?

At one thread: lookups in eval mode, then forward and backward in training mode, and the
optimizer's step after them.
"""

from __future__ import annotations

from functools import partial

import torch
from common import Batch, Laps, Report, Spread, Vocabulary, arguments
from peers import LOOKUPS, TRAINERS, Lookup, Trainer, installed, random_rows

CALLS = 50  # of each batch in a turn
GOAL_US = {1: 15, 64: 15}  # eval, by ids in a call

Times = dict[str, float]  # median seconds


def main() -> None:
    parser = arguments(
        __doc__, rows=1_000_000, dims=[64], threads=[1], rounds=5, peers=["torch", "fbgemm"]
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 64, 1024, 8192])
    options = parser.parse_args()
    names = installed(options.peers)
    vocabulary = Vocabulary(options.rows)
    report = Report(__doc__, f"{options.rows:,} rows, ids of Zipf 1.05, microseconds a call")
    for dim in options.dims:
        weight = random_rows(options.rows, dim)
        lookups = {name: LOOKUPS[name](vocabulary, weight) for name in names}
        trainers = {name: TRAINERS[name](vocabulary, dim) for name in names}
        for size in options.sizes:
            batches = vocabulary.zipf(size=size) * CALLS
            gradient = torch.ones(size, dim)
            for threads in options.threads:
                torch.set_num_threads(threads)
                times = report.interleave(
                    partial(_turn, lookups, trainers, batches, gradient), names, options
                )
                _add(report, dim, threads, size, times)
    report.finish(options.json)


def _turn(
    lookups: dict[str, Lookup],
    trainers: dict[str, Trainer],
    batches: list[Batch],
    gradient: torch.Tensor,
    name: str,
) -> Times:
    lookup, trainer = lookups[name], trainers[name]
    reading, training = Laps(), Laps()
    with torch.no_grad():
        for batch in batches:
            reading.start()
            lookup(batch)
            reading.end("eval")
    for batch in batches:
        training.start()
        torch.autograd.backward(trainer.forward(batch), gradient)
        training.end("forward + backward")
        trainer.step()
        training.end("step")
    return {"eval": reading.medians()["eval"]} | training.medians()


def _add(report: Report, dim: int, threads: int, size: int, times: dict[str, list[Times]]) -> None:
    for name, turns in times.items():
        row: dict[str, object] = {"dim": dim, "threads": threads, "ids": size, "who": name}
        row |= {key: Spread.of([turn[key] * 1e6 for turn in turns]) for key in turns[0]}
        report.rows.append(row)
    if size in GOAL_US:
        got = Spread.of([turn["eval"] * 1e6 for turn in times["recis"]])
        report.goal(
            f"dim {dim}, {threads} threads: us for {size} ids, eval", got, at_most=GOAL_US[size]
        )


if __name__ == "__main__":
    main()
