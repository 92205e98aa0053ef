"""A projector is trained on names, alone, resumes, and gives a folder that the ranker loads."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.images import open_image
from data_prep.datasets import read_dataset
from data_prep.prompting.prompts import NAMING
from data_prep.settings import RankerArgs
from data_prep.settings.loading import load_recipe
from rar_train.engine.sampler import SampledExample
from rar_train.models.mllm import load_mllm
from rar_train.projector.datamodule import augmented_view, projector_inputs
from rar_train.projector.name_projector import MapData
from rar_train.projector.train import train_projector
from tests.damage import contents, damage
from tests.rar_train.lite.test_mllm import tiny_join
from tests.tiny_emoji import made_place

KINDS = ("lite", "llava")


@pytest.fixture(scope="module")
def place(tmp_path_factory, llava_folder) -> Path:
    place = made_place(tmp_path_factory.mktemp("place"))
    model, processor, *_ = tiny_join()
    model.save_pretrained(place / "lite")
    processor.save_pretrained(place / "lite")
    shutil.copytree(llava_folder, place / "llava")
    return place


def train(place: Path, kind: str, out: str, *settings: str) -> Path:
    small = "optim.batch_size=8 optim.epochs=2 trainer.checkpoint_every=5 trainer.val_examples=7"
    own = f"ranker.model={place / kind} out={place / f'{kind}-{out}'}"
    fixed = f"data.root={place / 'data'} cache={place / 'cache'} {own}"
    more = "trainer.accelerator=cpu tracking.wandb=disabled"
    return train_projector(load_recipe(["recipe=mllm_lite", *f"{small} {fixed} {more}".split(), *settings]))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_the_projector_alone_and_resumes_to_the_same_weights(place, kind):
    tuned = train(place, kind, "run")
    found, base = weights(tuned), weights(place / kind)
    assert found.keys() == base.keys()
    changed = {name for name, value in found.items() if not torch.equal(value, base[name])}
    assert changed
    assert all("multi_modal_projector" in name for name in changed)
    assert load_mllm(RankerArgs(model=str(tuned))).family
    expected = contents(tuned)
    shutil.rmtree(tuned)
    assert contents(train(place, kind, "run")) == expected
    damage(tuned / "model.safetensors", "flipped")
    with pytest.raises(UserError, match=r"model\.safetensors: damaged"):
        load_mllm(RankerArgs(model=str(tuned)))
    shutil.rmtree(tuned)
    damage(max((tuned.parent / "checkpoints").glob("*.ckpt")), "cut")
    assert contents(train(place, kind, "run")) == expected


@pytest.mark.parametrize(("kind", "figure"), [("lite", "named"), ("llava", "loss")])
def test_names_become_likelier(place, kind, figure):
    def reached(steps: int) -> float:
        more = ("optim.epochs=30", f"optim.max_steps={steps}", "trainer.log_every=1", "trainer.feature_cache=false")
        return read_json(train(place, kind, f"{steps}", *more) / "manifest.json")["validation"][figure]

    first, last = reached(5), reached(60)
    assert last > first if figure == "named" else last < first


def test_lite_mllms_dictionary_holds_the_tuning_names(place):
    tuned = load_mllm(RankerArgs(model=str(train(place, "lite", "words"))))
    projector, embeddings = tuned.base.model.multi_modal_projector, tuned.base.get_input_embeddings().weight
    recipe = load_recipe(["recipe=mllm_lite", f"data.root={place / 'data'}"])
    dataset = read_dataset(recipe.data, place / "cache", ("train",))
    labels = dataset.labels("train")
    assert len(projector.spelling) == projector.readers[0].head.out_features == len(labels)
    ids = tuned.answer_ids(NAMING, dataset.names[labels[1]])[0]
    assert torch.equal(projector.words[projector.spelling[1, 0]], embeddings[ids])


def test_each_epoch_shows_another_view_of_a_picture_and_the_first_is_itself(place):
    mllm = load_mllm(RankerArgs(model=str(place / "lite")))
    recipe = load_recipe(["recipe=mllm_lite", f"data.root={place / 'data'}", "trainer.feature_views=3"])
    dataset = read_dataset(recipe.data, place / "cache", ("train", "val"))
    data = MapData(recipe, mllm, dataset, 0)
    sample = dataset.parts["train"][1]
    views = torch.stack([data.rows["train"][SampledExample(1, epoch, 1.0)][0] for epoch in (2, 0, 1)]).float()
    wanted = torch.cat([projector_inputs(mllm, [sample], view) for view in range(3)])
    assert torch.allclose(views, wanted, atol=1e-2)
    assert not torch.allclose(views[1], views[2], atol=1e-2)
    assert np.array_equal(augmented_view(sample, 0), open_image(sample.path))
    assert len(data.rows["val"]) == len(dataset.parts["val"])


def test_a_llavas_own_layer_and_tokens_reach_its_projector(place):
    mllm = load_mllm(RankerArgs(model=str(place / "llava")))
    recipe = load_recipe(["recipe=mllm_lite", f"data.root={place / 'data'}"])
    samples = read_dataset(recipe.data, place / "cache", ("train",)).parts["train"][:3]
    images = [open_image(sample.path) for sample in samples]
    pixels = mllm.processor.image_processor(images, return_tensors="pt").pixel_values
    with torch.no_grad():
        states = mllm.base.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    assert torch.allclose(projector_inputs(mllm, samples), states[-2][:, 1:], atol=1e-5)


def test_too_few_pictures_are_an_error(place):
    with pytest.raises(UserError, match=r"do not fill a step of optim\.batch_size"):
        train(place, "lite", "large", "optim.batch_size=1000")


def test_a_data_set_split_by_classes_trains_too_and_says_that_it_validates_nothing(place, tmp_path, caplog):
    classes = [f"data.armory.{part}_classes=8" for part in ("train", "val", "test")]
    armory = ("data.name=armory", "data.root=null", *classes, "data.armory.train_images=2", "optim.max_steps=2")
    tuned = train(place, "lite", "split", *armory, f"out={tmp_path}", "trainer.checkpoint_every=2")
    assert read_json(tuned / "manifest.json")["validation"]["named"] == 0
    assert "development shows none of the classes" in caplog.text
