"""What the documentation shows runs as it stands."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import recis

README = Path(__file__).parent.parent / "README.md"
MODULES = ["recis"] + [
    module.name
    for module in pkgutil.walk_packages(recis.__path__, "recis.")
    if module.name != "recis._engine"
]
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


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


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_python_of_the_readme_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it makes files
    exec(compile(block, str(README), "exec"), {})


def test_the_readme_has_python():
    assert BLOCKS


def test_links_between_documents_lead_somewhere():
    for document in [README, *README.parent.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
