"""Breaks the engine one line at a time and says which tests notice.

Run by hand, from anywhere: `python tests/mutants/run.py [word]` tries the mutants of mutants.txt
whose text contains the word. Each is a file of engine/, a text that stands in it once, and what
it becomes. It ends with the number that no test noticed.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MUTANT = re.compile(r"^(\S+)\n +(.+)\n +(.+)\n", re.MULTILINE)
CONFIGURE = (
    "cmake -S engine -B build -G Ninja -DRECIS_BUILD_PYTHON=OFF -DRECIS_BUILD_TESTS=ON "
    "-DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=-O1"
)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command.split(), cwd=folder, capture_output=True, text=True, check=False)


def verdict(folder: Path) -> str:
    """The tests that fail; empty if all pass."""
    built = run("cmake --build build", folder)
    if built.returncode != 0:
        raise RuntimeError(built.stdout)
    tests = run("build/engine_tests", folder)
    found = re.findall(r"^(?:FAILED|TOO SLOW) (\S+)", tests.stdout + tests.stderr, re.MULTILINE)
    crash = [f"killed by signal {-tests.returncode}"] if tests.returncode < 0 else []
    return ", ".join([*dict.fromkeys(found), *crash])


def main(word: str) -> int:
    survivors = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(ROOT / "engine", folder / "engine")
        shutil.copy(ROOT / "pyproject.toml", folder)
        run(CONFIGURE, folder)
        assert verdict(folder) == "", "the tests must pass first"
        for name, before, after in MUTANT.findall((HERE / "mutants.txt").read_text()):
            if word not in f"{name} {before} {after}":
                continue
            file = folder / "engine" / name
            source = file.read_text()
            assert source.count(before) == 1, f"{name}: {before!r} must stand there once"
            file.write_text(source.replace(before, after))
            noticed = verdict(folder)
            file.write_text(source)
            survivors += not noticed
            print(f"{name}: {before} => {after}\n    {noticed or 'SURVIVED'}", flush=True)
    print(f"{survivors} survived")
    return survivors != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
