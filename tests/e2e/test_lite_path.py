"""What make lite does behind its models: projector, ranker and the benchmark, on a few made emoji and a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.rar_train.lite.test_mllm import tiny_join
from tests.tiny_emoji import made_place

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "emoji.py"


def test_projector_ranker_and_benchmark_hand_on_to_each_other(run_here, tmp_path: Path):
    made_place(tmp_path)
    model, processor, *_ = tiny_join()
    model.save_pretrained(tmp_path / "lite")
    processor.save_pretrained(tmp_path / "lite")
    fixed = ("data.root=data", "trainer.accelerator=cpu", "tracking.wandb=disabled")
    projector = ("optim.batch_size=8", "optim.epochs=30", "trainer.checkpoint_every=20")
    run_here("rar_train.fit", "recipe=mllm_lite", "ranker.model=lite", *projector, *fixed)
    ranker = ("retriever.model=nano-clip", "optim.max_steps=3", "optim.batch_size=4", "trainer.checkpoint_every=3")
    run_here("rar_train.fit", "recipe=ranker_lora_lite", *ranker, *fixed)
    manifest = json.loads((tmp_path / "runs/mllm_lite/model/manifest.json").read_text())
    assert {"horse face", "red apple"} <= set(manifest["names"])

    def printed(*arguments: str) -> str:
        command = [sys.executable, BENCHMARK, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    table = printed("--small")
    assert "| names | `rar` |" in table
    metrics = json.loads(table.splitlines()[-1])
    methods = {row["method"] for row in metrics["vocabularies"]["animals"]["rows"]}
    assert {"rar", "rar_untuned"} <= methods
    assert 0 <= metrics["projector_alone"]["animals"] <= 1
    chosen = json.loads(printed("--projector", "runs/mllm_lite", "--only", "animals"))
    assert 0 <= chosen["projector_alone"]["animals"] <= 1
