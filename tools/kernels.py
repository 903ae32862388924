"""What does each kernel take of an H100? `tools/kernels.py build/unit/compile_commands.json`.

Compiles the *.cu files named there once more, and prints for each kernel the registers, bytes of
stack and of shared memory, bytes spilled, and the share of the threads that can be at work at
once. Where cuobjdump is, the machine code is looked at too: for loads past the first cache and for
instructions that empty it. Ends with 1 if a kernel spills, or empties that cache. `make kernels`.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Of a multiprocessor of compute capability 9.0: CUDA C++ Programming Guide, "Compute Capabilities".
WARPS, BLOCKS, REGISTERS, SHARED_BYTES = 64, 32, 65_536, 228 << 10
REGISTERS_TOGETHER, WARPS_TOGETHER, SHARED_OF_SYSTEM = 256, 4, 1 << 10

ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for 'sm_90'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads\n.*?Used (?P<registers>\d+) registers(?P<rest>.*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Kernel:
    """A kernel as ptxas compiled it."""

    name: str
    registers: int
    stack: int
    spilled: int
    shared: int


def kernels(ptxas: str) -> Iterator[Kernel]:
    """The kernels that `-Xptxas -v` tells of, by their mangled names."""
    for part in re.split(r"(?=ptxas info\s+: Compiling entry)", ptxas):
        if found := ENTRY.search(part):
            shared = re.search(r"(\d+) bytes smem", found["rest"])
            yield Kernel(
                name=found["name"],
                registers=int(found["registers"]),
                stack=int(found["stack"]),
                spilled=int(found["stores"]) + int(found["loads"]),
                shared=int(shared[1]) if shared else 0,
            )


def occupancy(kernel: Kernel, threads: int) -> float:
    """The share of a multiprocessor's warps that blocks of so many threads can fill."""
    warps = -(-threads // 32)
    each = -(-kernel.registers * 32 // REGISTERS_TOGETHER) * REGISTERS_TOGETHER
    by_registers = REGISTERS // each // WARPS_TOGETHER * WARPS_TOGETHER // warps
    by_shared = SHARED_BYTES // (kernel.shared + SHARED_OF_SYSTEM)
    return min(by_registers, by_shared, BLOCKS, WARPS // warps) * warps / WARPS


def instructions(sass: str) -> dict[str, str]:
    """The machine code of each kernel, as `cuobjdump -sass` prints it."""
    parts = re.split(r"^\s*Function : (\S+)$", sass, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def readable(names: list[str]) -> list[str]:
    """Names as in the source: `ReadRows, 16 lanes` for a pass of ours."""
    done = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    return [_short(name) for name in done.stdout.splitlines()]


def _short(name: str) -> str:
    name = name.replace("(anonymous namespace)::", "")
    if found := re.match(r"void recis::Pass<(\d+), recis::(.*?) ?>\(long", name):
        lanes = "1 lane" if found[1] == "1" else f"{found[1]} lanes"
        return f"{found[2].replace('recis::', '')}, {lanes}"
    # Of a library: what its arguments are fills lines.
    return re.sub(r"^void |<.*|\(.*", "", name).rpartition("::")[2]


def compile_again(commands: Path, folder: Path) -> tuple[str, str | None]:
    """What ptxas says of all *.cu files, and their machine code if cuobjdump is there."""
    said, sass = "", ""
    look = shutil.which("cuobjdump") and shutil.which("nvdisasm")
    for entry in json.loads(commands.read_text()):
        if not entry["file"].endswith(".cu"):
            continue
        words = shlex.split(entry["command"])
        words[words.index("-o") + 1] = str(folder / "kernels.o")
        done = subprocess.run(
            [*words, "-Xptxas=-v"], cwd=entry["directory"], capture_output=True, text=True
        )
        if done.returncode != 0:
            sys.exit(f"{entry['file']} does not compile:\n{done.stderr}")
        said += done.stderr
        if look:
            command = ["cuobjdump", "-arch", "sm_90", "-sass", str(folder / "kernels.o")]
            sass += subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return said, sass if look else None


def pass_threads() -> int:
    """Threads of a block of our passes."""
    source = (ROOT / "engine" / "device" / "executor_cuda.cuh").read_text()
    (threads,) = re.findall(r"kPassThreads = (\d+);", source)
    return int(threads)


def table(found: list[Kernel], threads: int, sass: str | None) -> tuple[str, list[str]]:
    """The kernels as Markdown, and what is wrong with them."""
    codes = instructions(sass or "")
    lines = ["| kernel | registers | stack | spilled | shared | threads at once | loads past L1 |"]
    lines += ["|---|---|---|---|---|---|---|"]
    wrong = []
    for kernel, name in zip(found, readable([each.name for each in found]), strict=True):
        code = codes.get(kernel.name, "")
        ours = kernel.name.startswith("_ZN5recis")
        share = f"{occupancy(kernel, threads):.0%}" if ours else ""
        past = str(len(re.findall(r"\bLDG?\.E\S*\.STRONG", code))) if sass is not None else "?"
        cells = [name, kernel.registers, kernel.stack, kernel.spilled, kernel.shared, share, past]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        if kernel.spilled:
            wrong.append(f"{name} spills {kernel.spilled} bytes")
        if "CCTL.IVALL" in code:
            wrong.append(f"{name} empties the first cache (CCTL.IVALL)")
    return "\n".join(lines), wrong


def main(commands: str) -> int:
    """Prints the table; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        said, sass = compile_again(Path(commands), Path(folder))
    text, wrong = table(sorted(kernels(said), key=lambda each: each.name), pass_threads(), sass)
    print(text)
    for line in wrong:
        print(f"kernels: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
