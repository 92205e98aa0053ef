"""The vocabulary benchmark: its plot, and all of it on few classes."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.commands import environment

SVG = "{http://www.w3.org/2000/svg}"
ROOT = Path(__file__).parents[2]


def test_the_plot_shows_each_method_where_it_was_measured(benchmark):
    figures = {
        200: {"top1": {"rar": 0.9, "ranker_alone": 0.8, "clip_knn": 0.5}, "recall": 1.0, "k": 50},
        2000: {"top1": {"rar": 0.85, "clip_knn": 0.3}, "recall": 0.91, "k": 50},
    }
    root = ET.fromstring(benchmark("vocabulary").draw(figures))
    texts = {"".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")}
    assert {"recall@50", "rar", "ranker_alone", "clip_knn", "classes", "top-1 %", "200", "2000"} <= texts
    assert "Top-1 against the number of classes" in texts
    assert "prefers-color-scheme:dark" in root.find(f"{SVG}style").text
    inner = root.find(f"{SVG}svg")
    assert root.get("viewBox").split()[2] == inner.get("width")


@pytest.mark.slow
def test_a_run_is_evaluated_with_each_vocabulary_and_complete_ones_are_reused(run_command, small, tmp_path: Path):
    run_command("rar_train.fit", "recipe=ranker_lora", "out=run", *small, "tracking.wandb=disabled")
    command = [sys.executable, str(ROOT / "benchmarks" / "vocabulary.py"), "--ckpt", "run", "--small"]
    variables = environment() | {"PYTHONPATH": str(ROOT)}
    outputs = []
    for _ in range(2):
        options = {"cwd": tmp_path, "env": variables, "capture_output": True, "text": True}
        outputs.append(subprocess.run([*command, "--timed-images", "4"], check=True, **options))
    first, second = (json.loads(output.stdout.splitlines()[-1]) for output in outputs)
    assert "ranking by" in outputs[0].stderr and "ranking by" not in outputs[1].stderr
    for size in ("24", "48"):
        assert first[size]["top1"] == second[size]["top1"]
        assert {"clip_knn", "rar", "rar_fused", "ranker_alone"} <= first[size]["top1"].keys()
        assert first[size]["images"] == first[size]["alone_images"] == 16
        assert first[size]["images_per_s"]["rar"] > 0 and first[size]["peak_gb"] > 0
    assert first["48"]["index_bytes"] > first["24"]["index_bytes"]
    assert first["slowdown"] > 0
