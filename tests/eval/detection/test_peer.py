"""Zero-shot recognition against ``clip_benchmark``: the same class for every image."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from data_prep.datasets import read_dataset
from data_prep.embedding.encoder import NANO_CLIP, load_encoder
from eval.recognition.choosing import make_fixed_choices
from eval.recognition.tasks import make_tasks

CLASSES = ("barn owl", "crane", "dunlin", "eider", "finch", "gannet", "heron")
TEMPLATES = ("a photo of a {}.", "a drawing of a {}, a bird.")


def write_folder(root: Path) -> None:
    """Writes random blocks of several sizes, so that resizing and cropping matter; a folder per class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1), ("test", 12)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                blocks = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
                size = tuple(rng.integers(60, 200, 2).tolist())
                blocks.resize(size, Image.Resampling.BICUBIC).save(root / split / name / f"{index:02d}.png")


def random_model(folder: Path) -> str:
    """Writes an open_clip model of permuted trained weights, so that images get different classes."""
    shutil.copytree(NANO_CLIP, folder)
    path, generator = folder / "open_clip_model.safetensors", torch.Generator().manual_seed(1)

    def permute(values: torch.Tensor) -> torch.Tensor:
        return values[torch.randperm(len(values), generator=generator)] if values.dim() else values

    weights = safetensors.torch.load_file(path)
    random = {name: permute(values.flatten()).view_as(values).contiguous() for name, values in weights.items()}
    safetensors.torch.save_file(random, path)
    return f"local-dir:{folder}"


@pytest.mark.slow
def test_zero_shot_equals_clip_benchmark_to_the_last_image(tiny, tmp_path):
    peer = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification", reason="needs rar-train[bench]")
    write_folder(tmp_path / "birds")
    settings = ["data.name=folder", f"data.root={tmp_path / 'birds'}", f"retriever.templates={list(TEMPLATES)}"]
    model = f"retriever.model={random_model(tmp_path / 'model')}"
    recipe = tiny(tmp_path / "run", *settings, model, f"cache={tmp_path / 'cache'}", "eval.shots=[]", "eval.k=5")
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("test_memory", "test"))
    encoder = load_encoder(recipe.retriever)
    (zero,) = make_tasks(recipe, encoder, dataset, make_fixed_choices(recipe.eval))
    ours = {
        Path(sample.path).relative_to(tmp_path).as_posix(): dataset.names[labels[0]]
        for sample, labels in zip(dataset.parts["test"], zero.retrieved["clip_zero_shot"], strict=True)
    }

    images = ImageFolder(str(tmp_path / "birds" / "test"), transform=encoder.preprocess)
    prompts = [template.replace("{}", "{c}") for template in TEMPLATES]
    arguments = (encoder.tokenize, images.classes, prompts, "cpu", False)
    classifier = peer.zero_shot_classifier(encoder.model, *arguments)
    logits, targets = peer.run_classification(encoder.model, classifier, DataLoader(images, 16), "cpu", amp=False)
    theirs = {
        Path(path).relative_to(tmp_path).as_posix(): images.classes[label]
        for (path, _), label in zip(images.samples, logits.argmax(1).tolist(), strict=True)
    }
    assert ours == theirs
    assert len(set(theirs.values())) > 2  # the model distinguishes images, so agreement is meaningful
    # Its own accuracy() fails under NumPy 2.4, which gives no scalar for an array of one; this is what it computes.
    right = sum(Path(path).parent.name == name for path, name in ours.items())
    assert right / len(ours) == (logits.argmax(1) == targets).double().mean().item()
