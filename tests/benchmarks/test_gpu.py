"""The acceptance on a GPU: parts that fail, hang or come too late leave the others' results; and all of it, small."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.commands import environment

ROOT = Path(__file__).parents[2]
FOREVER = 600.0
HANGING = """
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(json.dumps({"child": child.pid}), flush=True)
time.sleep(600)
"""


@pytest.fixture
def gpu(benchmark):
    return benchmark("gpu")


def run(gpu, out: Path, *parts, seconds: float = FOREVER) -> dict[str, dict]:
    return gpu.run_group(parts, out, time.monotonic() + seconds)


def test_a_part_that_hangs_is_killed_with_what_it_started_and_keeps_what_it_printed(gpu, tmp_path):
    result = run(gpu, tmp_path, gpu.Part("hanging", ("-c", HANGING), 3))["hanging"]
    assert result["status"] == "timed out"
    child = result["figures"]["child"]
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_part_that_fails_leaves_the_others_results_and_its_error(gpu, tmp_path):
    good = gpu.Part("good", ("-c", "print('{\"examples\": 3}'); print('done')"), FOREVER)
    bad = gpu.Part("bad", ("-c", "raise SystemExit('no memory')"), FOREVER)
    results = run(gpu, tmp_path, bad, good)
    assert [results[name]["status"] for name in ("bad", "good")] == ["failed", "passed"]
    assert results["good"]["figures"] == {"examples": 3}
    assert (tmp_path / "bad.log").read_text() == "no memory\n"


def test_parts_are_not_run_when_the_time_is_up_and_are_skipped_with_a_reason(gpu, tmp_path):
    missing = gpu.Part("missing", ("-c", ""), FOREVER, modules=("no_such_module",))
    results = run(gpu, tmp_path, gpu.Part("late", ("-c", ""), FOREVER), missing, seconds=0)
    assert results["late"] == {"status": "not run"}
    assert results["missing"] == {"status": "skipped", "reason": "not installed: pip install no_such_module"}


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_the_outcomes_of_tests_are_read_from_what_pytest_prints(processes, gpu, tmp_path):
    tests = "import pytest\n@pytest.mark.parametrize('x', ['a b', 'c'])\ndef test_it(x): assert x == 'c'\n"
    (tmp_path / "test_two.py").write_text(f"{tests}def test_skipped(): pytest.skip('no device')\n")
    command = [sys.executable, "-m", "pytest", "-q", "-vv", *processes, "test_two.py"]
    with open(tmp_path / "log", "w") as log:
        subprocess.run(command, cwd=tmp_path, stdout=log, env=environment())
    figures = gpu.read_figures(tmp_path / "log")
    assert figures["passed"] == 1
    assert figures["not_passed"] == {"test_two.py::test_it[a b]": "FAILED", "test_two.py::test_skipped": "SKIPPED"}


def test_the_device_agrees_only_within_the_tolerances(benchmark):
    agreement = benchmark("gpu_agreement")
    cpu = {"losses": [2.0, 1.0], "top1": {"few_shot rar": 0.80, "few_shot rar_untuned": 0.70}}
    near = {"losses": [2.01, 1.01], "top1": {"few_shot rar": 0.82, "few_shot rar_untuned": 0.695}}
    far = {"losses": [2.0, float("nan")], "top1": {"few_shot rar": 0.82, "few_shot rar_untuned": 0.68}}
    assert agreement.find_differences(cpu, near) == []
    assert [difference.split(":")[0] for difference in agreement.find_differences(cpu, far)] == [
        "few_shot rar_untuned",
        "losses",
    ]


@pytest.mark.slow
def test_everything_runs_small_and_its_results_are_in_a_file(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--small", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report == json.loads((tmp_path / "gpu.json").read_text())
    statuses = {name: part["status"] for name, part in report["parts"].items()}
    assert statuses["tests"] == "skipped"  # no GPU is visible
    for name in ("agreement", "step_objectives", "step_objectives_uncheckpointed", "ranking", "deepspeed_3_offload"):
        assert statuses[name] == "passed"
        assert (tmp_path / f"{name}.log").exists() and report["parts"][name]["figures"]
