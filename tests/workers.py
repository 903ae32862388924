"""Programs that several workers run together."""

import os
import socket
import subprocess
import sys

# gloo's threads may outlive their group, and abort an interpreter that ends.
LAST = """
import os
import torch.distributed
torch.distributed.destroy_process_group()
os._exit(0)
"""


def group_of(count):
    """The environment of a group of workers, but for the rank."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}


def run(program, count, *arguments, cwd, ends=0):
    """Runs a program, which is to call `init_process_group`, as all workers of a group.

    Args:
        program: Python source.
        count: of workers.
        arguments: of the program.
        cwd: where, which must not be where the sources are.
        ends: the exit status of those that are not the first.
    """
    group = group_of(count)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program + LAST, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, **group, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        errors = [worker.communicate(timeout=200)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert [worker.returncode for worker in workers] == [0, *[ends] * (count - 1)], "\n".join(
        errors
    )
