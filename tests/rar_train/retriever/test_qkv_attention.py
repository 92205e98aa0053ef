"""Attention layers with separate query, key and value matrices compute what the original ones do, and join again."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from data_prep.core.errors import UserError
from rar_train.retriever.qkv_attention import QkvAttention, SplitLinear, join_attentions, split_attentions


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("key_width", [None, 24])
@pytest.mark.parametrize("mask", [None, "added", "hidden", "by head"])
def test_it_computes_what_the_original_does_and_joins_again(bias, batch_first, key_width, mask):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 4, bias=bias, batch_first=batch_first, kdim=key_width, vdim=key_width).eval()
    query, key = random(3, 5, 16), random(3, 7, key_width or 16)
    inputs = [query, key, key + 1] if batch_first else [x.transpose(0, 1) for x in (query, key, key + 1)]
    masks = {
        None: None,
        "added": random(5, 7),
        "hidden": torch.ones(5, 7, dtype=torch.bool).triu(3),
        "by head": random(12, 5, 7),
    }
    expected = attention(*inputs, need_weights=False, attn_mask=masks[mask])[0]
    split = QkvAttention(attention)
    torch.testing.assert_close(split(*inputs, attn_mask=masks[mask])[0], expected, atol=1e-6, rtol=1e-5)
    joined = split.join()
    assert {name: value.shape for name, value in joined.state_dict().items()} == {
        name: value.shape for name, value in attention.state_dict().items()
    }
    assert all(torch.equal(value, attention.state_dict()[name]) for name, value in joined.state_dict().items())


def test_a_joined_linear_layer_is_split_and_joined():
    layer, x = nn.Linear(8, 12), random(2, 8)
    split = SplitLinear(layer, ("q", "k", "v"))
    torch.testing.assert_close(split(x), layer(x))
    assert torch.equal(split.join().weight, layer.weight) and torch.equal(split.join().bias, layer.bias)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_base_patch16_siglip_224", {"embed_dim": 48, "num_heads": 4, "num_classes": 0}),  # pools by attention
        ("vit_pe_core_tiny_patch16_384", {}),
    ],
)
def test_timm_towers_have_all_their_attention_layers_split(name, options):
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=32, depth=2, **options).eval()
    x, keys = random(2, 3, 32, 32), model.state_dict().keys()
    with torch.no_grad():
        before = model(x)
        found = split_attentions(model, lambda name: True)
        torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-4)
        assert len(found) >= 6 and {name.rpartition(".")[2] for name in found} == {"q", "k", "v"}
        torch.testing.assert_close(join_attentions(model)(x), before, atol=1e-5, rtol=1e-4)
    assert model.state_dict().keys() == keys


def test_a_model_without_known_attention_is_refused():
    with pytest.raises(UserError, match="no attention layers in these towers"):
        split_attentions(nn.Sequential(nn.Linear(4, 4)), lambda name: True)
