"""The projector is trained on names, alone, resumes, and gives a folder that the ranker loads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_prep.errors import UserError
from data_prep.recipe import load_recipe
from data_prep.settings import RankerArgs
from rar_train.backend import load_mllm
from rar_train.projector import train_projector
from tests.rar_train.test_lite_mllm import tiny_join
from tests.tiny_emoji import made_place


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = made_place(tmp_path_factory.mktemp("place"))
    model, processor, *_ = tiny_join()
    model.save_pretrained(place / "lite-mllm")
    processor.save_pretrained(place / "lite-mllm")
    return place


def train(place: Path, out: str, *settings: str) -> Path:
    small = "optim.batch_size=8 optim.epochs=2 trainer.checkpoint_every=5 trainer.validation_images=7"
    fixed = f"data.root={place / 'data'} ranker.model={place / 'lite-mllm'} cache={place / 'cache'} out={place / out}"
    more = "trainer.accelerator=cpu tracking.wandb=disabled"
    return train_projector(load_recipe(["recipe=mllm_lite", *f"{small} {fixed} {more}".split(), *settings]))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_it_trains_the_projector_alone_and_resumes_to_the_same_weights(place):
    tuned = train(place, "run")
    found, base = weights(tuned), weights(place / "lite-mllm")
    changed = {name for name, value in found.items() if not torch.equal(value, base[name])}
    assert changed
    assert all("multi_modal_projector" in name for name in changed)
    assert load_mllm(RankerArgs(model=str(tuned))).family
    shutil.rmtree(tuned)
    again = weights(train(place, "run"))
    assert max((again[name] - value).abs().max().item() for name, value in found.items()) <= 1e-6


def test_names_become_likelier(place):
    def loss(steps: int) -> float:
        from data_prep.files import read_json

        folder = train(place, f"loss-{steps}", "optim.epochs=30", f"optim.max_steps={steps}", "trainer.log_every=1")
        return read_json(folder / "manifest.json")["validation"]["val/loss"]

    assert loss(40) < loss(5)


def test_too_few_pictures_are_an_error(place):
    with pytest.raises(UserError, match=r"do not fill a step of optim\.batch_size"):
        train(place, "large", "optim.batch_size=1000")
