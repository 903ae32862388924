"""Breaks the sources one place at a time and says which tests notice.

Run by hand, from anywhere: `python tests/mutants/run.py [list [word]]` tries the mutants of a list,
engine, races, snapshots or workers, whose text contains the word; default, all. Each is a file of
engine/ or of recis/, a text that stands in it once, and what it becomes; "\\n" stands for the end
of a line. Those of recis/ need the package built with `make build`. It ends with the number that
no test noticed.
"""

import importlib.util
import os
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
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{folder / 'tools'}"}
    return subprocess.run(
        command.split(), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


class Engine:
    """The sources of engine.txt: all C++ tests."""

    sources = "engine"
    options = ""
    tests = "build/engine_tests"

    def prepare(self, folder: Path) -> None:
        shutil.copytree(ROOT / "engine", folder / "engine")
        shutil.copy(ROOT / "pyproject.toml", folder)
        run(f"{CONFIGURE} {self.options}", folder)

    def verdict(self, folder: Path) -> str:
        """The tests that fail; empty if all pass."""
        built = run("cmake --build build", folder)
        if built.returncode != 0:
            raise RuntimeError(built.stdout)
        tests = run(self.tests, folder)
        told = r"^(?:FAILED|TOO SLOW) (\S+)|^WARNING: ThreadSanitizer: (data race)"
        output = tests.stdout + tests.stderr
        found = ["".join(each) for each in re.findall(told, output, re.MULTILINE)]
        crash = [f"killed by signal {-tests.returncode}"] if tests.returncode < 0 else []
        return ", ".join([*dict.fromkeys(found), *crash])


class Races(Engine):
    """The sources of races.txt: the tests of device algorithms, under ThreadSanitizer."""

    options = "-DRECIS_SANITIZE=thread"
    tests = "setarch -R build/engine_tests device_"


class Package:
    """The sources of a list in Python: some tests, up to the first that fails."""

    sources = "recis"

    def __init__(self, *tests: str) -> None:
        self._tests = " ".join(f"tests/{test}" for test in tests)

    def prepare(self, folder: Path) -> None:
        for name in ("recis", "tools", "tests"):
            shutil.copytree(ROOT / name, folder / name)
        shutil.copy(ROOT / "pyproject.toml", folder)
        engine = importlib.util.find_spec("recis._engine")
        assert engine is not None and engine.origin is not None
        shutil.copy(engine.origin, folder / "recis")

    def verdict(self, folder: Path) -> str:
        """The test that fails; empty if all pass."""
        command = f"{sys.executable} -m pytest -q -x -p no:cacheprovider {self._tests}"
        tests = run(command, folder)
        found = re.findall(r"^(?:FAILED|ERROR) (\S+)", tests.stdout, re.MULTILINE)
        if tests.returncode not in (0, 1):
            raise RuntimeError(tests.stdout + tests.stderr)
        return ", ".join(found)


SUITES = {
    "engine.txt": Engine(),
    "races.txt": Races(),
    "snapshots.txt": Package(
        *(f"snapshots/test_{name}.py" for name in ("publish", "read", "verify")), "crash", "ckpt"
    ),
    "workers.txt": Package(
        *(f"test_{name}.py" for name in ("slices", "ragged", "embedding", "common_epoch")),
        *(f"distributed/test_{name}.py" for name in ("workers", "disagreement", "schedules")),
        "distributed",
    ),
}  # fmt: skip
Mutant = tuple[str, str, str]


def mutants_of(name: str) -> list[Mutant]:
    """File, what stands in it, what it becomes."""
    return MUTANT.findall((HERE / name).read_text())


def mutated(source: str, mutant: Mutant) -> str:
    """The source of its file as a mutant has it."""
    name, before, after = (text.replace("\\n", "\n") for text in mutant)
    assert source.count(before) == 1, f"{name}: {before!r} must stand there once"
    return source.replace(before, after)


def main(list_name: str = "", word: str = "") -> int:
    survivors = 0
    for name, suite in SUITES.items():
        if not name.startswith(list_name):
            continue
        chosen = [mutant for mutant in mutants_of(name) if word in " ".join(mutant)]
        if chosen:
            survivors += tried(suite, chosen)
    print(f"{survivors} survived")
    return survivors != 0


def tried(suite: Engine | Package, mutants: list[Mutant]) -> int:
    """How many of these no test noticed."""
    survivors = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        suite.prepare(folder)
        assert suite.verdict(folder) == "", "the tests must pass first"
        for mutant in mutants:
            name, before, after = mutant
            file = folder / suite.sources / name
            source = file.read_text()
            file.write_text(mutated(source, mutant))
            noticed = suite.verdict(folder)
            file.write_text(source)
            survivors += not noticed
            print(f"{name}: {before} => {after}\n    {noticed or 'SURVIVED'}", flush=True)
    return survivors


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
