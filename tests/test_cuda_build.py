"""What RECIS_CUDA makes of a machine: `engine/cuda.cmake` in a project of its own; the wheels."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ENGINE = Path(__file__).parent.parent / "engine"
FETCH = ENGINE / "fetch_cuda.py"

needs_cmake = pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not installed")


@pytest.fixture
def configure(tmp_path):
    """`configure(RECIS_CUDA=...)` configures where there is a C++ compiler and no nvcc."""
    (tmp_path / "bin").mkdir()
    for tool in ("c++", "make", "ld", "as", "ar", "ranlib", "uname", "sh"):
        if found := shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(found)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\nproject(p LANGUAGES CXX)\n"
        f'include({ENGINE / "cuda.cmake"})\nmessage(STATUS "with CUDA: ${{RECIS_HAS_CUDA}}")\n'
    )

    def run(**settings):
        command = [shutil.which("cmake"), "-S", tmp_path, "-B", tmp_path / "build"]
        command += ["-G", "Unix Makefiles"]
        command += [f"-D{name}={value}" for name, value in settings.items()]
        environment = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


@needs_cmake
def test_without_nvcc_the_build_goes_on_and_says_so(configure):
    done = configure()
    assert done.returncode == 0, done.stderr
    assert "Building without CUDA: no nvcc of CUDA 12.8 or newer" in done.stdout
    assert "with CUDA: OFF" in done.stdout


@needs_cmake
def test_who_insists_on_cuda_is_told_that_there_is_no_nvcc(configure):
    done = configure(RECIS_CUDA="ON")
    assert done.returncode != 0
    for word in ("RECIS_CUDA=ON", "no nvcc", "12.8", "PIP", "OFF"):
        assert word in done.stderr


@needs_cmake
@pytest.mark.parametrize("settings", [{"RECIS_CUDA": "OFF"}, {"RECIS_SANITIZE": "thread"}])
def test_nobody_looks_for_nvcc_where_it_is_not_wanted(configure, settings):
    done = configure(**settings)
    assert "CUDA compiler" not in done.stdout
    assert "with CUDA: OFF" in done.stdout


def fetch(directory, **environment):
    return subprocess.run(
        [sys.executable, str(FETCH), str(directory)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_cmake_and_nvcc_link_with_is_where_they_look(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("fetch_cuda", FETCH)
    fetch_cuda = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fetch_cuda)

    def install(target):  # what the wheels have
        (target / "nvidia/cu13/lib").mkdir(parents=True)
        (target / "nvidia/cu13/lib/libcudart.so.13").write_bytes(b"the runtime")

    monkeypatch.setattr(fetch_cuda, "install", install)
    nvcc = fetch_cuda.fetch(tmp_path)
    for folder in ("lib", "lib64"):
        assert (nvcc.parent.parent / folder / "libcudart.so").read_bytes() == b"the runtime"
    assert fetch_cuda.fetch(tmp_path) == nvcc


def test_a_changed_wheel_is_refused(tmp_path):
    pins = (ENGINE / "cuda_toolkit.txt").read_text()
    for name, version in re.findall(r"^(\S+)==(\S+)", pins, re.MULTILINE):
        wheel = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        (tmp_path / wheel).write_bytes(b"not what was pinned")
    done = fetch(tmp_path / "build", RECIS_SOURCES_DIR=str(tmp_path))
    assert done.returncode != 0
    assert "hash" in done.stderr.lower()
    assert not list(tmp_path.glob("build/*"))


def test_without_an_index_the_message_says_what_to_do(tmp_path):
    done = fetch(tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert done.returncode != 0
    assert "RECIS_SOURCES_DIR" in done.stderr
    assert "RECIS_CUDA=OFF" in done.stderr
