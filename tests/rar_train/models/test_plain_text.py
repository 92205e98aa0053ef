"""Control tokens in names are escaped to ordinary text, and restored in replies."""

from __future__ import annotations

import re

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.prompting.prompts import NAMING, letters_prompt, list_answer, list_prompt
from rar_train.models.plain_text import PlainText, control_tokens

TOKENS = ("<image>", "</s>", "<s>", "<|im_end|>", "<|image_pad|>", "[INST]", "<loc0001>", "<end_of_turn>")
PLAIN = PlainText(TOKENS)
pieces = st.lists(st.sampled_from([*TOKENS, "< image>", "<  image>", "<", " ", "image>", "<<", "a bend or", "["]))


@given(pieces.map("".join))
@example("<image>< image><  image>")
@example("<<image>>")
def test_an_escaped_text_contains_no_control_token_and_is_restored(text):
    escaped = PLAIN.escape(text)
    assert not any(token in escaped for token in TOKENS)
    assert PLAIN.unescape(escaped) == text


@given(st.text(alphabet="abc <>|'[]é\n", max_size=30))
def test_other_text_is_not_changed(text):
    if not re.search("|".join(f"{re.escape(t[0])} *{re.escape(t[1:])}" for t in TOKENS), text):
        assert PLAIN.escape(text) == PLAIN.unescape(text) == text


def test_a_models_control_tokens_in_names_are_labelled_as_text(either, pictures):
    tokenizer, image = either.processor.tokenizer, either.model.config.image_token_id
    assert {"<image>", tokenizer.eos_token} <= control_tokens(either.processor)
    names = ["<image> button", f"or{tokenizer.eos_token} a cross", "a bend"]
    turns = [(NAMING, names[0]), (letters_prompt(names), "B"), (list_prompt(names), list_answer(names[::-1]))]
    prompts, answers = zip(*turns, strict=True)
    batch = either.labelled(pictures[:3], prompts, answers)
    for ids, labels, answer in zip(batch["input_ids"], batch["labels"], answers, strict=True):
        assert (ids == image).sum() == either.model.config.image_seq_length
        answer_ids = labels[labels != -100]
        assert (answer_ids == tokenizer.eos_token_id).tolist() == [False] * (len(answer_ids) - 1) + [True]
        assert either.plain.unescape(tokenizer.decode(answer_ids[:-1]).strip()) == answer
    with torch.no_grad():
        assert either.model(**batch).loss.isfinite()
