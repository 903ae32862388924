"""The report on a GPU, written where there is none: its programs are stand-ins."""

import importlib.util
import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

spec = importlib.util.spec_from_file_location("gpu_report", ROOT / "tools" / "gpu_report.py")
gpu_report = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = gpu_report  # where its dataclasses look for it
spec.loader.exec_module(gpu_report)

PASSED, FAILED, NOT_RUN = gpu_report.PASSED, gpu_report.FAILED, gpu_report.NOT_RUN
CLEAN = "========= ERROR SUMMARY: 0 errors\n"
RACES = "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n"
TESTS = "4 passed, 0 failed\n"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """`programs(name=script)` are all programs that there are, beside this Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def add(**scripts):
        for name, script in scripts.items():
            program = folder / name.replace("_", "-")
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)

    return add


def step(script, seconds=60, **options):
    return gpu_report.Step(
        "a step", ["sh", "-c", script], seconds, gpu_report.judge_exit, **options
    )


def run(a_step, work, left_s=60.0, done=()):
    return gpu_report.run(a_step, left_s, dict(done), work)


def test_a_machine_without_a_driver_is_told_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_report.main(["--work", str(tmp_path / "work")]) == 2
    assert "no GPU: nvidia-smi is not installed" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_a_driver_without_a_gpu_is_quoted(programs, tmp_path, capsys):
    programs(nvidia_smi="echo No devices were found; exit 6")
    assert gpu_report.main(["--work", str(tmp_path / "work")]) == 2
    assert "no GPU: No devices were found" in capsys.readouterr().err


def test_a_report_says_what_was_not_run_and_why(programs, tmp_path, monkeypatch):
    programs(nvidia_smi="echo GPU X, 580.1, 81559 MiB, 9.0", nvcc="echo release 13.0")
    tool = {"tool": "compute-sanitizer"}
    monkeypatch.setattr(
        gpu_report,
        "steps",
        lambda work: [
            gpu_report.Step("build", ["true"], 9, gpu_report.judge_exit, tool="nvcc"),
            gpu_report.Step("tests", ["sh", "-c", "echo no; exit 3"], 9, gpu_report.judge_exit),
            gpu_report.Step("bench", ["true"], 9, gpu_report.judge_exit, after="tests"),
            gpu_report.Step("memcheck", ["true"], 9, gpu_report.judge_exit, **tool),
        ],
    )
    assert gpu_report.main(["--work", str(tmp_path / "work")]) == 1
    report = (tmp_path / "work" / "report.md").read_text()
    assert "| GPU | GPU X, 580.1, 81559 MiB, 9.0 |" in report
    assert "| build | passed | 0 |  |" in report
    assert "| tests | FAILED | 0 | exit status 3: no |" in report
    assert "| bench | NOT RUN | 0 | needs the step 'tests' |" in report
    assert "| memcheck | NOT RUN | 0 | compute-sanitizer is not on the PATH |" in report
    assert "There are no figures." in report


def test_a_report_without_failures_ends_with_zero(programs, tmp_path, monkeypatch):
    programs(nvidia_smi="echo GPU X", nvcc="echo release 13.0")
    monkeypatch.setattr(gpu_report, "steps", lambda work: [step("true")])
    assert gpu_report.main(["--work", str(tmp_path / "work")]) == 0


def test_every_step_comes_after_what_it_needs(tmp_path):
    names = [each.name for each in gpu_report.steps(tmp_path)]
    for place, each in enumerate(gpu_report.steps(tmp_path)):
        assert not each.after or each.after in names[:place]


def test_steps_of_cmake_are_spelt_as_it_wants_them(tmp_path):
    commands = {each.name: each.command for each in gpu_report.steps(tmp_path)}
    assert commands["configure"][:3] == ["cmake", "-G", "Ninja"]
    assert commands["compile"][:2] == ["cmake", "--build"]  # nowhere else


def test_no_time_left_is_not_a_failure(tmp_path):
    assert run(step("true"), tmp_path, left_s=0).verdict == NOT_RUN


def test_a_step_that_does_not_end_is_ended_with_its_children(tmp_path, monkeypatch):
    told, children = tmp_path / "told", []
    os.mkfifo(told)

    class Impatient(subprocess.Popen):
        """Its time is up as soon as it has a child."""

        def wait(self, timeout=None):
            if timeout is None:
                return super().wait()
            children.append(os.pidfd_open(int(told.read_text())))
            raise subprocess.TimeoutExpired(self.args, timeout)

    monkeypatch.setattr(gpu_report.subprocess, "Popen", Impatient)
    result = run(step(f"sleep 600 & echo $! >{told}; wait"), tmp_path)
    assert result.verdict == FAILED
    assert "not done in 60 s" in result.said
    ended, _, _ = select.select(children, [], [], 60)
    os.close(children[0])
    assert ended


def test_a_program_that_cannot_be_run_fails_its_step(tmp_path):
    missing = gpu_report.Step("tests", [tmp_path / "gone"], 9, gpu_report.judge_exit)
    assert run(missing, tmp_path).verdict == FAILED


@pytest.mark.parametrize(
    ("status", "output", "verdict", "said"),
    [
        (0, TESTS + CLEAN, PASSED, "0 errors; 4 passed, 0 failed"),
        (1, TESTS + RACES, FAILED, "2 hazards displayed"),
        (0, TESTS + RACES, FAILED, "2 hazards displayed"),
        (1, "FAILED space.X\n3 passed, 1 failed\n" + CLEAN, FAILED, "FAILED space.X"),
        (0, CLEAN, FAILED, "0 errors"),
        (255, "Error: Device not supported\n", FAILED, "no summary"),
    ],
)
def test_what_the_sanitizer_says_is_understood(status, output, verdict, said):
    result = gpu_report.judge_sanitizer(status, output)
    assert result.verdict == verdict
    assert said in result.said


TESTS_XML = """<testsuites><testsuite>
<testcase classname="tests.a" name="good"/>
<testcase classname="tests.a" name="skipped"><skipped/></testcase>
<testcase classname="" name="tests.b"><error message="collection failure"/></testcase>
{more}
</testsuite></testsuites>"""


def test_files_that_cannot_be_collected_are_named_and_fail_nothing(tmp_path):
    (tmp_path / "xml").write_text(TESTS_XML.format(more=""))
    result = gpu_report.judge_pytest(tmp_path / "xml")(1, "")
    assert result.verdict == PASSED
    assert result.said == "1 passed, 0 failed, 1 skipped; tests.b could not be collected"


def test_tests_that_fail_are_named(tmp_path):
    case = '<testcase classname="tests.a" name="bad"><{0} message="m"/></testcase>'
    (tmp_path / "xml").write_text(
        TESTS_XML.format(more=case.format("failure") + case.format("error"))
    )
    result = gpu_report.judge_pytest(tmp_path / "xml")(1, "")
    assert result.verdict == FAILED
    assert result.said.startswith("1 passed, 2 failed, 1 skipped; tests.a::bad failed")


def test_no_tests_are_a_failure(tmp_path):
    judge = gpu_report.judge_pytest(tmp_path / "xml")
    assert judge(5, "").said == "no test is marked cuda"
    assert judge(2, "").verdict == FAILED


def test_the_tests_of_tables_are_found(tmp_path):
    (command,) = (each.command for each in gpu_report.steps(tmp_path) if each.name == "tests")
    done = subprocess.run(
        [*command, "--collect-only"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "test_calls_add_up[cuda]" in done.stdout


def test_figures_are_part_of_the_report(tmp_path):
    spread = {"median": 1.234567, "low": 1.0, "high": 2.0}
    figures = {
        "setting": "10 rows",
        "rows": [{"who": "recis", "step, ms": spread}],
        "goals": [{"goal": "ms | step", "got": 0.12345, "verdict": "met"}],
        "notes": ["a note"],
    }
    for name in gpu_report.BENCHES:
        (tmp_path / name).write_text(json.dumps(figures | {"setting": name}))
    report = gpu_report.markdown({"GPU": "X"}, {}, tmp_path)
    assert all(name in report for name in gpu_report.BENCHES)
    assert "| recis | 1.23 [1, 2] |" in report
    assert "| ms / step | 0.123 | met |" in report
    assert "a note" in report
