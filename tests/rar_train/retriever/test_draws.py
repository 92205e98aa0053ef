"""Tuning on the draws of an evaluation: the same images, one folder each, resumable, and none that is evaluated."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.datasets import read_dataset
from data_prep.embedding.encoder import load_encoder
from data_prep.memory.memories import load_memories
from data_prep.settings import Recipe, RetrieverArgs
from data_prep.settings.loading import load_recipe
from rar_train.retriever.draws import list_draws, read_draws, train_draws
from tests.damage import contents

SETTINGS = (
    "recipe=retriever_clip_lora",
    "data.armory.train_classes=16",
    "data.armory.val_classes=8",
    "data.armory.test_classes=8",
    "data.armory.memory_images=4",
    "data.armory.query_images=2",
    "data.armory.size=48",
    "tracking.wandb=disabled",
    "trainer.accelerator=cpu",
    "eval.shots=[2]",
    "eval.seeds=[1]",
    "optim.max_steps=5",
    "optim.batch_size=8",
    "optim.lr=1e-2",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("root")


def make(root: Path, out: str, *settings: str) -> Recipe:
    return load_recipe([*SETTINGS, f"cache={root / 'cache'}", f"out={root / out}", *settings])


def models(root: Path, out: str, *settings: str) -> list[Path]:
    return sorted(path / "model" for path in train_draws(make(root, out, *settings)).iterdir())


def test_each_draw_has_a_model_of_the_memorys_images(root):
    tuned = models(root, "both", "eval.seeds=[1,2]")
    recipe, base = make(root, "both"), load_encoder(RetrieverArgs())
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("test_memory", "test"))
    assert [path.parent.name.rsplit("-", 1)[0] for path in tuned] == ["shots-2-seed-1", "shots-2-seed-2"]
    for seed, folder in zip((1, 2), tuned, strict=True):
        manifest = read_json(folder / "manifest.json")
        memories = load_memories(recipe, base, dataset, "test_memory", 2, seed)
        (draw,) = list_draws(make(root, "both", f"eval.seeds=[{seed}]"), dataset)
        assert [s.digest for s in draw.samples] == [entry.digest for entry in memories.images.entries]
        assert manifest["base"] == base.id and manifest["steps"] == 5
        assert manifest["draw"]["digest"] == draw.digest and manifest["draw"]["classes"] == list(dataset.names)
        assert (manifest["part"], manifest["draw"]["shots"], manifest["draw"]["seed"]) == ("test_memory", 2, seed)
        encoder = load_encoder(RetrieverArgs(model=f"local-dir:{folder}"))
        assert encoder.model.state_dict().keys() == base.model.state_dict().keys()
        changed = {n for n, v in encoder.model.state_dict().items() if not torch.equal(v, base.model.state_dict()[n])}
        assert {name.rpartition(".")[2] for name in changed} == {"in_proj_weight"} and len(changed) == 8
    weights = [load_file(folder / "open_clip_model.safetensors") for folder in tuned]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_draw_that_is_there_is_kept_and_others_are_added(root):
    (first,) = models(root, "more")
    before = contents(first)
    written = (first / "manifest.json").stat().st_mtime_ns
    both = models(root, "more", "eval.seeds=[1,3]")
    assert first in both and len(both) == 2
    assert contents(first) == before and (first / "manifest.json").stat().st_mtime_ns == written
    with pytest.raises(UserError, match=r"holds a run with other settings \(optim\.lr"):
        models(root, "more", "optim.lr=1e-3")


def test_a_resumed_draw_has_the_same_weights(root):
    (tuned,) = models(root, "resumed")
    expected = contents(tuned)
    shutil.rmtree(tuned)
    checkpoints = tuned.parent / "checkpoints"
    assert {path.stem for path in checkpoints.iterdir()} == {"step-00000004", "step-00000005"}
    (checkpoints / "step-00000005.ckpt").unlink()
    (again,) = models(root, "resumed")
    assert contents(again) == expected
    state = torch.load(checkpoints / "step-00000005.ckpt", weights_only=True)["state_dict"]
    assert state and all("lora_" in name for name in state), "a checkpoint holds the adapters alone"


def test_validation_draws_have_other_classes_than_test_draws(root):
    (on_test,), on_both = models(root, "splits"), models(root, "splits", "eval.split=val")
    (on_val,) = set(on_both) - {on_test}
    manifests = [read_json(folder / "manifest.json") for folder in (on_test, on_val)]
    assert [manifest["part"] for manifest in manifests] == ["test_memory", "val_memory"]
    assert not set(manifests[0]["draw"]["classes"]) & set(manifests[1]["draw"]["classes"])


def write_photographs(folder: Path, root: Path) -> Path:
    """Writes two classes with splits, of which one evaluated image is also one of the memory's."""
    dataset = read_dataset(make(root, "x").data, root / "cache", ("test_memory", "test"))
    for split, part in (("train", "test_memory"), ("test", "test")):
        for label in (0, 1):
            target = folder / split / dataset.names[label].replace(",", "")
            target.mkdir(parents=True)
            for index, sample in enumerate(s for s in dataset.parts[part] if s.label == label):
                shutil.copy(sample.path, target / f"{index}.png")
            if split == "test":
                shutil.copy(dataset.parts["test_memory"][4 * label].path, target / "copy.png")
    return folder


def test_evaluated_images_are_not_trained_on(root, tmp_path):
    folder = write_photographs(tmp_path / "photographs", root)
    own = ("data.name=folder", f"data.root={folder}", "data.split_ratios=[0.5,0.25,0.25]")
    with pytest.raises(UserError, match=r"evaluated too, byte for byte.*eval\.leaks=skip"):
        train_draws(make(root, "leak", *own))
    skipping = make(root, "leak", *own, "eval.leaks=skip", "eval.shots=[4]")
    dataset = read_draws(skipping)
    (draw,) = list_draws(skipping, dataset)
    assert not {s.digest for s in draw.samples} & {s.digest for s in dataset.parts["test"]}


def test_unsupported_settings_are_errors(root):
    with pytest.raises(UserError, match=r"eval\.shots=\[\]"):
        train_draws(make(root, "none", "eval.shots=[]"))
    with pytest.raises(UserError, match="each draw is tuned in one process"):
        train_draws(make(root, "two", "trainer.devices=2"))
    with pytest.raises(UserError, match=r"lora_dropout=0\.5: only with lora_layers=qkv"):
        make(root, "dropout", "retriever.tuning.lora_dropout=0.5", "retriever.tuning.lora_layers=linear")
    with pytest.raises(UserError, match=r"loss=cross_entropy: tunes towers"):
        make(
            root,
            "features",
            "retriever.tuning.towers=projections",
            "retriever.tuning.lora_rank=0",
            "retriever.tuning.lora_dropout=0",
            "retriever.tuning.flip=false",
            "retriever.tuning.augment=false",
        )
