"""Tuning the retriever: it trains, resumes to the same weights, and writes a folder that open_clip loads."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_prep.core.errors import UserError
from data_prep.embedding.encoder import load_encoder
from data_prep.settings import RetrieverArgs
from data_prep.settings.loading import load_recipe
from rar_train.engine.run_folder import find_model
from rar_train.retriever.train import train_retriever
from tests.damage import KINDS, contents, damage

SETTINGS = (
    "recipe=retriever_clip",
    "data.armory.train_classes=16",
    "data.armory.val_classes=8",
    "data.armory.memory_images=2",
    "data.armory.query_images=2",
    "data.armory.size=48",
    "tracking.wandb=disabled",
    "trainer.accelerator=cpu",
    "optim.batch_size=16",
    "optim.max_steps=7",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("root")


def tune(root: Path, out: str, *settings: str) -> Path:
    return train_retriever(load_recipe([*SETTINGS, f"cache={root / 'cache'}", f"out={root / out}", *settings]))


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "open_clip_model.safetensors")


@pytest.mark.parametrize("rank", [0, 8])
def test_tuning_changes_the_tower_resumes_and_loads_as_a_model(root, rank):
    tuned = tune(root, f"run-{rank}", f"retriever.tuning.lora_rank={rank}", "retriever.tuning.towers=image")
    tuned_weights = weights(tuned)
    base = load_encoder(RetrieverArgs()).model.state_dict()
    changed = {name for name, value in tuned_weights.items() if not torch.equal(value, base[name])}
    assert any(name.startswith("visual.") for name in changed)
    assert all(name.startswith("visual.") or name == "logit_scale" for name in changed), "the other tower changed"
    assert load_encoder(RetrieverArgs(model=f"local-dir:{tuned}")).model.state_dict().keys() == base.keys()
    expected = contents(tuned)
    shutil.rmtree(tuned)
    checkpoints = tuned.parent / "checkpoints"
    names = {path.name for path in checkpoints.iterdir()}
    assert names == {f"step-0000000{step}.{kind}" for step in (6, 7) for kind in ("ckpt", "json")}
    (checkpoints / "step-00000007.ckpt").unlink()
    again = tune(root, f"run-{rank}", f"retriever.tuning.lora_rank={rank}", "retriever.tuning.towers=image")
    assert contents(again) == expected  # its manifest too, with the metrics of the last validation


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_model_is_reported_when_used_and_rebuilt_by_its_command(root, kind):
    tuned = tune(root, "used", "optim.max_steps=1")
    expected = contents(tuned)
    damage(tuned / "open_clip_model.safetensors", kind)
    with pytest.raises(UserError, match=r"open_clip_model\.safetensors: (damaged|missing).*; give the command"):
        load_encoder(RetrieverArgs(model=f"local-dir:{tuned}"))
    with pytest.raises(UserError, match=r"open_clip_model\.safetensors: (damaged|missing).*; give the command"):
        find_model(tuned.parent)
    assert contents(tune(root, "used", "optim.max_steps=1")) == expected


def test_a_checkpoint_is_written_directly_into_its_folder(root, tmp_path, monkeypatch):
    """The temporary folder may be small, or on another disk, and a copy from there can be truncated."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("shutil.move", None)
    tune(root, "straight")


def test_with_a_damaged_last_checkpoint_a_run_resumes_from_the_previous_one(root, caplog):
    tuned = tune(root, "before", "retriever.tuning.towers=image")
    expected = contents(tuned)
    shutil.rmtree(tuned)
    damage(tuned.parent / "checkpoints" / "step-00000007.ckpt", "flipped")
    assert contents(tune(root, "before", "retriever.tuning.towers=image")) == expected
    assert "step-00000007.ckpt: damaged" in caplog.text and "goes on from step-00000006.ckpt" in caplog.text


def test_unsupported_settings_are_errors(root):
    with pytest.raises(UserError, match="do not fill one step"):
        tune(root, "large", "optim.batch_size=1000")
    with pytest.raises(UserError, match=r"trainer\.strategy=deepspeed_stage_1"):
        tune(root, "deep", "trainer.strategy=deepspeed_stage_1")
