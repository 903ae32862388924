"""What the documentation shows runs as it stands."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import recis
from recis.snapshot.manifest import FileInfo, Manifest, SlotInfo, TableInfo

README = Path(__file__).parent.parent / "README.md"
MODULES = ["recis"] + [
    module.name
    for module in pkgutil.walk_packages(recis.__path__, "recis.")
    if module.name != "recis._engine"
]
BLOCKS = [
    pytest.param(block, id=f"{document.name}-{number}")
    for document in [README, README.parent / "docs" / "operators.md"]
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    )
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings_run(name):
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs={"torch": importlib.import_module("torch")})
    assert results.failed == 0


def test_there_are_examples():
    tried = sum(len(test.examples) for name in MODULES for test in found(name))
    assert tried > 10


def found(name):
    return doctest.DocTestFinder().find(importlib.import_module(name))


@pytest.mark.parametrize("block", BLOCKS)
def test_the_python_of_documents_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it makes files
    exec(compile(block, "a block of a document", "exec"), {})


def test_documents_have_python():
    assert len(BLOCKS) > 3


def test_the_arithmetic_of_many_workers_holds():
    results = doctest.testfile(str(README.parent / "docs" / "workers.md"), module_relative=False)
    assert results.failed == 0 and results.attempted > 20


def test_what_a_file_takes_of_a_manifest():
    """docs/workers.md counts with it."""
    sums = dict.fromkeys(["ids", "slice_offsets", "checksums", "slot/a", "slot/b", "slot/c"], "")
    slots = tuple(SlotInfo(name, "F32", (64,), 0.0) for name in "abc")

    def values(files):
        infos = tuple(FileInfo("", 1, "rows", 0, k, files, 0, k, k, sums) for k in range(files))
        table = TableInfo(slots=slots, slice_size=65536, rows=0, files=infos)
        text = Manifest(step=1, tables={"t": table}).to_bytes()
        return sum(text.count(mark) for mark in b",:[{")  # as strict_json counts them

    assert values(102) - values(2) == 100 * 33


def test_links_between_documents_lead_somewhere():
    for document in [README, *README.parent.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
