"""The nano models' tokenizer: full words of blazons, single letters, and arbitrary text."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data_prep.armory.blazon import SPLITS, random_blazon_of_split
from data_prep.core.paths import NANO_MLLM
from data_prep.prompting.prompts import LETTERS, letters_prompt, list_prompt
from rar_train.nano.tokenizer import BOS, EOS, IMAGE, PAD, nano_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return nano_tokenizer(append_eos=False)


@pytest.mark.parametrize("split", SPLITS)
def test_every_word_of_a_blazon_is_one_token(tokenizer, split):
    rng = np.random.default_rng(1)
    for _ in range(100):
        name = random_blazon_of_split(split, rng).name
        words = name.replace(",", " ,").split()
        assert len(tokenizer(f" {name}").input_ids) == len(words)


@pytest.mark.parametrize("prompt", [letters_prompt(["azure", "gules"]), list_prompt(["azure", "gules"])])
def test_every_word_of_the_prompts_with_candidates_is_one_token(tokenizer, prompt):
    ids = tokenizer(f"USER: {IMAGE}\n{prompt} ASSISTANT:").input_ids
    tokens = {tokenizer.decode([i]).strip() for i in ids}
    assert set(re.findall(r"[A-Za-z]{2,}", prompt)) | {"USER", "ASSISTANT"} <= tokens


def test_every_letter_is_a_distinct_single_token_in_lists_and_answers(tokenizer):
    answers, listed = set(), set()
    for letter in LETTERS:
        (answer,) = tokenizer(f" {letter}").input_ids
        assert tokenizer(f"USER: x ASSISTANT: {letter}{EOS}").input_ids[-2] == answer
        assert tokenizer(f"\n{letter}. azure").input_ids[1] == tokenizer(letter).input_ids[0]
        answers.add(answer)
        listed.add(tokenizer(letter).input_ids[0])
    assert len(answers) == len(listed) == len(LETTERS)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=60).filter(lambda text: not any(s in text for s in (PAD, BOS, EOS, IMAGE))))
def test_any_text_decodes_to_itself(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_training_is_deterministic_and_gives_the_shipped_tokenizer(tokenizer):
    text = nano_tokenizer(append_eos=False).backend_tokenizer.to_str()
    assert text == tokenizer.backend_tokenizer.to_str()
    shipped = AutoTokenizer.from_pretrained(NANO_MLLM)
    assert shipped.get_vocab() == tokenizer.get_vocab()
    sentence = letters_prompt(["azure, a bend or, two mullets argent", "Łódź-Škoda’s № 5"])
    assert shipped(sentence).input_ids == tokenizer(sentence).input_ids


def test_clips_texts_end_with_the_highest_id_and_the_mllms_do_not(tokenizer):
    clip = nano_tokenizer(append_eos=True)
    ids = clip(["azure", "a bend or"]).input_ids
    assert all(row[-1] == max(clip.get_vocab().values()) == clip.eos_token_id for row in ids)
    assert tokenizer("azure").input_ids[-1] != tokenizer.eos_token_id
