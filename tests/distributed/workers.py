"""Programs that several workers run together."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def start(program: Path, count: int, *arguments: object, cwd: Path) -> list[subprocess.Popen]:
    """Starts a program as workers of one group, which it makes with `init_process_group`."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return [
        subprocess.Popen(
            [sys.executable, str(program), *map(str, arguments)],
            cwd=cwd,  # not where the sources are
            env={**os.environ, **group, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def run(program: Path, count: int, *arguments: object, cwd: Path, timeout: float = 200) -> None:
    """The same, and waits until all have ended well."""
    workers = start(program, count, *arguments, cwd=cwd)
    try:
        errors = [worker.communicate(timeout=timeout)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0] * count, "\n".join(errors)
