"""The floor plan: includes and imports point down, never up.

base <- device <- hot, cold <- store <- table <- snapshot <- bind <- recis <- tools
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RANK = {
    "base": 0,
    "device": 1,
    "hot": 2,
    "cold": 2,
    "store": 3,
    "table": 4,
    "snapshot": 5,
    "bind": 6,
}
ABOVE_THE_PACKAGE = {"tools", "recis_ckpt", "tests", "benchmarks", "examples"}

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
PYTHON = re.compile(r"pybind11/|Python\.h$")
TORCH = re.compile(r"(torch|ATen|c10|caffe2)/")


def includes(engine: Path) -> list[tuple[Path, str]]:
    """Every (file below engine/, what it includes)."""
    files = sorted(p for p in engine.rglob("*") if p.suffix in {".h", ".cc", ".cu", ".cuh"})
    return [
        (file.relative_to(engine), target)
        for file in files
        for target in INCLUDE.findall(file.read_text(encoding="utf-8"))
    ]


def upward_includes(engine: Path) -> list[str]:
    """Includes of a room that is not below the including one."""
    return [
        f"{file} must not include {target}"
        for file, target in includes(engine)
        for here, there in [(file.parts[0], Path(target).parts[0])]
        if there in RANK and there != here and RANK[there] >= RANK[here]
    ]


def stray_includes(engine: Path) -> list[str]:
    """Includes of Python outside bind, and of torch anywhere."""
    return [
        f"{file} must not include {target}"
        for file, target in includes(engine)
        if TORCH.match(target) or (PYTHON.match(target) and file.parts[0] != "bind")
    ]


def upward_imports(package: Path) -> list[str]:
    """Imports of what stands on the package."""
    found = []
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            found += [
                f"{file.relative_to(package.parent)} must not import {name}"
                for name in names
                if name.split(".")[0] in ABOVE_THE_PACKAGE
            ]
    return found


def test_every_room_has_its_place():
    rooms = {file.parts[0] for file, _ in includes(ROOT / "engine")}
    assert rooms <= RANK.keys()


def test_engine_includes_point_down():
    assert upward_includes(ROOT / "engine") == []


def test_only_bind_knows_python_and_nobody_knows_torch():
    assert stray_includes(ROOT / "engine") == []


def test_the_package_imports_nothing_that_stands_on_it():
    assert upward_imports(ROOT / "recis") == []


@pytest.mark.parametrize(
    ("check", "path", "line"),
    [
        (upward_includes, "hot/arena.h", '#include "table/index.h"'),
        (upward_includes, "hot/arena.h", '#  include "cold/log.h"'),
        (stray_includes, "table/index.cc", "#include <pybind11/pybind11.h>"),
        (stray_includes, "base/dtype.h", "#include <Python.h>"),
        (stray_includes, "bind/module.cc", "#include <torch/extension.h>"),
        (upward_imports, "nn/table.py", "def f():\n    from tools.ckpt import main"),
        (upward_imports, "nn/table.py", "import tests.conftest"),
    ],
)
def test_a_planted_arrow_is_found(tmp_path, check, path, line):
    file = tmp_path / path
    file.parent.mkdir()
    file.write_text(line)
    assert len(check(tmp_path)) == 1


@pytest.mark.parametrize(
    ("check", "path", "line"),
    [
        (upward_includes, "table/index.cc", '#include "hot/arena.h"\n#include "table/index.h"'),
        (stray_includes, "bind/module.cc", "#include <pybind11/pybind11.h>"),
        (upward_imports, "nn/table.py", "import torch\nfrom . import tools"),
    ],
)
def test_an_arrow_that_points_down_is_let_be(tmp_path, check, path, line):
    file = tmp_path / path
    file.parent.mkdir()
    file.write_text(line)
    assert check(tmp_path) == []
