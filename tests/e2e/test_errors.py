"""Errors name what is wrong and what to do, without a traceback."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from tests.manifests import rewrite_manifest

FIT = ("recipe=ranker_lora", "out=run", "cache=cache")


@pytest.mark.parametrize(
    ("module", "arguments", "expected"),
    [
        ("rar_train.fit", ("recipe=ranker_lorra",), ("ranker_lorra", "did you mean ranker_lora?")),
        ("rar_train.fit", (*FIT, "ranker.lora.rnk=8"), ("ranker.lora.rnk", "did you mean ranker.lora.rank?")),
        ("rar_train.fit", (*FIT, "optim.lr=fast"), ("optim.lr",)),
        ("rar_train.fit", (), ("recipe=NAME", "ranker_lora")),
        ("rar_train.fit", (*FIT, "data.name=folder", "data.root=nowhere"), ("nowhere", "no such folder")),
        ("rar_train.fit", (*FIT, "data.name=folder"), ("data.root=PATH",)),
        ("rar_train.fit", (*FIT, "trainer.accelerator=gpu"), ("trainer.accelerator", "cpu")),
        ("data_prep.build", (*FIT, "data.name=armoury"), ("armoury", "armory")),
        ("data_prep.build", (*FIT, "retriever.model=ViT-B-16"), ("retriever.pretrained", "openai")),
        ("data_prep.build", (*FIT, "cache=/dev/null/cache"), ("/dev/null/cache", "is a file, not a folder")),
        ("rar_train.fit", (*FIT, "out=/dev/null/run"), ("/dev/null/run", "is a file, not a folder")),
        ("rar_train.fit", (*FIT, "out=" + "x" * 300), ("xxx", "its name is too long")),
        ("eval.run", ("--ckpt", "nowhere"), ("nowhere", "rar_train.fit")),
    ],
)
def test_an_error_names_what_is_wrong(module: str, arguments: tuple[str, ...], expected: tuple[str, ...], run_here):
    done = run_here(module, *arguments, fails=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for words in expected:
        assert words in done.stderr


def test_print_prints_the_resolved_recipe_and_does_nothing_else(run_here, tmp_path):
    done = run_here("rar_train.fit", *FIT, "ranker.lora.rank=7", "--print")
    printed = OmegaConf.create(done.stdout)
    assert printed.ranker.lora.rank == 7 and printed.task == "ranker" and printed.optim.epochs == 1
    assert not list(tmp_path.iterdir())


def test_hub_models_that_are_unavailable_say_how_to_use_a_local_copy(run_here):
    hub = ("retriever.model=ViT-B-16", "retriever.pretrained=openai", "ranker.model=llava-hf/llava-1.5-7b-hf")
    ranker = run_here("rar_train.fit", *FIT, *hub, fails=True)
    assert "ranker.model=llava-hf/llava-1.5-7b-hf" in ranker.stderr
    assert "ranker.model=FOLDER" in ranker.stderr
    retriever = run_here("data_prep.build", *FIT, *hub, fails=True)
    assert "retriever.model=ViT-B-16" in retriever.stderr
    assert "retriever.pretrained=PATH" in retriever.stderr
    for done in (ranker, retriever):
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_a_run_from_elsewhere_does_not_write_to_the_paths_in_its_recipe(fitted: Path, run_here, tmp_path: Path):
    recipe, outside = fitted / "recipe.yaml", tmp_path.parent / "outside"
    recipe.write_text(recipe.read_text().replace("cache: cache", f"cache: {outside}"))
    for module in ("eval.run", "eval.detection", "eval.discover", "rar_train.export"):
        done = run_here(module, "--ckpt", "run", fails=True)
        assert done.returncode == 2
        assert f"names paths outside its folder: cache: {outside}" in done.stderr
        assert f"as settings: cache={outside}" in done.stderr
    assert not outside.exists()


def test_an_adapter_with_a_missing_weight_is_refused(fitted: Path, run_here):
    weights = fitted / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, weights)
    rewrite_manifest(fitted / "adapter")
    done = run_here("eval.run", "--ckpt", "run", fails=True)
    assert done.returncode == 2
    assert "1 weights missing" in done.stderr
    assert "nothing was loaded" in done.stderr


def test_an_adapter_of_another_base_model_is_refused(fitted: Path, run_here):
    rewrite_manifest(fitted / "adapter", base_model="llava-1.5-7b-hf-0123")
    done = run_here("eval.run", "--ckpt", "run", fails=True)
    assert done.returncode == 2
    assert "llava-1.5-7b-hf-0123" in done.stderr


def test_a_corrupt_shard_is_named(fitted: Path, run_here, small, tmp_path: Path):
    for shard in (tmp_path / "cache").glob("examples-train-*/*.tar"):
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 0xFF
        shard.write_bytes(data)
    shutil.rmtree(fitted)
    done = run_here("rar_train.fit", *FIT, *small, "tracking.wandb=disabled", fails=True)
    assert done.returncode == 2
    assert "examples-000000.tar" in done.stderr
    assert "delete" in done.stderr


def test_a_damaged_memory_is_named(fitted: Path, run_here, small, tmp_path: Path):
    for index in (tmp_path / "cache").glob("memory-*/index-*.faiss"):
        index.write_bytes(index.read_bytes()[:-8])
    for examples in (tmp_path / "cache").glob("examples-*"):
        shutil.rmtree(examples)
    done = run_here("data_prep.build", *FIT, *small, fails=True)
    assert done.returncode == 2
    assert "index-" in done.stderr and ".faiss: missing or damaged" in done.stderr


@pytest.mark.parametrize("module", ["rar_train.fit", "data_prep.build", "eval.run"])
def test_help_shows_the_command_line(module: str, run_command):
    assert f"python -m {module}" in run_command(module, "--help").stdout
