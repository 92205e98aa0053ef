"""Checkpoints are whole, small, few and found again."""

from __future__ import annotations

import torch

from data_prep.files import file_hash, read_json
from rar_train.checkpoint import last_checkpoint
from rar_train.train import train_ranker


def test_the_last_checkpoint_is_the_newest_whole_one(tmp_path):
    assert last_checkpoint(tmp_path / "nowhere") is None
    assert last_checkpoint(tmp_path) is None
    (tmp_path / "step-00000900.ckpt").touch()
    (tmp_path / "step-00001000.ckpt").mkdir()  # DeepSpeed's are folders
    (tmp_path / "step-00001000.adapter").mkdir()
    (tmp_path / ".step-00001100.ckpt.part").touch()  # a kill left it
    assert last_checkpoint(tmp_path) == tmp_path / "step-00001000.ckpt"


def test_the_last_two_checkpoints_and_the_best_are_kept_each_with_its_adapter(tiny, tmp_path):
    out = train_ranker(tiny(tmp_path / "run", "trainer.checkpoint_every=1"))
    best = read_json(out / "best.json")
    assert best["metric"] == "val/likelihood" and 0 <= best["value"] <= 1
    names = {path.name for path in (out / "checkpoints").iterdir()}
    assert names == {f"step-0000000{step}.{kind}" for step in {3, 4, best["step"]} for kind in ("ckpt", "adapter")}


def test_a_checkpoint_knows_its_step_and_data_position_and_holds_lora_weights_alone(finished):
    state = torch.load(finished / "checkpoints" / "step-00000002.ckpt", weights_only=True)
    assert state["global_step"] == 2
    assert state["RankingData"] == {"batches": 2}
    assert state["state_dict"] and all("lora_" in name for name in state["state_dict"])


def test_a_checkpoints_adapter_is_usable_alone_and_the_last_is_the_runs(finished):
    folder = finished / "checkpoints"
    early, last = (read_json(folder / f"step-0000000{step}.adapter" / "manifest.json") for step in (2, 4))
    assert (early["step"], last["step"]) == (2, 4)
    assert early["adapter"] == file_hash(folder / "step-00000002.adapter" / "adapter_model.safetensors")
    assert early["adapter"] != last["adapter"] == read_json(finished / "adapter" / "manifest.json")["adapter"]
