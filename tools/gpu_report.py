"""What does recis do on this machine's GPU? `python tools/gpu_report.py` writes one report.

Builds the package and the C++ tests, runs the tests that are marked `cuda`, runs the
C++ tests of devices under compute-sanitizer, and measures beside torch and FBGEMM. Everything lies
in build/gpu-report, the report in report.md there. Takes ten minutes at most: a step that the time
is up for is not run, and the report says so. Ends with 0 if nothing failed and all was run, with 1
if not, and with 2 where there is no GPU.

The Python that runs this has torch and what builds and tests recis (scikit-build-core, pybind11,
cmake, ninja, pytest, pytest-timeout, hypothesis); nothing is installed into it. Without a network,
bring the C sources: `python engine/fetch_sources.py DIR` on another machine, RECIS_SOURCES_DIR=DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
ASK_GPU = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap"]
ASK_GPU += ["--format=csv,noheader", "--id=0"]
# Of the C++ tests, those that a GPU takes part in.
DEVICE_TESTS = ("space.", "AGpu")
BENCHES = ("engine.json", "bench.json")
SITE = "site"  # where the package is installed, below the folder of the report

PASSED, FAILED, NOT_RUN = "passed", "FAILED", "NOT RUN"


class NoGpu(Exception):
    """There is no GPU to report on; the message says how that is known."""


@dataclass(frozen=True)
class Result:
    """What came of a step."""

    verdict: str
    said: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Step:
    """A command, the seconds it may take, and what its output means."""

    name: str
    command: Sequence[str | Path]
    seconds: float
    judge: Callable[[int, str], Result]
    tool: str = ""
    """Without this program on the PATH the step is not run."""
    after: str = ""
    """Without this step's success, neither."""


def judge_exit(status: int, output: str) -> Result:
    """A step that says it all by its exit status."""
    last = output.strip().splitlines()[-1:] or [""]
    return Result(PASSED, "") if status == 0 else Result(FAILED, f"exit status {status}: {last[0]}")


def judge_engine_tests(status: int, output: str) -> Result:
    """A run of engine_tests: the tests that failed, or how many passed."""
    found = re.findall(r"^(?:FAILED|TOO SLOW) .*|^\d+ passed, \d+ failed", output, re.MULTILINE)
    said = "; ".join(found)
    return Result(PASSED, said) if status == 0 and found else Result(FAILED, said or f"{status}")


def judge_sanitizer(status: int, output: str) -> Result:
    """A run of compute-sanitizer: its summary counts, whatever the program under it says."""
    summaries = re.findall(r"= (?:ERROR|RACECHECK) SUMMARY: (.*)", output)
    if not summaries:
        return Result(FAILED, f"no summary, exit status {status}")
    clean = all(re.match(r"0 (errors|hazards)", summary) for summary in summaries)
    tests = judge_engine_tests(status, output)
    said = "; ".join([*summaries, tests.said])
    return Result(tests.verdict if clean else FAILED, said)


def judge_pytest(junit: Path) -> Callable[[int, str], Result]:
    """A run of pytest, from its XML: files that miss a package are named, and fail nothing."""

    def judge(status: int, _output: str) -> Result:
        if status == 5:
            return Result(FAILED, "no test is marked cuda")
        if not junit.is_file():
            return Result(FAILED, f"exit status {status} without a result")
        counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
        failed, uncollected = [], []
        for case in ElementTree.parse(junit).iter("testcase"):
            name = f"{case.get('classname')}::{case.get('name')}".lstrip(":")
            error = case.find("error")
            if error is not None and error.get("message") == "collection failure":
                uncollected.append(name)
            elif error is not None or case.find("failure") is not None:
                failed.append(name)
            else:
                counts["skipped" if case.find("skipped") is not None else "passed"] += 1
        counts["failed"] = len(failed)
        said = ", ".join(f"{count} {what}" for what, count in counts.items())
        said += "".join(f"; {name} failed" for name in failed[:20])
        said += "".join(f"; {name} could not be collected" for name in uncollected)
        return Result(PASSED if counts["passed"] and not failed else FAILED, said)

    return judge


def steps(work: Path) -> list[Step]:
    """All that is run, in this order: what matters most comes before the time is up."""
    python, unit, junit = sys.executable, work / "unit", work / "pytest.xml"
    engine_tests = unit / "engine_tests"
    install = _words(
        f"-m pip install --quiet --no-deps --no-build-isolation --upgrade --target {SITE}",
        "--config-settings=cmake.define.RECIS_CUDA=ON",
    )
    pytest = _words(
        "-m pytest -q -m cuda --continue-on-collection-errors -p no:cacheprovider",
        *(f"--rootdir={ROOT}", f"--config-file={ROOT}/pyproject.toml", f"--junit-xml={junit}"),
    )
    gpu = ROOT / "benchmarks" / "gpu.py"
    bench = [python, gpu, *_words("--quiet 1 --json"), work / BENCHES[1]]
    configure = _words(
        "-G Ninja -DRECIS_CUDA=ON -DRECIS_BUILD_PYTHON=OFF -DRECIS_BUILD_TESTS=ON",
        *(f"-DPython_EXECUTABLE={python}", "-S", ROOT / "engine", "-B", unit),
    )
    targets = _words("--target engine_tests device_table_bench")
    compile_tests = [*_words("cmake --build"), unit, *targets]
    engine_bench = [unit / "device_table_bench", work / BENCHES[0]]
    listed = [
        Step("build", [python, *install, ROOT], 180, judge_exit, tool="nvcc"),
        Step("tests", [python, *pytest, ROOT / "tests"], 240, judge_pytest(junit), after="build"),
        Step("benchmark", bench, 120, judge_exit, after="build"),
        Step("configure", ["cmake", *configure], 60, judge_exit, tool="nvcc"),
        Step("compile", compile_tests, 180, judge_exit, after="configure"),
        Step("engine benchmark", engine_bench, 90, judge_exit, after="compile"),
    ]
    for name in DEVICE_TESTS:
        listed += [
            Step(f"C++ tests {name}", [engine_tests, name], 60, judge_engine_tests, after="compile")
        ]
    tool = "compute-sanitizer"
    for check in ("memcheck", "racecheck"):
        for name in DEVICE_TESTS:
            command = _words(f"{tool} --tool {check}", engine_tests, name)
            what = f"{check} {name}"
            listed += [Step(what, command, 150, judge_sanitizer, tool=tool, after="compile")]
    return listed


def _words(text: str, *more: str | Path) -> list[str | Path]:
    return [*text.split(), *more]


def run(step: Step, left_s: float, done: dict[str, Result], work: Path) -> Result:
    """Runs a step in `work`, its output in a file there, unless something stands against it."""
    if step.tool and not shutil.which(step.tool):
        return Result(NOT_RUN, f"{step.tool} is not on the PATH")
    if step.after and done[step.after].verdict != PASSED:
        return Result(NOT_RUN, f"needs the step {step.after!r}")
    if left_s < 1:
        return Result(NOT_RUN, "the time was up")
    log = work / (re.sub(r"\W+", "-", step.name).strip("-") + ".log")
    start = time.monotonic()
    # pytest and the benchmark import what was built, not the checkout: `work` is where they run.
    env = {**os.environ, "PYTHONPATH": str(work / SITE), "PYTHONUNBUFFERED": "1"}
    limit = min(step.seconds, left_s)
    with log.open("w") as out:
        try:
            process = subprocess.Popen(
                [str(word) for word in step.command],
                cwd=work,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return Result(FAILED, str(error))
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started
            process.wait()
            return Result(FAILED, f"not done in {limit:.0f} s", limit)
    result = step.judge(status, log.read_text(errors="replace"))
    return Result(result.verdict, result.said, time.monotonic() - start)


def gpu() -> str:
    """The GPU as nvidia-smi names it: name, driver, memory, compute capability."""
    try:
        done = subprocess.run(ASK_GPU, capture_output=True, text=True, check=False)
    except OSError:
        raise NoGpu("nvidia-smi is not installed, so there is no NVIDIA driver") from None
    if done.returncode != 0 or not done.stdout.strip():
        raise NoGpu((done.stdout + done.stderr).strip() or "nvidia-smi names none")
    return done.stdout.strip()


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of the same columns as Markdown."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[str(row.get(column, "")).replace("|", "/") for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def markdown(machine: dict[str, str], results: dict[str, Result], work: Path) -> str:
    """The report."""
    parts = ["# recis on a GPU\n", table([{"what": k, "is": v} for k, v in machine.items()])]
    rows = [
        {"step": name, "verdict": r.verdict, "seconds": f"{r.seconds:.0f}", "it said": r.said}
        for name, r in results.items()
    ]
    parts += ["## Steps\n", table(rows), "## Benchmarks\n"]
    benches = [work / name for name in BENCHES if (work / name).is_file()]
    for bench in benches:
        figures = json.loads(bench.read_text())
        parts += [figures["setting"] + "\n"]
        for name in ("rows", "goals"):
            parts += [table([{k: number(v) for k, v in row.items()} for row in figures[name]])]
        parts += [*figures["notes"], ""]
    return "\n".join(parts if benches else [*parts, "There are no figures.\n"])


def number(value: object) -> str:
    """A figure of a benchmark's JSON, a spread as its median and extremes."""
    if isinstance(value, dict):
        return "{median:.3g} [{low:.3g}, {high:.3g}]".format(**value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def first_line(*command: str) -> str:
    """What a program says of itself, or that it is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    except OSError:
        return f"no {command[0]}"
    return (done.stdout.strip().splitlines() or [f"{command[0]} says nothing"])[-1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the report and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=9.5, help="for everything")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "gpu-report")
    options = parser.parse_args(arguments)
    ends = time.monotonic() + 60 * options.minutes
    try:
        machine = {"GPU": gpu()}
    except NoGpu as error:
        print(f"gpu_report: no GPU: {error}", file=sys.stderr)
        return 2
    work = options.work.absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    machine["commit"] = first_line("git", "describe", "--always", "--dirty")
    machine["nvcc"] = first_line("nvcc", "--version")
    machine["torch"] = first_line(sys.executable, "-c", "import torch; print(torch.__version__)")
    results: dict[str, Result] = {}
    for step in steps(work):
        results[step.name] = run(step, ends - time.monotonic(), results, work)
        print(f"{step.name}: {results[step.name].verdict} {results[step.name].said}", flush=True)
        # Written anew after each step: whoever stops this has what is known so far.
        report = markdown(machine, results, work)
        (work / "report.md").write_text(report)
    print(f"\n{report}\n{work / 'report.md'}")
    return 0 if all(result.verdict == PASSED for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
