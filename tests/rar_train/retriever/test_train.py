"""Tuning the retriever: it learns, resumes to the same weights, and gives a folder that open_clip loads."""

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
    "optim.max_steps=5",
    "trainer.checkpoint_every=3",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


def tune(place: Path, out: str, *settings: str) -> Path:
    return train_retriever(load_recipe([*SETTINGS, f"cache={place / 'cache'}", f"out={place / out}", *settings]))


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "open_clip_model.safetensors")


@pytest.mark.parametrize("rank", [0, 8])
def test_it_tunes_resumes_and_loads_as_a_model(place, rank):
    tuned = tune(place, f"run-{rank}", f"retriever.tuning.lora_rank={rank}", "retriever.tuning.towers=image")
    whole = weights(tuned)
    base = load_encoder(RetrieverArgs()).model.state_dict()
    changed = {name for name, value in whole.items() if not torch.equal(value, base[name])}
    assert any(name.startswith("visual.") for name in changed)
    assert all(name.startswith("visual.") or name == "logit_scale" for name in changed), "the other tower moved"
    assert load_encoder(RetrieverArgs(model=f"local-dir:{tuned}")).model.state_dict().keys() == base.keys()
    expected = contents(tuned)
    shutil.rmtree(tuned)
    names = {path.name for path in (tuned.parent / "checkpoints").iterdir()}
    assert names == {"step-00000003.ckpt", "step-00000003.json"}
    again = tune(place, f"run-{rank}", f"retriever.tuning.lora_rank={rank}", "retriever.tuning.towers=image")
    assert contents(again) == expected  # its manifest too, with what the last validation measured


@pytest.mark.parametrize("kind", KINDS)
def test_damage_to_a_model_is_named_where_it_is_used_and_its_command_makes_it_again(place, kind):
    tuned = tune(place, "used", "optim.max_steps=1")
    expected = contents(tuned)
    damage(tuned / "open_clip_model.safetensors", kind)
    with pytest.raises(UserError, match=r"open_clip_model\.safetensors: (damaged|missing).*; give the command"):
        load_encoder(RetrieverArgs(model=f"local-dir:{tuned}"))
    with pytest.raises(UserError, match=r"open_clip_model\.safetensors: (damaged|missing).*; give the command"):
        find_model(tuned.parent)
    assert contents(tune(place, "used", "optim.max_steps=1")) == expected


def test_a_checkpoint_is_written_where_it_belongs(place, tmp_path, monkeypatch):
    """The temporary folder may be small, or another disk's, from where a file is copied and can be cut."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("shutil.move", None)
    tune(place, "straight")


def test_without_its_last_checkpoint_a_run_goes_on_from_the_one_before(place, caplog):
    settings = ("trainer.checkpoint_every=2", "retriever.tuning.towers=image")
    tuned = tune(place, "before", *settings)
    expected = contents(tuned)
    shutil.rmtree(tuned)
    damage(tuned.parent / "checkpoints" / "step-00000004.ckpt", "flipped")
    assert contents(tune(place, "before", *settings)) == expected
    assert "step-00000004.ckpt: damaged" in caplog.text and "goes on from step-00000002.ckpt" in caplog.text


def test_what_cannot_be_done_is_said(place):
    with pytest.raises(UserError, match="do not fill one step"):
        tune(place, "large", "optim.batch_size=1000")
    with pytest.raises(UserError, match=r"trainer\.strategy=deepspeed_stage_1"):
        tune(place, "deep", "trainer.strategy=deepspeed_stage_1")
