"""The retriever's loss compared with open_clip's and a plain reference, and which parameters are trained."""

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.embedding.encoder import load_encoder
from data_prep.settings import RetrieverArgs, TuningArgs
from rar_train.retriever.module import class_contrastive_loss, merge_adapters, prepare_model


def features(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_with_one_image_per_class_it_is_open_clips_loss():
    image, text, scale = features(7, 0), features(7, 1), torch.tensor(20.0)
    loss = class_contrastive_loss(image, text, torch.arange(7), scale)
    assert loss.item() == pytest.approx(open_clip.ClipLoss()(image, text, scale).item(), abs=1e-6)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=8), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_several_images_of_a_class_are_positives_of_each_others_captions(labels, seed):
    image, text = features(len(labels), seed), features(len(labels), seed + 1)
    logits = (5.0 * image @ text.T).double().numpy()
    total = 0.0
    for table in (logits, logits.T):
        log_share = table - np.log(np.exp(table).sum(1, keepdims=True))
        for row, label in enumerate(labels):
            positives = [column for column, other in enumerate(labels) if other == label]
            total -= np.mean([log_share[row, column] for column in positives]) / len(labels) / 2
    loss = class_contrastive_loss(image, text, torch.tensor(labels), torch.tensor(5.0))
    assert loss.item() == pytest.approx(total, abs=1e-5)


def trainable_names(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("towers", ["image", "text", "both"])
def test_only_the_chosen_towers_are_trained(rank, towers):
    names = trainable_names(
        prepare_model(load_encoder(RetrieverArgs()).model, TuningArgs(lora_rank=rank, towers=towers))
    )
    visual = {name for name in names if "visual." in name}
    others = {name for name in names if "visual." not in name and "logit_scale" not in name}
    assert any("logit_scale" in name for name in names)
    assert bool(visual) == (towers != "text")
    assert bool(others) == (towers != "image")
    assert all("lora_" in name for name in visual | others) == bool(rank)


def test_new_adapters_change_nothing_and_merging_preserves_the_output():
    base = load_encoder(RetrieverArgs()).model
    pixels = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(1, 200, (3, base.context_length), generator=torch.Generator().manual_seed(0))
    plain = [base.encode_image(pixels), base.encode_text(ids)]
    keys = base.state_dict().keys()
    args = TuningArgs(lora_rank=4)
    model = prepare_model(base, args)
    for before, after in zip(plain, [model.encode_image(pixels), model.encode_text(ids)], strict=True):
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    tuned = [model.encode_image(pixels), model.encode_text(ids)]
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(plain, tuned, strict=True))
    merged = merge_adapters(model, args)
    assert merged.state_dict().keys() == keys
    for before, after in zip(tuned, [merged.encode_image(pixels), merged.encode_text(ids)], strict=True):
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)
