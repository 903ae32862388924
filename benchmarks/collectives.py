"""What does one collective of an exchange cost, by the number of workers?

`all_to_all_single` of gloo among processes of this machine: with 16 bytes for each worker, which
is latency, and with `--megabytes` for all of them together. Workers share the processors, so more
of them than these are an upper bound.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

CALLS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 3, 4, 8])
    parser.add_argument("--megabytes", type=float, default=8.0)
    options = parser.parse_args()
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    print(f"{os.cpu_count()} cores, torch {torch.__version__}: median of {CALLS} calls")
    for port, world in enumerate(options.workers, 29_600):
        mp.spawn(_worker, (world, port, options.megabytes), nprocs=world)


def _worker(rank: int, world: int, port: int, megabytes: float) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    small = _seconds(torch.zeros(2 * world, dtype=torch.int64))
    large = _seconds(torch.zeros(int(megabytes * 1e6 / 4) // world * world))
    if rank == 0:
        sent = megabytes * (world - 1) / world
        print(f"{world} workers: {small * 1e6:.0f} us; {sent / large:.0f} MB/s sent by each")
    dist.barrier()
    dist.destroy_process_group()


def _seconds(given: Tensor) -> float:
    found = torch.empty_like(given)
    taken = []
    for _ in range(CALLS):
        start = time.perf_counter()
        dist.all_to_all_single(found, given)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
