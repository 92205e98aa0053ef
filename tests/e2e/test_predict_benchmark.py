"""The benchmark of labelling, at a small size: nothing is lost or doubled, and every figure is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import environment

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_labelling_is_measured_and_loses_nothing_when_killed(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "predict.py"), "--images", "8000"],
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout.splitlines()[-1])
    assert (metrics["lost"], metrics["doubled"], metrics["changed"], metrics["kills"]) == (0, 0, 0, 3)
    assert metrics["rss_ratio"] < 1.1 and metrics["ratio_to_model"] > 0
