"""Projections are tuned on features that frozen towers compute once for each image and name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.model import CustomTextCLIP
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig

from data_prep.core.errors import UserError
from data_prep.core.images import open_image
from data_prep.datasets import read_dataset
from data_prep.embedding.encoder import NANO_CLIP, embed_images, load_encoder
from data_prep.settings import RetrieverArgs
from data_prep.settings.loading import load_recipe
from rar_train.models.open_clip_folder import write_open_clip
from rar_train.retriever.train import train_retriever


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("root")
    folder = root / "clip"
    tokenizer = AutoTokenizer.from_pretrained(NANO_CLIP)
    BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)
    text = {"hf_model_name": "nowhere/missing", "hf_tokenizer_name": "nowhere/missing", "context_length": 32}
    text |= {"hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"}
    vision = {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear", "image_size": 48}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(0)
    local_text = text | {"hf_model_name": str(folder), "hf_model_pretrained": False}
    model = CustomTextCLIP(24, dict(vision), local_text)
    preprocess = {"size": 48, "mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"}
    write_open_clip(folder, model, config, preprocess, tokenizer)
    return root


def tune(root: Path, out: str, *settings: str) -> Path:
    small = "train_classes=16 val_classes=8 memory_images=2 query_images=2 size=48"
    fixed = f"retriever.model=local-dir:{root / 'clip'} cache={root / 'cache'} out={root / out} data.root=null"
    more = "data.name=armory tracking.wandb=disabled trainer.accelerator=cpu optim.batch_size=16 optim.max_steps=5"
    sizes = [f"data.armory.{setting}" for setting in small.split()]
    every = "trainer.checkpoint_every=3"
    return train_retriever(
        load_recipe(["recipe=retriever_lite", *sizes, *f"{fixed} {more} {every}".split(), *settings])
    )


def test_only_the_projections_are_tuned_and_the_folder_loads_after_a_move(root, tmp_path):
    tuned = tune(root, "run")
    base = load_file(root / "clip" / "open_clip_model.safetensors")
    after = load_file(tuned / "open_clip_model.safetensors")
    changed = {name for name, value in after.items() if not torch.equal(value, base[name])}
    assert changed == {"visual.head.proj.weight", "text.proj.weight", "logit_scale"}
    moved = shutil.move(tuned, tmp_path / "moved")
    encoder = load_encoder(RetrieverArgs(model=f"local-dir:{moved}"))
    assert torch.equal(encoder.model.text.proj.weight, after["text.proj.weight"])
    again = load_file(tune(root, "run") / "open_clip_model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in after.items()), "resumed to other weights"


def test_cached_features_give_the_same_embeddings_as_the_full_model(root):
    encoder = load_encoder(RetrieverArgs(model=f"local-dir:{root / 'clip'}"))
    projection = load_file(root / "clip" / "open_clip_model.safetensors")["visual.head.proj.weight"]
    pixels = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        trunk = encoder.model.visual.trunk(pixels)
        cached = torch.nn.functional.normalize(trunk, dim=-1) @ projection.T
        full = encoder.model.encode_image(pixels, normalize=True)
    assert torch.allclose(torch.nn.functional.normalize(cached, dim=-1), full, atol=1e-5)


def test_models_without_separate_projections_are_refused(root):
    with pytest.raises(UserError, match="is not a timm image tower"):
        tune(root, "nano", "retriever.model=nano-clip")
    with pytest.raises(UserError, match="set lora_rank=0 and augment=false"):
        tune(root, "rank", "retriever.tuning.lora_rank=8")


def test_a_tuned_models_images_are_embedded_from_the_features_that_the_base_models_towers_computed(root, caplog):
    tuned, cache = tune(root, "run"), root / "shared"
    sizes = [f"data.armory.{size}" for size in ("test_classes=3", "query_images=2", "memory_images=1", "size=48")]
    recipe = load_recipe(["recipe=retriever_lite", "data.name=armory", "data.root=null", *sizes])
    samples = read_dataset(recipe.data, cache, ("test",)).parts["test"]
    caplog.set_level("INFO")
    vectors = {}
    for folder in (root / "clip", tuned):
        args = RetrieverArgs(model=f"local-dir:{folder}")
        encoder = load_encoder(args)
        vectors[folder] = embed_images(encoder, samples, args, cache)
        with torch.no_grad():
            pixels = torch.stack([encoder.preprocess(open_image(sample.path)) for sample in samples])
            whole = encoder.encode_images(pixels).numpy()
        assert np.allclose(vectors[folder], whole, atol=1e-5)
    assert caplog.text.count("embeddings: computing 6 of 6 images") == 1
    assert not np.allclose(vectors[tuned], vectors[root / "clip"], atol=1e-3)


def test_an_encoder_whose_projections_cannot_be_separated_has_no_towers():
    assert load_encoder(RetrieverArgs(model="nano-clip")).towers() is None
