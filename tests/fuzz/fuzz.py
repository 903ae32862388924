"""Looks for inputs that do harm: `make fuzz`. What is found belongs into the corpus.

python tests/fuzz/fuzz.py TARGET [arguments of libFuzzer]; new inputs go into the first directory.
"""

import sys

import atheris

with atheris.instrument_imports(include=["recis.snapshot", "recis._state", "targets", "json"]):
    from targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
