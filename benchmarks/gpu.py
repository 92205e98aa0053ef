"""Acceptance on a machine with one GPU: ``make gpu``, in less than nine minutes.

``python benchmarks/gpu.py [--out runs/gpu] [--only PART …] [--minutes 9] [--small]`` runs, the most valuable first:

- ``agreement`` and ``tests``, at the same time: fit and evaluation compared with the CPU's, and ``pytest -m gpu``;
- ``step_*``: the training step in the shape of LLaVA-1.5 7B, with all three objectives and beside TRL's SFTTrainer,
  with gradient checkpointing and without;
- ``ranking``: images per second of each ranking mode in that shape;
- ``deepspeed_*``: the step under DeepSpeed stages 2 and 3, offloaded too;
- ``four_bits``: tuning, reloading and merging a model in four bits.

Each part is a process of its own with its own time limit, after which it and all that it started are killed. What it
prints goes into ``OUT/PART.log`` as it comes, and ``OUT/gpu.json`` is rewritten after each part, so that no part can
lose another's results. When the time is up, the parts that remain are not run.

Prints a table, and as its last line the content of ``gpu.json`` as one JSON object: the device, and for each part its
``status`` (``passed``, ``failed``, ``timed out``, ``not run``, or ``skipped`` with the ``reason``), ``seconds`` and
``figures``. ``benchmarks/train_step.py`` gives the formula of the MFU. The exit status is 1 where a part failed, timed
out or was not run, and 2 without a GPU. ``--small`` tries everything on tiny models, on a CPU too, where the parts that
need a GPU are skipped.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_prep.core.files import write_json

ROOT = Path(__file__).parents[1]
GRACE_S, SMALL_PATIENCE = 5, 8
"""Seconds from SIGTERM to SIGKILL; and factor of the time limits with ``--small``, as a CPU may have few cores."""
_STATUS = "PASSED|FAILED|ERROR|SKIPPED"
OUTCOME = re.compile(rf"^(?:\[gw\d+\] \[ *\d+%\] ({_STATUS}) (\S+::.+?)|(\S+::.+?) ({_STATUS})\b.*?) *$")
"""A line of ``pytest -v``, with or without xdist."""
CHECKPOINTED = "step_objectives", "step_trl"
UNCHECKPOINTED = "step_objectives_uncheckpointed", "step_trl_uncheckpointed"


@dataclass(frozen=True)
class Part:
    """One part of the acceptance.

    Attributes:
        name: Name of its log.
        command: Arguments of Python.
        limit: Seconds after which it is killed.
        modules: What must be installed for it.
        gpu: Whether it needs a GPU even with ``--small``.
        together: Runs at the same time as the part before it, as neither measures time.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    modules: tuple[str, ...] = ()
    gpu: bool = False
    together: bool = False

    def skip_reason(self) -> str | None:
        """Returns why it can't run here, or None."""
        if self.gpu and not torch.cuda.is_available():
            return "torch sees no CUDA GPU"
        missing = [name for name in self.modules if importlib.util.find_spec(name) is None]
        return f"not installed: pip install {' '.join(missing)}" if missing else None


def _step(name: str, side: str, limit: float, steps: int, *options: str, modules: tuple[str, ...] = ()) -> Part:
    command = ("benchmarks/train_step.py", "--side", side, "--steps", str(steps), *options)
    return Part(name, command, limit, modules)


def list_parts(out: Path, small: bool) -> list[Part]:
    """Lists the parts in their order."""
    tiny = ("--small",) if small else ()
    on, off = (("--gradient-checkpointing", value, *tiny) for value in ("on", "off"))
    # Twice, as the project's configuration has -q: a line for each test as it ends.
    pytest = ("-m", "pytest", "-vv", "-p", "no:cacheprovider")
    processes = ("-n", "4", "--dist", "load") if importlib.util.find_spec("xdist") else ()
    four_bits = ("tests/rar_train/test_gpu.py", "-k", "four_bit", "-m", "gpu or not gpu")
    return [
        Part("agreement", ("benchmarks/gpu_agreement.py", "--out", str(out / "agreement"), *tiny), 150),
        Part("tests", (*pytest, "-m", "gpu", "-k", "not four_bit", *processes), 150, ("pytest",), True, True),
        _step("step_objectives", "objectives", 80, 6, *on),
        _step("step_trl", "trl", 80, 6, *on, modules=("trl",)),
        _step("step_objectives_uncheckpointed", "objectives", 80, 6, *off),
        _step("step_trl_uncheckpointed", "trl", 80, 6, *off, modules=("trl",)),
        Part("ranking", ("benchmarks/ranking.py", "--no-waiting", *tiny), 90),
        _step("deepspeed_2", "deepspeed_2", 70, 3, *tiny, modules=("deepspeed",)),
        _step("deepspeed_3_offload", "deepspeed_3_offload", 70, 3, *tiny, modules=("deepspeed",)),
        _step("deepspeed_2_offload", "deepspeed_2_offload", 70, 3, *tiny, modules=("deepspeed",)),
        _step("deepspeed_3", "deepspeed_3", 70, 3, *tiny, modules=("deepspeed",)),
        Part("four_bits", (*pytest, *four_bits), 60, ("pytest", "bitsandbytes")),
    ]


def group_parts(parts: Sequence[Part]) -> list[list[Part]]:
    """Groups the parts that run at the same time."""
    groups: list[list[Part]] = []
    for part in parts:
        if part.together and groups:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def kill_group(process: subprocess.Popen) -> None:
    """Ends a process and all that it started."""
    for number, seconds in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def read_figures(log: Path) -> dict[str, Any]:
    """Reads a part's figures from what it printed: its last JSON object, or the outcomes of its tests."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    outcomes = [match.groups() for match in map(OUTCOME.match, lines) if match]
    if outcomes:
        tests = {first or last: outcome or late for outcome, first, last, late in outcomes}
        figures: dict[str, Any] = {"passed": sum(outcome == "PASSED" for outcome in tests.values())}
        return figures | {"not_passed": {name: outcome for name, outcome in tests.items() if outcome != "PASSED"}}
    for line in reversed(lines):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue
    return {}


def run_group(parts: Sequence[Part], out: Path, deadline: float, patience: float = 1) -> dict[str, dict]:
    """Runs parts at the same time, each until its limit or the deadline.

    Args:
        parts: The parts.
        out: Folder of the logs.
        deadline: Time by ``time.monotonic`` at which all are killed.
        patience: Factor of the parts' limits.

    Returns:
        dict[str, dict]: Results by part.
    """
    results: dict[str, dict] = {}
    running: dict[str, tuple[subprocess.Popen, float, float]] = {}
    try:
        for part in parts:
            start = time.monotonic()
            reason = part.skip_reason()
            if reason or start >= deadline:
                results[part.name] = {"status": "skipped", "reason": reason} if reason else {"status": "not run"}
                continue
            with open(out / f"{part.name}.log", "w", encoding="utf-8") as log:
                variables = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
                process = subprocess.Popen(
                    [sys.executable, *part.command], cwd=ROOT, env=variables, stdin=subprocess.DEVNULL,
                    stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
            running[part.name] = (process, start, min(start + patience * part.limit, deadline))
        while running:
            for name, (process, start, end) in list(running.items()):
                timed_out = process.poll() is None and time.monotonic() >= end
                if timed_out or process.poll() is not None:
                    kill_group(process)  # a part that ended may have left processes behind
                    status = "timed out" if timed_out else "failed" if process.returncode else "passed"
                    figures = read_figures(out / f"{name}.log")
                    seconds = round(time.monotonic() - start, 1)
                    results[name] = {"status": status, "seconds": seconds, "figures": figures}
                    del running[name]
            time.sleep(0.1)
    finally:  # Ctrl-C does not reach the parts
        for process, _, _ in running.values():
            kill_group(process)
    return {part.name: results[part.name] for part in parts}


def describe_machine() -> dict[str, Any]:
    """Returns date, device and versions."""
    versions = {}
    for name in ("torch", "transformers", "peft", "lightning", "deepspeed", "trl", "bitsandbytes"):
        if importlib.util.find_spec(name):
            versions[name] = importlib.metadata.version(name)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": date, "device": gpu or f"CPU, {platform.machine()}", "versions": versions}


def compare_steps(parts: dict[str, dict]) -> dict[str, float]:
    """Computes our three objectives' examples per second over those of TRL's one, with and without checkpointing."""
    ratios = {}
    for key, names in (("with_checkpointing", CHECKPOINTED), ("without_checkpointing", UNCHECKPOINTED)):
        ours, trl = (parts.get(name, {}).get("figures", {}).get("examples_per_s") for name in names)
        if ours and trl:
            ratios[key] = round(ours / trl, 3)
    return ratios


def format_result(name: str, result: dict) -> str:
    """Formats a line of the table."""
    figures, notes = result.get("figures", {}), [result.get("reason", "")]
    if "examples_per_s" in figures:
        mfu = "unknown" if figures["mfu"] is None else f"{figures['mfu']:.2f}"
        notes.append(f"{figures['examples_per_s']:.2f} examples/s, {figures['tokens_per_s']:.0f} tokens/s, MFU {mfu}")
        notes.append(f"peak {figures['peak_gb']:.1f} GB")
    if "images_per_s" in figures:
        speeds = figures.get("shape_7b", figures)["images_per_s"]
        notes.append(", ".join(f"{mode} {speed:g} images/s" for mode, speed in speeds.items()))
    if "not_passed" in figures:
        notes.append(f"{figures['passed']} passed, others: {figures['not_passed'] or 'none'}")
    if "agree" in figures:
        notes += figures["differences"] or ["agrees with the CPU"]
    seconds = f"{result['seconds']:.0f} s" if "seconds" in result else ""
    return f"{name:<32}{result['status']:<11}{seconds:>6}  {', '.join(note for note in notes if note)}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--only", nargs="+", help="names of parts")
    parser.add_argument("--minutes", type=float, help="time for all parts; 9, and with --small no limit")
    parser.add_argument("--small", action="store_true", help="tiny models, on a CPU too")
    args = parser.parse_args()
    if not torch.cuda.is_available() and not args.small:
        print("torch sees no CUDA GPU here; --small tries the script on a CPU", file=sys.stderr)
        sys.exit(2)
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    parts = list_parts(out, args.small)
    unknown = set(args.only or ()) - {part.name for part in parts}
    if unknown:
        parser.error(f"--only {' '.join(sorted(unknown))}: parts are {' '.join(part.name for part in parts)}")
    minutes = args.minutes or (float("inf") if args.small else 9)
    deadline = time.monotonic() + 60 * minutes - 2 * GRACE_S
    report: dict[str, Any] = describe_machine() | {"small": args.small, "parts": {}}
    for group in group_parts([part for part in parts if not args.only or part.name in args.only]):
        results = run_group(group, out, deadline, SMALL_PATIENCE if args.small else 1)
        report["parts"] |= results
        report["examples_ratio_to_trl"] = compare_steps(report["parts"])
        write_json(out / "gpu.json", report)
        for name, result in results.items():
            print(format_result(name, result), flush=True)
    print(json.dumps(report))
    sys.exit(0 if all(result["status"] in ("passed", "skipped") for result in report["parts"].values()) else 1)


if __name__ == "__main__":
    main()
