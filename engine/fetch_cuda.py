"""Fetches a CUDA compiler from the package index: `fetch_cuda.py DIR` prints where its nvcc is.

The wheels pinned in cuda_toolkit.txt are the compiler, its headers and the static runtime, some
100 MB. They come through pip, so whatever the user told pip about indexes holds here too. With
RECIS_SOURCES_DIR set they are taken from that directory and nothing touches the network. Needs
nothing but the standard library and pip.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).with_name("cuda_toolkit.txt")

HELP = """\
RECIS_CUDA=PIP takes the CUDA compiler from the package index, and it could not be had. One of
these helps:
  * Let pip reach a package index. pip's configuration files and PIP_* variables are honoured.
  * On a machine that reaches one, run
    `pip download --no-deps --only-binary=:all: --require-hashes -r engine/cuda_toolkit.txt -d DIR`,
    bring DIR here and set RECIS_SOURCES_DIR=DIR.
  * Build with a CUDA toolkit that is installed (RECIS_CUDA=ON), or without CUDA (RECIS_CUDA=OFF).
"""


def fetch(directory: Path) -> Path:
    """Installs the wheels below `directory`, once for each state of the pins."""
    pins = hashlib.sha256(PINS.read_bytes()).hexdigest()
    toolkit = directory.absolute() / f"cuda-{pins[:16]}"
    if not toolkit.exists():
        # Under another name, so that an interrupted run leaves no half toolkit.
        partial = toolkit.with_name(toolkit.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        install(partial)
        root = partial / "nvidia" / "cu13"
        # nvcc looks in lib64, and CMake insists on a shared runtime, though we link with the static
        # one; the wheels have lib, and the runtime by its version.
        (root / "lib64").symlink_to("lib")
        (runtime,) = (root / "lib").glob("libcudart.so.*")
        (root / "lib" / "libcudart.so").symlink_to(runtime.name)
        partial.rename(toolkit)
    return toolkit / "nvidia" / "cu13" / "bin" / "nvcc"


def install(target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-deps"]
    command += ["--only-binary", ":all:", "--no-compile", "--require-hashes"]
    command += ["--requirement", str(PINS), "--target", str(target)]
    if given := os.environ.get("RECIS_SOURCES_DIR"):
        command += ["--no-index", "--find-links", given]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,  # our own stdout is the answer
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"\n`{' '.join(command)}` failed.\n\n{HELP}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(fetch(Path(sys.argv[1])).as_posix())
