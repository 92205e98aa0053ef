"""Runs the commands with each ranker recipe's settings, on a tiny model of its architecture on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText

from data_prep.settings.loading import load_recipe, recipe_names
from tests.rar_train.tiny_families import save_tiny

FAMILIES = {"llava-hf/llava-1.5": "llava", "Qwen/Qwen2.5-VL": "qwen2_5_vl", "Qwen/Qwen3-VL": "qwen3_vl"}
# 4-bit quantization needs a GPU (tests/rar_train/test_gpu.py); the embedded and the lite models have their own tests.
TESTED_ELSEWHERE = {"ranker_qlora_qwen2_5_vl_7b", "ranker_lora", "ranker_lora_lite"}
# They change the retriever alone, which is replaced below.
TESTED_ELSEWHERE |= {"ranker_siglip2_b16", "ranker_dfn5b_h14", "ranker_bioclip2"}


def ranker_recipes() -> list[str]:
    recipes = {name: load_recipe([f"recipe={name}"]) for name in recipe_names()}
    return [name for name, recipe in recipes.items() if recipe.task == "ranker" and name not in TESTED_ELSEWHERE]


@pytest.mark.slow
@pytest.mark.parametrize("name", ranker_recipes())
def test_a_recipe_can_be_tuned_evaluated_and_exported(name, run_here, run_command, small, shared_cache, tmp_path: Path):
    recipe = load_recipe([f"recipe={name}"])
    kind = next((kind for start, kind in FAMILIES.items() if recipe.ranker.model.startswith(start)), None)
    model = save_tiny(kind, tmp_path / "model") if kind else recipe.ranker.model
    is_distributed = recipe.trainer.devices > 1
    settings = (
        *small,
        f"cache={shared_cache}",
        "data.name=armory",
        f"ranker.model={model}",
        "retriever.model=nano-clip",
        "retriever.pretrained=null",
        "tracking.wandb=disabled",
        "trainer.accelerator=cpu",
        f"trainer.devices={min(2, recipe.trainer.devices)}",
        "optim.max_steps=2",
    )
    (run_command if is_distributed else run_here)("rar_train.fit", f"recipe={name}", *settings, "out=run")
    few = ("eval.seeds=[1]", "eval.batch_size=4", "eval.ranker_only_images=0", "trainer.devices=1")
    table = run_here("eval.run", "--ckpt", "run", *few).stdout
    assert "rar_untuned" in table
    assert (tmp_path / "run" / "eval" / f"test-{recipe.ranker.mode}" / "results.json").is_file()
    run_here("rar_train.export", "--ckpt", "run", "--merge", "--to", "merged")
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
