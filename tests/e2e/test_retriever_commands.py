"""Tuning the retriever and building memories, as a user does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

SIZES = (
    "data.armory.train_classes=24",
    "data.armory.val_classes=8",
    "data.armory.test_classes=12",
    "data.armory.memory_images=6",
    "data.armory.query_images=2",
    "cache=cache",
)
TUNE = ("recipe=retriever_clip", *SIZES, "tracking.wandb=disabled", "optim.batch_size=16", "trainer.checkpoint_every=4")


def test_a_tuned_retriever_is_compared_with_the_untuned_one(run_here, tmp_path: Path):
    run_here("rar_train.fit", *TUNE, "optim.max_steps=4", "out=run")
    settings = ("eval.shots=[2]", "eval.full_train_memory=true", "eval.seeds=[1]", "eval.bootstrap=100")
    done = run_here("eval.run", "--ckpt", "run", "--name", "compared", *settings)
    assert "the retriever before and after" in done.stdout
    results = json.loads((tmp_path / "run" / "eval" / "compared" / "results.json").read_text())
    methods = {(row["method"], row["encoder"]) for row in results["rows"]}
    assert methods == {(m, e) for m in ("clip_zero_shot", "clip_knn", "clip_fused") for e in ("before", "after")}
    memories = {(row["task"], row["shots"]) for row in results["rows"] if row["method"] == "clip_knn"}
    assert memories == {("few_shot", 2), ("whole_set", 0)}
    assert all(0 <= row["top1"] <= row["recall_at_k"] <= 1 and row["n"] == 24 for row in results["rows"])
    for part in results["summary"]:
        assert part["gain"]["low"] <= part["gain"]["mean"] <= part["gain"]["high"]
        assert part["gain"]["mean"] == pytest.approx(part["after"] - part["before"])
        assert part["top1_after"] <= part["after"]
    taken = run_here("eval.run", "--ckpt", "run", "--name", "compared", *settings, "eval.k=2", fails=True)
    assert "compared: holds another evaluation" in taken.stderr and "embeddings:" not in taken.stderr


@pytest.mark.slow
def test_two_processes_tune_like_one(run_command, tmp_path: Path):
    ddp = ("trainer.strategy=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "optim.max_steps=4")
    run_command("rar_train.fit", *TUNE, *ddp, "optim.batch_size=8", "out=two")
    run_command("rar_train.fit", *TUNE, "optim.max_steps=4", "out=one")
    one, two = (load_file(tmp_path / run / "model" / "open_clip_model.safetensors") for run in ("one", "two"))
    assert max((one[name] - value).abs().max() for name, value in two.items()) < 1e-3


def test_a_memory_is_built_and_checked(run_here):
    run_here("data_prep.memory", "build", "mem", "recipe=ranker_lora", *SIZES, "retriever.index=hnsw")
    checked = run_here("data_prep.memory", "check", "mem", "k=3")
    expected = r"images: 72 entries, hnsw: recall@3 (1\.0000|0\.9\d+) against exact, \d+ queries/s"
    assert re.search(expected, checked.stdout)


@pytest.mark.slow
def test_two_machines_share_the_work_through_their_cache(small, tmp_path: Path):
    """Two commands on this machine simulate them."""
    import subprocess

    from tests.commands import command_line, environment

    settings = ("recipe=ranker_lora", *small, "cache=cache", "retriever.batch_size=2", "trainer.num_nodes=2")
    machines = [
        subprocess.Popen(
            command_line("data_prep.build", *settings, "trainer.accelerator=cpu"),
            cwd=tmp_path,
            env=environment() | {"NODE_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29653"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    errors = [machine.communicate(timeout=900)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], errors
    parts = [load_file(path) for path in (tmp_path / "cache").glob("embeddings-*/part-*.safetensors")]
    keys = [bytes(key) for part in parts for key in part["keys"].numpy()]
    assert len(set(keys)) == len(keys), "an image was embedded twice"
