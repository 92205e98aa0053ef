"""A frozen tower's features from disk are the tower's own, and it computes each picture once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import NAMING
from data_prep.settings import LoraArgs, RankerArgs
from rar_train.models.feature_cache import cache_features
from rar_train.models.mllm import load_mllm
from tests.damage import KINDS, damage
from tests.rar_train.tiny_families import save_tiny

FIXED = ("llava", "llava_next", "llava_onevision", "internvl", "gemma3", "paligemma")


def logits_of(mllm, pictures) -> torch.Tensor:
    with torch.no_grad():
        return mllm.model(**mllm.inputs(pictures, [NAMING] * len(pictures)), logits_to_keep=1).logits


@pytest.mark.parametrize("kind", [*FIXED, "nano"])
def test_logits_are_the_same_and_no_picture_is_computed_twice(kind, pictures, tmp_path):
    args = RankerArgs() if kind == "nano" else RankerArgs(model=str(save_tiny(kind, tmp_path / "model")))
    expected = logits_of(load_mllm(args), pictures[:2])
    mllm = load_mllm(args)
    kept = cache_features(mllm, tmp_path, LoraArgs())
    torch.testing.assert_close(logits_of(mllm, pictures[:2]), expected, rtol=1e-4, atol=1e-5)
    computed = kept.computed
    assert computed >= 2
    torch.testing.assert_close(logits_of(mllm, pictures[1::-1]), expected.flip(0), rtol=1e-4, atol=1e-4)
    assert kept.computed == computed
    again = load_mllm(args)  # another run
    kept = cache_features(again, tmp_path, LoraArgs())
    torch.testing.assert_close(logits_of(again, pictures[:2]), expected, rtol=1e-4, atol=1e-5)
    assert kept.computed == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_computed_again(kind, pictures, tmp_path, caplog):
    mllm = load_mllm(RankerArgs())
    kept = cache_features(mllm, tmp_path, LoraArgs())
    expected = logits_of(mllm, pictures[:1])
    (path,) = Path(kept.folder).rglob("*.safetensors")
    damage(path, kind)
    torch.testing.assert_close(logits_of(mllm, pictures[:1]), expected)
    assert kept.computed == 2
    assert (f"{path} is damaged" in caplog.text) == (kind != "removed")


def test_a_tower_that_trains_or_takes_any_size_is_refused(tmp_path):
    with pytest.raises(UserError, match="the vision tower trains"):
        cache_features(load_mllm(RankerArgs()), tmp_path, LoraArgs(scope="language+projector+vision"))
    qwen = load_mllm(RankerArgs(model=str(save_tiny("qwen2_5_vl", tmp_path / "qwen"))))
    with pytest.raises(UserError, match="images of any size"):
        cache_features(qwen, tmp_path, LoraArgs())


def test_models_of_one_tower_share_its_features_and_another_tower_has_its_own(pictures, tmp_path):
    kept = []
    for part in ("nothing", "multi_modal_projector", "vision_tower"):
        mllm = load_mllm(RankerArgs())
        with torch.no_grad():
            for name, parameter in mllm.base.named_parameters():
                parameter += 0.01 * (part in name)
        mllm.id = part  # as of a model with other weights
        cache = cache_features(mllm, tmp_path, LoraArgs())
        logits_of(mllm, pictures[:2])
        kept.append((cache.folder, cache.computed))
    (first, own), (second, shared), (third, other) = kept
    assert (first == second, second == third) == (True, False)
    assert (shared, own, other) == (0, 2, 2)
