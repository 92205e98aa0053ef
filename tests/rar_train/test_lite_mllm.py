"""lite-mllm in small: a LLaVA joined from a language model and a timm tower, which the Auto classes load."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaConfig, LlamaForCausalLM

from data_prep.errors import UserError
from data_prep.prompts import NAMING, letters_prompt
from data_prep.settings import RankerArgs
from rar_train.backend import load_mllm
from rar_train.lite_mllm import joined
from rar_train.timm_tower import TimmTowerConfig
from tests.rar_train.conftest import NAMES, llava_processor

TOWER = "tf_efficientnet_lite0"


def tiny_join(pixels: int = 64, stage: int = 4):
    tokenizer = llava_processor([letters_prompt(NAMES[:5]), NAMING, "user\nassistant\n"]).tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    language = LlamaForCausalLM(config)
    weights = timm.create_model(TOWER, pretrained=False).state_dict()
    channels = {3: 112, 4: 320}[stage]
    tower = TimmTowerConfig(architecture=TOWER, stage=stage, hidden_size=channels)
    return *joined(language, tokenizer, tower, weights, pixels), language, weights


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple:
    model, processor, language, weights = tiny_join()
    folder = tmp_path_factory.mktemp("lite") / "lite-mllm"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor, language, weights


def test_the_auto_classes_load_what_was_saved(saved):
    folder, model, processor, *_ = saved
    again = AutoModelForImageTextToText.from_pretrained(folder).eval()
    images, text = [Image.new("RGB", (50, 70), "red")], "<|im_start|>user\n<image>\nWhat?<|im_end|>\n"
    inputs = AutoProcessor.from_pretrained(folder)(images=images, text=text, return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == model.config.image_seq_length == 4
    own = processor(images=images, text=text, return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(again(**inputs).logits, model(**own).logits, atol=1e-5)


def test_it_keeps_the_weights_of_what_it_was_joined_from(saved):
    _, model, _, language, weights = saved
    text = model.model.language_model.state_dict()
    assert all(torch.equal(text[name], value) for name, value in language.model.state_dict().items())
    tower = model.model.vision_tower.backbone.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in tower.items())


def test_the_backend_takes_it_as_a_llava(saved: tuple[Path]):
    mllm = load_mllm(RankerArgs(model=str(saved[0])))
    assert mllm.turn_end == "<|im_end|>"
    image = Image.new("RGB", (64, 64), "blue")
    batch = mllm.labelled([image], [NAMING], [NAMES[0]])
    labels = batch["labels"][0]
    assert tuple(labels[labels != -100].tolist()) == mllm.answer_ids(NAMING, NAMES[0])
    assert mllm.processor.tokenizer.decode(labels[labels != -100]).strip() == f"{NAMES[0]}<|im_end|>"
    assert mllm.letter_ids(5)


def test_a_finer_map_gives_more_tokens_and_must_divide_the_picture():
    model, *_ = tiny_join(stage=3)
    assert model.config.image_seq_length == 16
    with pytest.raises(UserError, match="pixels=72: must be a multiple of the stride, 32"):
        tiny_join(pixels=72)
