"""Tuning the retriever and keeping memories, as a user runs them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

SIZES = (
    "data.armory.tuning_classes=24",
    "data.armory.development_classes=8",
    "data.armory.test_classes=12",
    "data.armory.memory_images=6",
    "data.armory.query_images=2",
)
TUNE = (
    "recipe=retriever_clip",
    *SIZES,
    "cache=cache",
    "tracking.wandb=disabled",
    "optim.batch_size=16",
    "trainer.checkpoint_every=4",
    "trainer.validation_images=8",
)


def weights(folder: Path) -> dict:
    return load_file(folder / "model" / "open_clip_model.safetensors")


def test_a_tuned_retriever_resumes_compares_and_serves_as_a_model(run_command, tmp_path: Path):
    run_command("rar_train.fit", *TUNE, "optim.max_steps=8", "out=whole")
    tuned = weights(tmp_path / "whole")
    # Taken back to its fourth step, it trains on to the same weights.
    run_command("rar_train.fit", *TUNE, "optim.max_steps=8", "trainer.checkpoint_every=3", "out=other")
    shutil.rmtree(tmp_path / "other" / "model")
    assert [path.name for path in (tmp_path / "other" / "checkpoints").iterdir()] == ["step-00000006.ckpt"]
    resumed = run_command("rar_train.fit", *TUNE, "optim.max_steps=8", "trainer.checkpoint_every=3", "out=other")
    assert "from 6" in resumed.stderr
    again = weights(tmp_path / "other")
    assert all((again[name] - value).abs().max() < 1e-5 for name, value in tuned.items())

    done = run_command("eval.run", "--ckpt", "whole", "eval.shots=[2]", "eval.seeds=[1]", "eval.bootstrap=100")
    assert re.search(r"clip_fused .* 2 ", done.stdout)
    results = json.loads((tmp_path / "whole" / "eval" / "test-retriever" / "results.json").read_text())
    assert {(row["method"], row["encoder"]) for row in results["rows"]} == {
        (method, which) for method in ("clip_zero_shot", "clip_knn", "clip_fused") for which in ("before", "after")
    }
    assert all(0 <= row["top1"] <= row["recall_at_k"] <= 1 and row["n"] == 24 for row in results["rows"])
    done = run_command("data_prep.build", "recipe=ranker_lora", *SIZES, "cache=cache",
                       "retriever.model=local-dir:whole/model")  # fmt: skip
    assert "encoder: model-" in done.stderr


@pytest.mark.slow
def test_two_processes_tune_together(run_command, tmp_path: Path):
    ddp = ("trainer.strategy=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "optim.max_steps=4")
    run_command("rar_train.fit", *TUNE, *ddp, "optim.batch_size=8", "out=two")
    run_command("rar_train.fit", *TUNE, "optim.max_steps=4", "out=one")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max((one[name] - value).abs().max() for name, value in two.items()) < 1e-3


def test_a_memory_is_built_checked_and_changed(run_command, tmp_path: Path):
    run_command("data_prep.memory", "build", "mem", "recipe=ranker_lora", *SIZES, "cache=cache", "retriever.index=hnsw")
    checked = run_command("data_prep.memory", "check", "mem", "k=3")
    assert re.search(
        r"images: 72 entries, hnsw: recall@3 (1\.0000|0\.9\d+) against exact, \d+ queries/s", checked.stdout
    )
    (pictures,) = tmp_path.glob("cache/armory-test-*/000003")
    (pictures / "broken.png").write_bytes(b"no image")
    added = run_command("data_prep.memory", "add", "mem", "name=a new one", str(pictures))
    assert "new class a new one" in added.stderr
    assert "added 8 images of a new one; 1 skipped or there already" in added.stderr
    again = run_command("data_prep.memory", "add", "mem", "name=a new one", str(pictures))
    assert "added 0 images of a new one; 9 skipped" in again.stderr
    assert "images: 80 entries" in run_command("data_prep.memory", "check", "mem").stdout
    removed = run_command("data_prep.memory", "remove", "mem", "name=a new one")
    assert "removed a new one with 8 images" in removed.stderr
    assert "names: 12 entries" in run_command("data_prep.memory", "check", "mem").stdout
    refused = run_command("data_prep.memory", "remove", "mem", "name=a new one", fails=True)
    assert "mem: holds no class a new one" in refused.stderr
    other = run_command("data_prep.memory", "check", "mem", "retriever.templates=['a {}']", "retriever.dtype=bfloat16",
                        fails=True)  # fmt: skip
    assert re.search(r"made with encoder nano-clip-\w+, but nano-clip-\w+ is loaded", other.stderr)
