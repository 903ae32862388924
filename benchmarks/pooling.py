"""What do combining the embeddings of rows of ids, and its backward pass, cost?

Beside `torch.nn.functional.embedding_bag`, and plain indexing for embeddings side by side. The
embeddings are those of the batch's distinct ids, as an exchange between workers brings them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from common import BATCH_IDS, Laps, Report, Spread, Vocabulary, arguments, contestants, ratio
from torch import Tensor
from torch.nn.functional import embedding_bag

from recis._tensors import distinct
from recis.nn.functional import pool, tile

LENGTH = 8  # ids a row
KINDS = ["sum", "mean", "weighted", "tile"]
REPEATS = 10  # of each batch in a turn

# embeddings, which of them each id has, where rows begin, weights
Combine = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Bag = tuple[Tensor, Tensor, Tensor, Tensor]


def main() -> None:
    parser = arguments(
        __doc__, rows=1_000_000, dims=[16, 64, 128], threads=[1, 2], rounds=5, peers=["torch"]
    )
    options = parser.parse_args()
    batches = Vocabulary(options.rows).zipf(batches=4)
    setting = f"{BATCH_IDS:,} ids of Zipf 1.05 of {options.rows:,}, {LENGTH} a row, milliseconds"
    report = Report(__doc__, setting)
    offsets = torch.arange(0, BATCH_IDS + 1, LENGTH)
    for dim in options.dims:
        bags: list[Bag] = []
        for batch in batches:
            ids, inverse, _ = distinct(batch.ids)
            weight = torch.rand(BATCH_IDS)
            bags.append((torch.randn(len(ids), dim), inverse, offsets, weight))
        for kind in KINDS:
            who = {"recis": _recis(kind), "torch": _torch(kind)}
            names = contestants(options.peers)
            for threads in options.threads:
                torch.set_num_threads(threads)
                _check(who, bags[0])
                times = report.interleave(partial(_turn, who, bags), names, options)
                for name in names:
                    row: dict[str, object] = {"dim": dim, "threads": threads, "kind": kind}
                    row["who"] = name
                    for phase in times[name][0]:
                        row[phase] = Spread.of([turn[phase] * 1e3 for turn in times[name]])
                        if name != "recis":
                            row[f"{phase} / recis"] = ratio(
                                [turn[phase] for turn in times[name]],
                                [turn[phase] for turn in times["recis"]],
                            )
                    report.rows.append(row)
    report.finish(options.json)


def _recis(kind: str) -> Combine:
    if kind == "tile":
        return lambda rows, inverse, offsets, _: tile(rows, inverse, offsets, None, LENGTH)
    weighted = kind == "weighted"
    return lambda rows, inverse, offsets, weight: pool(
        rows, inverse, offsets, weight if weighted else None, mean=kind == "mean"
    )


def _torch(kind: str) -> Combine:
    if kind == "tile":
        return lambda rows, inverse, *_: rows[inverse].view(-1, LENGTH, rows.shape[1])
    mode = "mean" if kind == "mean" else "sum"
    bag = partial(embedding_bag, mode=mode, include_last_offset=True)
    if kind == "weighted":
        return lambda rows, inverse, offsets, weight: bag(
            inverse, rows, offsets, per_sample_weights=weight
        )
    return lambda rows, inverse, offsets, _: bag(inverse, rows, offsets)


def _turn(who: dict[str, Combine], bags: list[Bag], name: str) -> dict[str, float]:
    laps, combine = Laps(), who[name]
    for rows, *others in bags * REPEATS:
        rows.requires_grad_(True)
        rows.grad = None
        laps.start()
        out = combine(rows, *others)
        laps.end("forward")
        gradient = torch.ones_like(out)
        laps.start()
        out.backward(gradient)
        laps.end("backward")
    return laps.medians()


def _check(who: dict[str, Combine], bag: Bag) -> None:
    found = [combine(*bag) for combine in who.values()]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    main()
