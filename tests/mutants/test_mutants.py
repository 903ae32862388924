"""The mutants fit the sources; `run.py` tries them."""

import pytest

from .run import ROOT, SUITES, mutants_of, mutated


@pytest.mark.parametrize("name", SUITES)
def test_each_mutant_changes_one_place(name):
    mutants = mutants_of(name)
    assert len(mutants) > 10
    for mutant in mutants:
        source = (ROOT / SUITES[name].sources / mutant[0]).read_text()
        assert mutated(source, mutant) != source
