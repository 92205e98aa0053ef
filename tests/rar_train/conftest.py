"""Fixtures: the shipped nano-mllm, a tiny LLaVA folder in the hub's layout, images, and one trained run."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.core.records import Candidate, RankingExample
from data_prep.prompting.prompts import LETTERS, NAMING, letters_prompt, list_prompt
from data_prep.settings import RankerArgs, Recipe
from rar_train.models.loading import load_mllm
from rar_train.models.mllm import Mllm
from rar_train.ranker.train import train_ranker
from tests.tiny_recipes import tiny_recipes

CLASSES = draw_classes("train", 8, 4, 0)
NAMES = [blazon.name for blazon in CLASSES]

# As llava-hf/llava-1.5-7b-hf ships it.
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def llava_processor(texts: Sequence[str]) -> LlavaProcessor:
    """Makes a small version of LLaVA-1.5's processor: words after ``▁``, a ``<s>`` that the tokenizer adds."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=list(string.printable + "▁"), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            unk_token="<unk>",
            bos_token="<s>",
            eos_token="</s>",
            pad_token="<pad>",
            extra_special_tokens={"image_token": "<image>"},
        ),
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )


def write_llava(folder: Path, width: int = 32) -> Path:
    """Writes a folder in the hub's layout: a random LLaVA with a CLIP tower, its processor and LLaVA-1.5's template."""
    prompts = [letters_prompt(NAMES[:5]), list_prompt(NAMES[:5]), f"USER: {NAMING} ASSISTANT:"]
    answers = [f"ASSISTANT: {answer}" for answer in (*LETTERS, "yes", "no")]
    processor = llava_processor(NAMES + prompts + answers * 20)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=3,
                num_attention_heads=2,
                image_size=32,
                patch_size=16,
            ),
            text_config=LlamaConfig(
                vocab_size=len(processor.tokenizer),
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=2,
                num_attention_heads=2,
                pad_token_id=3,
                bos_token_id=1,
                eos_token_id=2,
                initializer_range=0.2,
            ),
            image_token_id=4,
            image_seq_length=4,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
        )
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny LLaVA in the hub's layout."""
    return write_llava(tmp_path_factory.mktemp("hub") / "tiny-llava")


@pytest.fixture(scope="session")
def nano() -> Mllm:
    """The shipped nano-mllm; tests must not change it."""
    return load_mllm(RankerArgs())


@pytest.fixture(scope="session")
def llava(llava_folder: Path) -> Mllm:
    """The hub-like LLaVA; tests must not change it."""
    return load_mllm(RankerArgs(model=str(llava_folder)))


@pytest.fixture(params=["nano", "llava"])
def either(request: pytest.FixtureRequest) -> Mllm:
    """Each of the two models in turn; tests must not change them."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["nano", "llava"])
def fresh(request: pytest.FixtureRequest) -> Callable[[], Mllm]:
    """Loads one of the two models again at every call."""
    if request.param == "nano":
        return lambda: load_mllm(RankerArgs())
    folder = request.getfixturevalue("llava_folder")
    return lambda: load_mllm(RankerArgs(model=str(folder)))


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """One image of each class."""
    return [render(blazon, 96, np.random.default_rng(i)) for i, blazon in enumerate(CLASSES)]


@pytest.fixture(scope="session")
def pairs(pictures: list[Image.Image]) -> list[tuple[RankingExample, Image.Image]]:
    """Ranking examples of 5, 2 and 4 candidates, the true class at different positions."""

    def example(key: str, label: int, classes: Sequence[int]) -> RankingExample:
        candidates = tuple(Candidate(c, NAMES[c], 1 - position / 10) for position, c in enumerate(classes))
        return RankingExample(key, label, candidates)

    examples = [example("a", 2, (0, 1, 2, 3, 4)), example("b", 5, (5, 6)), example("c", 7, (3, 7, 1, 0))]
    return [(example, pictures[example.label]) for example in examples]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recipe]:
    """Makes recipes of four short steps, each validated, on a small armory; all share a cache."""
    cache = tmp_path_factory.mktemp("tiny") / "cache"
    settings = "optim.max_steps=4 trainer.val_examples=4 trainer.val_generate_examples=1 trainer.log_every=1"
    return tiny_recipes(cache, settings)


@pytest.fixture(scope="session")
def finished(tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; tests must not change it."""
    return train_ranker(tiny(tmp_path_factory.mktemp("runs") / "finished"))


@pytest.fixture(scope="session")
def nano_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of the nano models' training, so that their corpus is generated once."""
    return tmp_path_factory.mktemp("nano-cache")
