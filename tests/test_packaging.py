"""What `pip install` leaves behind, and where the build gets what it does not carry."""

import importlib.metadata
import importlib.resources
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import recis._engine

ROOT = Path(__file__).parent.parent
MODULE = Path(recis._engine.__file__)
FETCH = ROOT / "engine" / "fetch_sources.py"

needs_nm = pytest.mark.skipif(not shutil.which("nm"), reason="nm (binutils) is not installed")


def symbols(*options: str) -> str:
    """The module's dynamic symbols as nm prints them, C++ names in the clear."""
    command = ["nm", "-D", "-C", *options, str(MODULE)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@needs_nm
def test_module_wants_nothing_of_libtorch():
    assert re.findall(r".*\b(?:c10|at|torch)::.*", symbols("--undefined-only")) == []


@needs_nm
def test_module_exports_its_entry_point_alone():
    """Another extension's LMDB or xxHash must not be bound to ours, nor ours to theirs."""
    assert re.findall(r" T (.+)", symbols("--defined-only")) == ["PyInit__engine"]
    assert re.findall(r".*\b(?:mdb_|XXH).*", symbols("--defined-only")) == []


@pytest.mark.skipif(not shutil.which("ldd"), reason="ldd is not installed")
def test_module_loads_without_a_library_of_cuda():
    done = subprocess.run(["ldd", str(MODULE)], check=True, capture_output=True, text=True)
    assert re.findall(r".*(?:cuda|nvidia|cudart).*", done.stdout) == []


def test_module_is_small():
    """Every architecture of the device code counts; a wheel is under 20 MB."""
    assert MODULE.stat().st_size < 20e6


def test_the_installed_package_is_the_one_under_test():
    assert ROOT / "recis" not in MODULE.parents


def test_package_says_that_it_is_typed():
    assert importlib.resources.files("recis").joinpath("py.typed").is_file()


def test_stub_matches_the_module(tmp_path):
    allowed = ROOT / "tests" / "stubtest_allowlist.txt"
    command = [sys.executable, "-m", "mypy.stubtest", "recis._engine"]
    command += ["--allowlist", str(allowed), "--ignore-unused-allowlist"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_version_number():
    pyproject = (ROOT / "pyproject.toml").read_text()
    (version,) = re.findall(r'^version = "(.+)"$', pyproject, re.MULTILINE)
    assert importlib.metadata.version("recis") == version
    assert recis.__version__ == version


def fetch(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FETCH), str(directory), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_changed_archive_is_refused(tmp_path):
    pins = FETCH.with_name("third_party.txt").read_text()
    (version,) = re.findall(r"^lmdb==(\S+)", pins, re.MULTILINE)
    (tmp_path / f"lmdb-{version}.tar.gz").write_bytes(b"not what was pinned")
    done = fetch(tmp_path / "build", "lmdb", "LICENSE", RECIS_SOURCES_DIR=str(tmp_path))
    assert done.returncode != 0
    assert "sha256" in done.stderr
    assert not (tmp_path / "build").exists()


def test_without_an_index_the_message_says_what_to_do(tmp_path):
    done = fetch(tmp_path, "lmdb", "LICENSE", PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert done.returncode != 0
    assert "RECIS_SOURCES_DIR" in done.stderr
    assert "RECIS_SYSTEM_LMDB" in done.stderr
