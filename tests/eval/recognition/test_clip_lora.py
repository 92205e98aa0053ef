"""CLIP-LoRA in an evaluation: its row, its candidates, and runs that lack draws or have those of other images."""

from __future__ import annotations

import logging
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.adapters.draws import load_draw
from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.images import open_image
from data_prep.datasets import read_dataset
from data_prep.embedding.encoder import load_encoder
from data_prep.settings import Recipe
from data_prep.settings.loading import load_recipe
from eval.recognition import choosing
from eval.recognizer.recognizer import Recognizer
from eval.report.predictions import read_predictions
from eval.run import main
from rar_train.retriever.draws import train_draws
from tests.manifests import rewrite_manifest

FEW = ("eval.shots=[2]", "eval.seeds=[1]", "eval.ranker_only_images=0", "eval.adapters=[tip]")


def tune(base: Recipe, out: Path, *splits: str) -> Path:
    """Tunes on the draws of splits of another recipe's data, for two steps each."""
    clip = load_recipe(["recipe=retriever_clip_lora", f"out={out}", "tracking.wandb=disabled"])
    clip = replace(clip, data=base.data, cache=base.cache, trainer=replace(clip.trainer, accelerator="cpu"))
    clip = replace(clip, optim=replace(clip.optim, max_steps=2, lr=0.02))
    for split in splits:
        train_draws(replace(clip, eval=replace(base.eval, split=split, shots=[2], seeds=[1])))
    return out


@pytest.fixture(scope="module")
def drawn(tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an encoder for one draw of each split."""
    folder = tmp_path_factory.mktemp("drawn")
    return tune(tiny(folder / "unused"), folder / "run", "test", "val")


@pytest.fixture(scope="module")
def evaluated(finished: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose ranker has ranked CLIP-LoRA's candidates, with fusion fitted on its 16 validation images."""
    run = shutil.copytree(finished, tmp_path_factory.mktemp("clip_lora") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "MIN_IMAGES", 10)
        settings = (f"eval.clip_lora={drawn}", "eval.candidates=clip_lora", "eval.fusion=true", *FEW)
        main(["--ckpt", str(run), *settings, "eval.full_train_memory=true", "--name", "drawn"])
    return run


def test_its_row_is_zero_shot_classification_by_the_draws_encoder(evaluated, drawn, tiny):
    recipe = tiny(evaluated)
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("test_memory", "test"))
    draw = load_draw(recipe, dataset, "test_memory", 2, 1)
    encoder = load_encoder(replace(recipe.retriever, model=f"local-dir:{draw.folder(drawn) / 'model'}"))
    pixels = torch.stack([encoder.preprocess(open_image(sample.path)) for sample in dataset.parts["test"]])
    with torch.no_grad():
        scores = encoder.encode_images(pixels) @ encoder.encode_texts(list(dataset.names)).T
    expected = [dataset.names[label] for label in scores.argmax(1).tolist()]
    lines = [line for line in read_predictions(evaluated / "eval" / "drawn") if line["method"] == "clip_lora"]
    by_key = {line["key"]: line["ranking"][0] for line in lines}
    assert [by_key[sample.key] for sample in dataset.parts["test"]] == expected
    assert {(line["task"], line["shots"], line["seed"]) for line in lines} == {("few_shot", 2, 1)}
    results = read_json(evaluated / "eval" / "drawn" / "results.json")
    (row,) = [row for row in results["rows"] if row["method"] == "clip_lora"]
    truths = [dataset.names[sample.label] for sample in dataset.parts["test"]]
    assert row["top1"] == pytest.approx(np.mean([a == b for a, b in zip(expected, truths, strict=True)]))
    assert "CLIP-LoRA" in (evaluated / "eval" / "drawn" / "report.html").read_text()


def test_the_ranker_sees_its_candidates_and_fusion_its_scores(evaluated):
    folder = evaluated / "eval" / "drawn"
    lines = [line for line in read_predictions(folder) if line["task"] == "few_shot"]
    own = {line["key"]: line["ranking"] for line in lines if line["method"] == "clip_lora"}
    ranked = [line for line in lines if line["method"] == "rar"]
    assert len(ranked) == len(own) == 16
    for line in ranked:
        names = [candidate["name"] for candidate in line["candidates"]]
        assert names == own[line["key"]][: len(names)]
        third = [similarities[2] for similarities in line["similarities"]]
        assert third == pytest.approx([candidate["score"] for candidate in line["candidates"]], abs=1e-5)
    choices = read_json(folder / "results.json")["choice"]
    assert {kind: choice["source"] for kind, choice in choices.items()} == {
        "zero_shot-0": "name", "few_shot-2": "clip_lora", "whole_set-0": "fused",
    }  # fmt: skip


def test_what_is_chosen_with_it_is_not_the_runs_own_choice(evaluated):
    assert not list((evaluated / "eval").glob("choices-*.json"))
    assert (evaluated / "eval" / "drawn" / "choices.json").is_file()
    with pytest.raises(UserError, match=r"eval\.candidates=clip_lora: its encoders belong to"):
        Recognizer.from_pretrained(evaluated, None, "eval.candidates=clip_lora", "eval.clip_lora=x").memory.candidates(
            np.eye(1, 128, dtype=np.float32), 2, "clip_lora"
        )


def test_auto_compares_it_where_validation_draws_are_there(finished, drawn, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(choosing, "MIN_IMAGES", 10)
    run = shutil.copytree(finished, tmp_path / "run")
    without = shutil.copytree(drawn, tmp_path / "without")
    for folder in (without / "draws").iterdir():
        if read_json(folder / "model" / "manifest.json")["part"] == "val_memory":
            shutil.rmtree(folder)
    for name, draws in (("all", drawn), ("test", without)):
        settings = (f"eval.clip_lora={draws}", "eval.candidates=auto", *FEW)
        with caplog.at_level(logging.WARNING):
            main(["--ckpt", str(run), *settings, "--name", name])
        results = read_json(run / "eval" / name / "results.json")
        compared = [row["source"] for row in results["choice"]["few_shot-2"]["sources"]]
        assert compared == ["fused", "image", "name", "tip", *(["clip_lora"] if name == "all" else [])]
        assert {row["method"] for row in results["rows"]} >= {"clip_lora", "tip"}
        assert ("not compared as a source of candidates" in caplog.text) == (name == "test")


def command_of(error: pytest.ExceptionInfo) -> Recipe:
    """Reads the command that an error names."""
    words = shlex.split(str(error.value).partition("python -m rar_train.fit ")[2])
    return load_recipe(words)


def test_a_missing_draw_is_an_error_that_names_the_command(finished, drawn, tiny, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(UserError, match=r"no encoder for 2 shots, seed 7 of test_memory\. Make it") as error:
        main(["--ckpt", str(run), f"eval.clip_lora={drawn}", *FEW, "eval.seeds=[1,7]"])
    made, wanted = command_of(error), tiny(run)
    assert (made.task, made.eval.shots, made.eval.seeds, made.out) == ("retriever", [2], [7], str(drawn))
    assert made.data == wanted.data and made.cache == wanted.cache
    assert (made.optim.max_steps, made.optim.lr) == (2, 0.02), "tuned as the other draws"
    with pytest.raises(UserError, match="no encoder for 2 shots, seed 1") as error:
        main(["--ckpt", str(run), f"eval.clip_lora={tmp_path / 'nothing'}", *FEW])
    assert "is of other images" not in str(error.value) and "recipe=retriever_clip_lora " in str(error.value)


def test_draws_of_other_images_prompts_or_encoders_are_refused(finished, drawn, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    other = "shots-2-seed-1-[0-9a-f]{8} is of other images, classes or prompts"
    for setting in ("data.armory.memory_images=3", "retriever.templates=['a shield: {}']"):
        with pytest.raises(UserError, match=other):
            main(["--ckpt", str(run), f"eval.clip_lora={drawn}", *FEW, setting])
    copy = shutil.copytree(drawn, tmp_path / "copy")
    for folder in (copy / "draws").iterdir():
        rewrite_manifest(folder / "model", base="ViT-B-16-0123456789abcdef")
    with pytest.raises(UserError, match=r"was tuned from ViT-B-16-0123456789abcdef, and the evaluation's encoder is"):
        main(["--ckpt", str(run), f"eval.clip_lora={copy}", *FEW])


def test_settings_that_need_a_run_or_exclude_one_are_errors():
    with pytest.raises(UserError, match=r"give eval\.clip_lora=RUN too"):
        load_recipe(["recipe=ranker_lora", "eval.candidates=clip_lora"])
    with pytest.raises(UserError, match="have seen the images of all classes"):
        load_recipe(["recipe=ranker_lora", "eval.clip_lora=runs/x", "eval.open_set_fraction=0.3"])
    with pytest.raises(UserError, match=r"eval\.classes=new: .* draws of all classes"):
        load_recipe(["recipe=ranker_lora", "eval.clip_lora=runs/x", "eval.classes=new"])
