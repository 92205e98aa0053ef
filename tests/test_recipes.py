"""Every recipe in the package resolves, and its header says how to launch it."""

from __future__ import annotations

import open_clip
import pytest

from data_prep.settings import REWARDED, SCORED
from data_prep.settings.loading import RECIPES, load_recipe, recipe_names
from rar_train.families.table import FAMILIES

# Model names on the hub, and the family of each.
FAMILY_BY_HUB_NAME = {
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2_5_vl",
    "Qwen/Qwen2.5-VL-32B-Instruct": "qwen2_5_vl",
    "Qwen/Qwen3-VL-8B-Instruct": "qwen3_vl",
    "Qwen/Qwen3-VL-Reranker-2B": "qwen3_vl",
    "llava-hf/llava-1.5-7b-hf": "llava",
}


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_resolves_and_its_header_says_how_to_launch_it(name):
    recipe = load_recipe([f"recipe={name}"])
    header = [line for line in (RECIPES / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert any("python -m " in line and f"recipe={name}" in line for line in header)
    assert recipe.out.startswith("runs/")


@pytest.mark.parametrize("name", [n for n in recipe_names() if n.startswith(("ranker_", "rar_"))])
def test_the_settings_of_a_ranker_recipe_are_consistent(name):
    recipe = load_recipe([f"recipe={name}"])
    ranker, trainer = recipe.ranker, recipe.trainer
    assert recipe.task == "ranker"
    families = FAMILY_BY_HUB_NAME | {
        "nano-mllm": "llava",
        "runs/mllm_lite/model": "name_llava",
        "runs/mllm_caltech/model": "name_llava",
    }
    family = FAMILIES[families[ranker.model]]
    assert ranker.max_pixels is None or family.budget is not None
    assert not trainer.feature_cache or (family.fixed_tower and "vision" not in ranker.lora.scope)
    # The evaluation mode is one that the objectives train.
    trained_modes = {"listwise": "letters", "list": "generate"}
    trained_modes |= {name: name.removeprefix("reward_") for name in REWARDED} | {mode: mode for mode in SCORED}
    assert ranker.mode in {trained_modes[objective] for objective in ranker.objectives.weights}
    assert ranker.dtype == "float32" or trainer.precision == "bf16-mixed"  # the adapter stays in float32


def test_the_recipe_of_the_paper_has_the_values_of_the_paper():
    recipe = load_recipe(["recipe=rar_paper"])
    assert (recipe.optim.lr, recipe.optim.epochs, recipe.mining.k) == (1e-5, 1, 5)
    assert recipe.ranker.objectives.weights == {"list": 1.0}
    assert recipe.ranker.model == "llava-hf/llava-1.5-7b-hf" and recipe.ranker.mode == "generate"
    assert (recipe.retriever.model, recipe.retriever.pretrained) == ("ViT-B-16", "openai")


@pytest.mark.parametrize("name", recipe_names())
def test_the_retriever_of_a_recipe_is_known_to_open_clip(name):
    args = load_recipe([f"recipe={name}"]).retriever
    is_built_in = args.model == "nano-clip" or args.model.startswith(("hf-hub:", "local-dir:", "runs/"))
    assert is_built_in or (args.model, args.pretrained) in open_clip.list_pretrained()
