"""Features from the cache equal the tower's output, and each image is computed once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import NAMING
from data_prep.settings import LoraArgs, RankerArgs
from rar_train.models.feature_cache import cache_features
from rar_train.models.loading import load_mllm
from tests.damage import KINDS, damage
from tests.rar_train.tiny_families import save_tiny

FIXED = ("llava", "llava_next", "llava_onevision", "internvl", "gemma3", "paligemma")


def compute_logits(mllm, pictures) -> torch.Tensor:
    with torch.no_grad():
        return mllm.model(**mllm.inputs(pictures, [NAMING] * len(pictures)), logits_to_keep=1).logits


@pytest.mark.parametrize("kind", [*FIXED, "nano"])
def test_logits_are_the_same_and_no_image_is_computed_twice(kind, pictures, tmp_path):
    args = RankerArgs() if kind == "nano" else RankerArgs(model=str(save_tiny(kind, tmp_path / "model")))
    expected = compute_logits(load_mllm(args), pictures[:2])
    mllm = load_mllm(args)
    cache = cache_features(mllm, tmp_path, LoraArgs())
    torch.testing.assert_close(compute_logits(mllm, pictures[:2]), expected, rtol=1e-4, atol=1e-5)
    computed = cache.computed
    assert computed >= 2
    torch.testing.assert_close(compute_logits(mllm, pictures[1::-1]), expected.flip(0), rtol=1e-4, atol=1e-4)
    assert cache.computed == computed
    again = load_mllm(args)  # another run
    cache = cache_features(again, tmp_path, LoraArgs())
    torch.testing.assert_close(compute_logits(again, pictures[:2]), expected, rtol=1e-4, atol=1e-5)
    assert cache.computed == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_recomputed(kind, pictures, tmp_path, caplog):
    mllm = load_mllm(RankerArgs())
    cache = cache_features(mllm, tmp_path, LoraArgs())
    expected = compute_logits(mllm, pictures[:1])
    (path,) = Path(cache.folder).rglob("*.safetensors")
    damage(path, kind)
    torch.testing.assert_close(compute_logits(mllm, pictures[:1]), expected)
    assert cache.computed == 2
    assert (f"{path} is damaged" in caplog.text) == (kind != "removed")


def test_a_tower_that_is_trained_or_takes_images_of_any_size_is_refused(tmp_path):
    with pytest.raises(UserError, match="the vision tower is trained"):
        cache_features(load_mllm(RankerArgs()), tmp_path, LoraArgs(scope="language+projector+vision"))
    qwen = load_mllm(RankerArgs(model=str(save_tiny("qwen2_5_vl", tmp_path / "qwen"))))
    with pytest.raises(UserError, match="images of any size"):
        cache_features(qwen, tmp_path, LoraArgs())


def test_models_with_the_same_tower_share_features_and_another_tower_does_not(pictures, tmp_path):
    results = []
    for part in ("nothing", "multi_modal_projector", "vision_tower"):
        mllm = load_mllm(RankerArgs())
        with torch.no_grad():
            for name, parameter in mllm.base.named_parameters():
                parameter += 0.01 * (part in name)
        mllm.id = part  # as of a model with other weights
        cache = cache_features(mllm, tmp_path, LoraArgs())
        compute_logits(mllm, pictures[:2])
        results.append((cache.folder, cache.computed))
    (first, of_first), (second, of_second), (third, of_third) = results
    assert (first == second, second == third) == (True, False)
    assert (of_first, of_second, of_third) == (2, 0, 2)
