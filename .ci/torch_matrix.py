"""Shows that one wheel serves several torch releases: torch_matrix.py WHEEL VERSION...

For each version: a throwaway environment with that torch and the wheel, and tests/test_smoke.py.

The package index has torch for Linux only as a CUDA build, which wants gigabytes of CUDA
libraries before it can be imported. A machine without a GPU has no use for them, so torch is
installed without its dependencies and each missing library is replaced by one of the same name
whose functions all answer "no CUDA device". What torch does on the CPU is untouched.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH_NEEDS = ["filelock", "fsspec", "jinja2", "networkx", "sympy", "typing-extensions"]
TESTS_NEED = ["hypothesis", "lmdb", "numpy", "pytest", "pytest-timeout", "safetensors"]


def run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, cwd=ROOT)


def output(*command: str | Path) -> str:
    return subprocess.run(
        [str(word) for word in command], check=True, capture_output=True, text=True
    ).stdout


def stand_in_for_cuda(libraries: Path) -> None:
    """Puts a stand-in beside torch's libraries for each one that they miss."""
    missing: set[str] = set()
    owner: dict[str, str] = {}  # of a symbol version: the library that must define it
    functions: dict[str, set[str]] = defaultdict(set)  # by symbol version, "" if it has none
    for library in libraries.glob("*.so*"):
        missing |= set(re.findall(r"(\S+) => not found", output("ldd", library)))
        required = re.split(r"required from (\S+):\n", output("objdump", "-p", library))
        for name, block in zip(required[1::2], required[2::2], strict=True):
            owner.update((version, name) for version in re.findall(r"0x\S+ 0x\S+ \d+ (\S+)", block))
        for symbol in re.findall(r" U (\w+@\S+|(?:cu|nccl|nv)\w+)", output("nm", "-D", library)):
            function, _, version = symbol.partition("@")
            functions[version].add(function)
    for name in missing:
        versions = [version for version in owner if owner[version] == name]
        # Whose the functions without a version are cannot be told: all have them.
        wanted = functions[""].union(*(functions[version] for version in versions))
        # 100 is cudaErrorNoDevice.
        code = "".join(f"long {function}(void) {{ return 100; }}\n" for function in wanted)
        script = "".join(
            f"{version} {{ global: {' '.join(f'{f};' for f in functions[version])} }};\n"
            for version in versions
        )
        with tempfile.NamedTemporaryFile("w", suffix=".map") as file:
            file.write(script or "{ global: *; };")
            file.flush()
            subprocess.run(
                [
                    *("cc", "-w", "-shared", "-fPIC", "-x", "c", "-"),
                    *(f"-Wl,-soname,{name}", f"-Wl,--version-script,{file.name}"),
                    *("-o", str(libraries / name)),
                ],
                input=code,
                text=True,
                check=True,
            )


def smoke(wheel: Path, version: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        python = Path(directory, "bin", "python")
        pytest = Path(directory, "bin", "pytest")
        install = f"{python} -m pip install --quiet --no-cache-dir".split()
        run(*install, *TORCH_NEEDS, *TESTS_NEED)
        run(*install, "--no-deps", f"torch=={version}", wheel)
        (torch,) = Path(directory).glob("lib/python3.*/site-packages/torch")
        stand_in_for_cuda(torch / "lib")
        run(python, "-c", "import torch; print('torch', torch.__version__)")
        run(pytest, "--quiet", "-p", "no:cacheprovider", "tests/test_smoke.py")


if __name__ == "__main__":
    for version in sys.argv[2:]:
        smoke(Path(sys.argv[1]).resolve(), version)
