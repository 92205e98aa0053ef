"""The steps of ``make lite`` after its models: projector, ranker and benchmark, on fake emoji and a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.rar_train.lite.test_mllm import tiny_join
from tests.tiny_emoji import made_place

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "emoji.py"


def test_projector_ranker_and_benchmark_run_one_after_the_other(run_here, tmp_path: Path):
    made_place(tmp_path)
    model, processor, *_ = tiny_join()
    model.save_pretrained(tmp_path / "lite")
    processor.save_pretrained(tmp_path / "lite")
    common = ("data.root=data", "trainer.accelerator=cpu", "tracking.wandb=disabled")
    projector = ("optim.batch_size=8", "optim.epochs=30", "trainer.checkpoint_every=20")
    run_here("rar_train.fit", "recipe=mllm_lite", "ranker.model=lite", *projector, *common)
    ranker = ("retriever.model=nano-clip", "optim.max_steps=3", "optim.batch_size=4", "trainer.checkpoint_every=3")
    run_here("rar_train.fit", "recipe=ranker_lora_lite", *ranker, *common)
    manifest = json.loads((tmp_path / "runs/mllm_lite/model/manifest.json").read_text())
    assert {"horse face", "red apple"} <= set(manifest["names"])

    def run_benchmark(*arguments: str) -> str:
        command = [sys.executable, BENCHMARK, *arguments]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        return result.stdout

    output = run_benchmark("--small")
    assert "| names | `rar` |" in output
    metrics = json.loads(output.splitlines()[-1])
    methods = {row["method"] for row in metrics["vocabularies"]["animals"]["rows"]}
    assert {"rar", "rar_untuned"} <= methods
    assert 0 <= metrics["projector_alone"]["animals"] <= 1
    metrics = json.loads(run_benchmark("--projector", "runs/mllm_lite", "--only", "animals"))
    assert 0 <= metrics["projector_alone"]["animals"] <= 1
