"""A timm backbone as LLaVA's vision tower."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, LlavaForConditionalGeneration

from data_prep.core.paths import NANO_MLLM
from rar_train.models.timm_tower import TimmTower, TimmTowerConfig
from rar_train.nano.architecture import nano_config

SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 16], "stem_width": 8}


def test_a_llava_with_this_tower_loads_like_any_other():
    model, report = AutoModelForImageTextToText.from_pretrained(NANO_MLLM, output_loading_info=True)
    assert isinstance(model, LlavaForConditionalGeneration)
    assert isinstance(model.model.vision_tower, TimmTower)
    assert not report["missing_keys"] and not report["unexpected_keys"]


@pytest.mark.parametrize(("stage", "stride", "channels"), [(2, 8, 16), (3, 16, 16)])
def test_tokens_are_the_maps_cells_row_by_row(stage, stride, channels):
    config = TimmTowerConfig("resnet18", SMALL | {"replace_stem_pool": True}, stage=stage, hidden_size=channels)
    tower = TimmTower(config).eval()
    pixels = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        output = tower(pixels, output_hidden_states=True)
        (features,) = tower.backbone(pixels)
    rows, columns = 64 // stride, 96 // stride
    assert output.last_hidden_state.shape == (2, rows * columns, channels)
    assert torch.equal(output.last_hidden_state[:, columns + 2], features[:, :, 1, 2])
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)


def test_a_finer_map_is_unshuffled_onto_the_coarser_maps_grid():
    config = TimmTowerConfig("resnet18", SMALL, stage=3, hidden_size=16 + 4 * 16, finer=[2])
    tower = TimmTower(config).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        tokens = tower(pixels).last_hidden_state
        fine, coarse = tower.backbone(pixels)
    size = coarse.shape[-1]
    assert tokens.shape == (2, size * size, 16 + 4 * 16)
    row, column = 1, 0
    token = tokens[:, row * size + column]
    fine_cells = fine[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(1)
    assert torch.equal(token[:, : 4 * 16], fine_cells)
    assert torch.equal(token[:, 4 * 16 :], coarse[:, :, row, column])


def test_a_saved_tower_loads_with_its_weights_and_statistics(tmp_path):
    tower = TimmTower(TimmTowerConfig("resnet18", SMALL, stage=3, hidden_size=16))
    tower.train()(torch.randn(4, 3, 64, 64))  # moves the batch-norm statistics
    tower.eval().save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(pixels).last_hidden_state, tower(pixels).last_hidden_state)
    assert AutoConfig.from_pretrained(tmp_path).architecture_args == SMALL


def test_nano_config_describes_the_shipped_model():
    shipped = AutoModelForImageTextToText.from_pretrained(NANO_MLLM).state_dict()
    built = LlavaForConditionalGeneration(nano_config()).state_dict()
    assert {name: value.shape for name, value in built.items()} == {name: v.shape for name, v in shipped.items()}
