"""What a table on a GPU says where there is none, and what CUDA costs those who have no GPU."""

import os
import shutil
import subprocess
import sys

import pytest

import recis

# A driver that starts up and finds what it is told to: nothing.
DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return 100; }  // CUDA_ERROR_NO_DEVICE
int cuDriverGetVersion(int* version) { *version = VERSION; return 0; }
int cuGetProcAddress_v2(const char* name, void** out, int version, unsigned long flags, int* how) {
  *out = !strcmp(name, "cuInit") ? (void*)cuInit
       : !strcmp(name, "cuDriverGetVersion") ? (void*)cuDriverGetVersion
       : !strcmp(name, "cuGetProcAddress") ? (void*)cuGetProcAddress_v2 : 0;
  if (how) *how = *out == 0;
  return *out ? 0 : 500;
}
"""
MAKE_TABLE = """
from recis.nn import HashTable
try:
    HashTable([4], name="users", device="cuda:0")
except RuntimeError as error:
    print(error)
"""
needs_cuda_build = pytest.mark.skipif(not recis.build_info()["cuda"], reason="built without CUDA")
needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")


@pytest.fixture
def message_under_driver(tmp_path):
    """What making a table on the GPU says under a driver of this version; 0 is no driver at all."""

    def message(version, **environment):
        if version:
            command = ["cc", "-w", "-shared", "-fPIC", "-x", "c", "-", f"-DVERSION={version}"]
            command += ["-o", str(tmp_path / "libcuda.so.1")]
        else:  # a file that is no library hides the machine's own driver
            (tmp_path / "libcuda.so.1").write_text("")
            command = ["true"]
        subprocess.run(command, input=DRIVER, text=True, check=True)
        done = subprocess.run(
            [sys.executable, "-c", MAKE_TABLE],
            cwd=tmp_path,  # not the checkout, whose recis is not built
            env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    return message


def assert_says(message, *words):
    for word in ("table 'users'", "device 'cuda:0' is not available", "device='cpu'", *words):
        assert word in message


@needs_cuda_build
def test_a_machine_without_a_driver_is_told_so(message_under_driver):
    assert_says(message_under_driver(0), "no NVIDIA driver", "--gpus=all")


@needs_cc
@needs_cuda_build
def test_a_driver_without_a_gpu_is_told_so(message_under_driver):
    message = message_under_driver(20000, CUDA_VISIBLE_DEVICES="")
    assert_says(message, "no GPU", "nvidia-smi", "CUDA_VISIBLE_DEVICES is ''")


@needs_cc
@needs_cuda_build
def test_a_driver_that_is_too_old_is_told_so(message_under_driver):
    message = message_under_driver(12040)
    assert_says(message, "CUDA up to 12.4", recis.build_info()["cuda"], "Update the driver")


@pytest.mark.skipif(bool(recis.build_info()["cuda"]), reason="built with CUDA")
def test_a_build_without_cuda_says_so(message_under_driver):
    assert_says(message_under_driver(0), "has no CUDA", "RECIS_CUDA=PIP")


def test_a_device_that_is_neither_cpu_nor_gpu_is_refused():
    with pytest.raises(RuntimeError, match="'meta' is not available"):
        recis.nn.HashTable([4], name="users", device="meta")
