"""Only the projector is trained on names; the run resumes and writes a folder that the ranker loads."""

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
from rar_train.models.loading import load_mllm
from rar_train.projector.datamodule import augmented_view, projector_inputs
from rar_train.projector.name_projector import MapData, fit_none
from rar_train.projector.train import train_projector
from tests.damage import contents, damage
from tests.rar_train.lite.test_mllm import tiny_join
from tests.tiny_emoji import made_place

KINDS = ("lite", "llava")


@pytest.fixture(scope="module")
def root(tmp_path_factory, llava_folder) -> Path:
    root = made_place(tmp_path_factory.mktemp("root"))
    model, processor, *_ = tiny_join()
    model.save_pretrained(root / "lite")
    processor.save_pretrained(root / "lite")
    shutil.copytree(llava_folder, root / "llava")
    return root


def train(root: Path, kind: str, out: str, *settings: str) -> Path:
    small = "optim.batch_size=8 optim.epochs=2 trainer.checkpoint_every=5 trainer.val_examples=7"
    paths = f"ranker.model={root / kind} out={root / f'{kind}-{out}'}"
    fixed = f"data.root={root / 'data'} cache={root / 'cache'} {paths}"
    more = "trainer.accelerator=cpu tracking.wandb=disabled"
    return train_projector(load_recipe(["recipe=mllm_lite", *f"{small} {fixed} {more}".split(), *settings]))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_only_the_projector_and_resumes_to_the_same_weights(root, kind):
    tuned = train(root, kind, "run")
    after, base = weights(tuned), weights(root / kind)
    assert after.keys() == base.keys()
    changed = {name for name, value in after.items() if not torch.equal(value, base[name])}
    assert changed
    assert all("multi_modal_projector" in name for name in changed)
    assert load_mllm(RankerArgs(model=str(tuned))).family
    expected = contents(tuned)
    shutil.rmtree(tuned)
    assert contents(train(root, kind, "run")) == expected
    damage(tuned / "model.safetensors", "flipped")
    with pytest.raises(UserError, match=r"model\.safetensors: damaged"):
        load_mllm(RankerArgs(model=str(tuned)))
    shutil.rmtree(tuned)
    damage(max((tuned.parent / "checkpoints").glob("*.ckpt")), "cut")
    assert contents(train(root, kind, "run")) == expected


@pytest.mark.parametrize(("kind", "metric"), [("lite", "named"), ("llava", "loss")])
def test_training_improves_the_validation_metric(root, kind, metric):
    def train_for(steps: int) -> float:
        more = ("optim.epochs=30", f"optim.max_steps={steps}", "trainer.log_every=1", "trainer.feature_cache=false")
        return read_json(train(root, kind, f"{steps}", *more) / "manifest.json")["validation"][metric]

    first, last = train_for(5), train_for(60)
    assert last > first if metric == "named" else last < first


def test_lite_mllms_dictionary_holds_the_training_names(root):
    tuned = load_mllm(RankerArgs(model=str(train(root, "lite", "words"))))
    projector, embeddings = tuned.base.model.multi_modal_projector, tuned.base.get_input_embeddings().weight
    recipe = load_recipe(["recipe=mllm_lite", f"data.root={root / 'data'}"])
    dataset = read_dataset(recipe.data, root / "cache", ("train",))
    labels = dataset.labels("train")
    assert len(projector.spelling) == projector.readers[0].head.out_features == len(labels)
    ids = tuned.answer_ids(NAMING, dataset.names[labels[1]])[0]
    assert torch.equal(projector.words[projector.spelling[1, 0]], embeddings[ids])


def test_each_epoch_uses_another_view_of_an_image_and_the_first_is_the_image_itself(root):
    mllm = load_mllm(RankerArgs(model=str(root / "lite")))
    recipe = load_recipe(["recipe=mllm_lite", f"data.root={root / 'data'}", "trainer.feature_views=3"])
    dataset = read_dataset(recipe.data, root / "cache", ("train", "val"))
    data = MapData(recipe, mllm, dataset, 0)
    sample = dataset.parts["train"][1]
    views = torch.stack([data.rows["train"][SampledExample(1, epoch, 1.0)][0] for epoch in (2, 0, 1)]).float()
    expected = torch.cat([projector_inputs(mllm, [sample], view) for view in range(3)])
    assert torch.allclose(views, expected, atol=1e-2)
    assert not torch.allclose(views[1], views[2], atol=1e-2)
    assert np.array_equal(augmented_view(sample, 0), open_image(sample.path))
    assert len(data.rows["val"]) == len(dataset.parts["val"])


def test_a_llavas_configured_layer_and_tokens_reach_its_projector(root):
    mllm = load_mllm(RankerArgs(model=str(root / "llava")))
    recipe = load_recipe(["recipe=mllm_lite", f"data.root={root / 'data'}"])
    samples = read_dataset(recipe.data, root / "cache", ("train",)).parts["train"][:3]
    images = [open_image(sample.path) for sample in samples]
    pixels = mllm.processor.image_processor(images, return_tensors="pt").pixel_values
    with torch.no_grad():
        states = mllm.base.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    assert torch.allclose(projector_inputs(mllm, samples), states[-2][:, 1:], atol=1e-5)


def test_too_few_images_are_an_error(root):
    with pytest.raises(UserError, match=r"do not fill a step of optim\.batch_size"):
        train(root, "lite", "large", "optim.batch_size=1000")


def test_a_data_set_split_by_classes_trains_and_warns_that_val_shares_no_class(root, tmp_path, caplog):
    classes = [f"data.armory.{part}_classes=8" for part in ("train", "val", "test")]
    armory = ("data.name=armory", "data.root=null", *classes, "data.armory.train_images=2", "optim.max_steps=2")
    tuned = train(root, "lite", "split", *armory, f"out={tmp_path}", "trainer.checkpoint_every=2")
    assert read_json(tuned / "manifest.json")["validation"]["named"] == 0
    assert "val has none of the classes" in caplog.text


def test_none_of_the_names_is_likelier_the_lower_the_logits_of_withheld_classes_are():
    rng = torch.Generator().manual_seed(0)
    known = torch.eye(3)[torch.arange(300) % 3] * 8 + torch.randn(300, 3, generator=rng)
    unknown = torch.randn(300, 3, generator=rng) + 2
    targets = torch.cat([torch.arange(300) % 3, torch.full((300,), 3)])
    scale, none = fit_none(torch.cat([known, unknown]), targets)
    shares = torch.cat([torch.cat([known, unknown]) * scale, torch.full((600, 1), none)], 1).softmax(1)
    assert (shares.argmax(1) == targets).float().mean() > 0.97
    # At the optimum of a maximum likelihood fit the mean share of an answer is its frequency.
    assert abs(shares[:, 3].mean().item() - 0.5) < 1e-3
