"""Tuning the retriever: it learns, resumes to the same weights, and gives a folder that open_clip loads."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_prep.encoder import load_encoder
from data_prep.errors import UserError
from data_prep.recipe import load_recipe
from data_prep.settings import RetrieverArgs
from rar_train.retriever import train_retriever

SETTINGS = (
    "recipe=retriever_clip",
    "data.armory.tuning_classes=16",
    "data.armory.development_classes=8",
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
    shutil.rmtree(tuned)
    assert [path.name for path in (tuned.parent / "checkpoints").iterdir()] == ["step-00000003.ckpt"]
    again = weights(tune(place, f"run-{rank}", f"retriever.tuning.lora_rank={rank}", "retriever.tuning.towers=image"))
    # peft adds an attention's adapter to its weights and takes it off again in every pass, which rounds.
    most = 1e-4 if rank else 0
    assert max((again[name] - value).abs().max().item() for name, value in whole.items()) <= most


def test_what_cannot_be_done_is_said(place):
    with pytest.raises(UserError, match="do not fill one step"):
        tune(place, "large", "optim.batch_size=1000")
    with pytest.raises(UserError, match=r"trainer\.strategy=deepspeed_stage_1"):
        tune(place, "deep", "trainer.strategy=deepspeed_stage_1")
