"""Encoders side by side: recall on validation images equals a search by hand, and words name models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.core.errors import UserError
from data_prep.datasets import read_dataset
from data_prep.embedding.encoder import embed_images, embed_names, load_encoder
from data_prep.memory.commands import main as memory
from data_prep.memory.compare import compare_encoders, format_rows, parse_model
from data_prep.settings import RetrieverArgs
from data_prep.settings.loading import load_recipe
from tests.tiny_encoders import write_timm

SMALL = [
    "recipe=ranker_lora",
    "data.armory.train_classes=4",
    "data.armory.val_classes=12",
    "data.armory.test_classes=4",
    "data.armory.train_images=2",
    "data.armory.memory_images=3",
    "data.armory.query_images=2",
    "trainer.accelerator=cpu",
    "eval.shots=[3]",
    "eval.seeds=[1]",
]


@pytest.fixture(scope="module")
def timm_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "timm"
    write_timm(folder)
    return f"timm:{folder}"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return [*SMALL, f"cache={tmp_path_factory.mktemp('cache')}"]


def recall_by_hand(scores: np.ndarray, truths: np.ndarray) -> dict[int, float]:
    ranks = (scores > scores[np.arange(len(truths)), truths][:, None]).sum(1)
    return {k: float((ranks < k).mean()) for k in (1, 5, 10)}


def test_recall_equals_a_search_by_hand(settings, timm_model):
    recipe = load_recipe(settings)
    rows = list(compare_encoders(["nano-clip", timm_model, f"{timm_model}+nano-clip"], recipe))
    assert [row.candidates for row in rows] == [
        *("names", "images, 3 shots", "both, 3 shots"),
        "images, 3 shots",
        *("names", "images, 3 shots", "both, 3 shots"),
    ]
    cache = Path(recipe.cache)
    dataset = read_dataset(recipe.data, cache, ("val_memory", "val"))
    labels = dataset.labels("val_memory")
    truths = np.array([labels.index(sample.label) for sample in dataset.parts["val"]])
    owners = np.array([labels.index(sample.label) for sample in dataset.parts["val_memory"]])
    args = RetrieverArgs()
    encoder = load_encoder(args)
    xq, xb = (embed_images(encoder, dataset.parts[part], args, cache) for part in ("val", "val_memory"))
    names = embed_names(encoder, [dataset.texts[label] for label in labels], args, cache)
    assert rows[0].recall == pytest.approx(recall_by_hand(xq @ names.T, truths))
    best = np.stack([(xq @ xb[owners == label].T).max(1) for label in range(len(labels))], 1)
    assert rows[1].recall == pytest.approx(recall_by_hand(best, truths))
    assert rows[4].recall == rows[0].recall and rows[5].recall == rows[3].recall, "each side is its encoder's alone"
    assert rows[0].speed > 0 and rows[4].speed is None, "both sides of the pair were in the cache"
    assert (rows[0].dimension, rows[3].dimension) == (str(xq.shape[1]), "32")
    assert rows[6].dimension == f"32, {xq.shape[1]}"


def test_the_table_has_a_line_for_each_source(settings, capsys):
    memory(["compare", "nano-clip", *settings])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["encoder", "dimension"] and lines[0].endswith("recall@1  recall@5  recall@10")
    assert len(lines) == 4 and lines[1].startswith("nano-clip") and "both, 3 shots" in lines[3]
    assert all(0 <= float(cell) <= 100 for line in lines[1:] for cell in line.split()[-3:])
    assert format_rows([]) == ["  ".join(lines[0].split())]


def test_a_word_names_a_model_its_weights_and_a_second_model():
    args = RetrieverArgs(model="nano-clip", pretrained=None, top_m=7)
    found = parse_model("ViT-B-16,weights.pt,openai", args)
    assert (found.model, found.pretrained, found.tag, found.name_model, found.top_m) == (
        *("ViT-B-16", "weights.pt", "openai", None),
        7,
    )
    pair = parse_model("timm:vit_small_patch14_dinov2.lvd142m+ViT-B-16-SigLIP2,webli", args)
    assert (pair.model, pair.pretrained) == ("timm:vit_small_patch14_dinov2.lvd142m", None)
    assert (pair.name_model, pair.name_pretrained, pair.name_tag) == ("ViT-B-16-SigLIP2", "webli", None)
    instructed = RetrieverArgs(model="st:a/b", image_instruction="look")
    assert parse_model("st:c/d", instructed).image_instruction == "look"
    assert parse_model("nano-clip", instructed).image_instruction is None
    for wrong in ("", "a+b+c", "a,b,c,d", "+a", "a+"):
        with pytest.raises(UserError, match="give MODEL, MODEL,PRETRAINED or MODEL,PRETRAINED,TAG"):
            parse_model(wrong, args)


def test_models_are_needed_and_wrong_ones_are_reported_before_data_is_read(settings):
    with pytest.raises(UserError, match="give the models to compare"):
        memory(["compare", *settings])
    with pytest.raises(UserError, match="a,b,c,d: give MODEL"):
        memory(["compare", "nano-clip", "a,b,c,d", *settings])
