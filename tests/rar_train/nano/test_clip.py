"""nano-clip's captions, and a training of a few steps."""

from __future__ import annotations

import numpy as np

from data_prep.armory.blazon import random_blazon_of_split
from data_prep.core.files import file_hash, read_json
from data_prep.embedding.encoder import embed_names, load_encoder
from data_prep.settings import RetrieverArgs
from data_prep.settings.loading import load_recipe
from rar_train.nano.clip import nano_clip_config, sample_caption, train_nano_clip
from rar_train.nano.tokenizer import nano_tokenizer


def test_captions_mention_at_least_one_part_of_the_blazon_in_order():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        blazon = random_blazon_of_split("base", rng)
        parts = blazon.name.split(", ")
        mentioned = sample_caption(blazon, rng).split(", ")
        assert mentioned and [part for part in parts if part in mentioned] == mentioned
        seen.add(tuple(parts.index(part) for part in mentioned))
    assert len(seen) == 7  # every non-empty subset of three parts


def test_the_text_towers_context_fits_every_name():
    config, tokenizer = nano_clip_config(574)["model_cfg"]["text_cfg"], nano_tokenizer(append_eos=True)
    rng = np.random.default_rng(0)
    longest = max(len(tokenizer(random_blazon_of_split("test", rng).name).input_ids) for _ in range(300))
    assert longest <= config["context_length"]


def test_training_saves_a_model_that_embeds_names_and_images(nano_cache, pictures, tmp_path):
    settings = [
        "recipe=nano_clip",
        "trainer.accelerator=cpu",
        "nano.thousands=2",
        "nano.clip_steps=2",
        "nano.clip_batch=8",
    ]
    folder = train_nano_clip(load_recipe([*settings, f"cache={nano_cache}", f"out={tmp_path / 'run'}"]))
    args = RetrieverArgs(model=f"local-dir:{folder}")
    encoder = load_encoder(args)
    vectors = embed_names(encoder, ["azure, a bend or", "gules, a pale argent"], args, tmp_path / "cache")
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert not np.allclose(vectors[0], vectors[1])
    image = encoder.model.encode_image(encoder.preprocess(pictures[0])[None], normalize=True)
    assert image.shape[1] == vectors.shape[1]
    manifest = read_json(folder / "manifest.json")
    assert 0 <= manifest["measured"]["name_retrieval_of_1000"] <= 1
    assert manifest["files"]["open_clip_model.safetensors"] == file_hash(folder / "open_clip_model.safetensors")
