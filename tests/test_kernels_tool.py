"""The table of kernels, from what ptxas and cuobjdump print."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "kernels", Path(__file__).parent.parent / "tools" / "kernels.py"
)
kernels = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = kernels
spec.loader.exec_module(kernels)

READ, SORT = "_ZN5recis4PassILi16ENS_8ReadRowsEEEvlT0_", "_ZN3cub4SortIiEEvT_"
PTXAS = f"""\
ptxas info    : Compiling entry function '{READ}' for 'sm_80'
ptxas info    : Function properties for {READ}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 41 registers, 400 bytes cmem[0]
ptxas info    : 6 bytes gmem
ptxas info    : Compiling entry function '{SORT}' for 'sm_90'
ptxas info    : Function properties for {SORT}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 80 registers, used 1 barriers, 28160 bytes smem, 400 bytes cmem[0]
ptxas info    : Compile time = 1.0 ms
ptxas info    : Compiling entry function '{READ}' for 'sm_90'
ptxas info    : Function properties for {READ}
    96 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, 400 bytes cmem[0]
"""
SASS = f"""
\t\tFunction : {READ}
        /*0010*/  LD.E.U16.STRONG.GPU R2, desc[UR4][R2.64] ;
        /*0020*/  LDG.E.64 R4, desc[UR4][R4.64] ;
{{more}}
\t\tFunction : {SORT}
        /*0010*/  LDG.E R2, desc[UR4][R2.64] ;
"""
needs_cxxfilt = pytest.mark.skipif(not shutil.which("c++filt"), reason="no c++filt (binutils)")


def test_what_ptxas_says_of_each_kernel_is_read():
    sort, read = kernels.kernels(PTXAS)
    assert sort == kernels.Kernel(SORT, registers=80, stack=0, spilled=0, shared=28160)
    assert read == kernels.Kernel(READ, registers=40, stack=96, spilled=12, shared=0)


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "share"),
    [
        (32, 0, 256, 1.0),
        (33, 0, 256, 0.75),  # 40 registers are allocated: 6 blocks of 8 warps
        (64, 0, 256, 0.5),
        (255, 0, 256, 0.125),
        (32, 100 << 10, 256, 0.25),  # two blocks share the memory
        (16, 0, 32, 0.5),  # 32 blocks at most
    ],
)
def test_occupancy_has_the_limits_of_registers_memory_and_blocks(registers, shared, threads, share):
    kernel = kernels.Kernel("k", registers, 0, 0, shared)
    assert kernels.occupancy(kernel, threads) == share


@needs_cxxfilt
def test_kernels_that_spill_or_empty_the_cache_are_named():
    found = list(kernels.kernels(PTXAS))
    text, wrong = kernels.table(found, 256, SASS.format(more=""))
    assert "| ReadRows, 16 lanes | 40 | 96 | 12 | 0 | 75% | 1 |" in text
    assert "| Sort | 80 | 0 | 0 | 28160 |  | 0 |" in text
    assert wrong == ["ReadRows, 16 lanes spills 12 bytes"]
    _, wrong = kernels.table(found[1:], 256, SASS.format(more="        /*0030*/  CCTL.IVALL ;"))
    assert wrong[1:] == ["ReadRows, 16 lanes empties the first cache (CCTL.IVALL)"]


@needs_cxxfilt
def test_without_cuobjdump_nothing_is_said_of_loads():
    text, _ = kernels.table(list(kernels.kernels(PTXAS)), 256, None)
    assert "| 75% | ? |" in text


def test_commands_are_run_again_for_ptxas(tmp_path, monkeypatch):
    compiler = tmp_path / "nvcc"
    compiler.write_text('#!/bin/sh\necho "$@" >"$0.log"\n')
    compiler.chmod(0o755)
    commands = [{"directory": str(tmp_path), "file": "a.cc", "command": "c++ -c a.cc -o a.o"}]
    commands += [{"directory": str(tmp_path), "file": "a.cu"}]
    commands[1]["command"] = f"{compiler} -O3 -x cu -c a.cu -o a.o"
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    said, sass = kernels.compile_again(tmp_path / "commands.json", tmp_path)
    assert (said, sass) == ("", None)
    logged = (tmp_path / "nvcc.log").read_text().split()
    assert logged == f"-O3 -x cu -c a.cu -o {tmp_path}/kernels.o -Xptxas=-v".split()


def test_a_file_that_does_not_compile_ends_it(tmp_path):
    command = {"directory": str(tmp_path), "file": "a.cu", "command": "false -c a.cu -o a.o"}
    (tmp_path / "commands.json").write_text(json.dumps([command]))
    with pytest.raises(SystemExit, match=r"a\.cu does not compile"):
        kernels.compile_again(tmp_path / "commands.json", tmp_path)
