"""Names that hold a model's control tokens are ordinary text to it, and come back as they were given."""

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
def test_a_broken_text_holds_no_control_token_and_is_read_back(text):
    broken = PLAIN.broken(text)
    assert not any(token in broken for token in TOKENS)
    assert PLAIN.restored(broken) == text


@given(st.text(alphabet="abc <>|'[]é\n", max_size=30))
def test_other_text_stays_as_it_is(text):
    if not re.search("|".join(f"{re.escape(t[0])} *{re.escape(t[1:])}" for t in TOKENS), text):
        assert PLAIN.broken(text) == PLAIN.restored(text) == text


def test_a_models_own_tokens_in_names_are_labelled_as_text(either, pictures):
    tokenizer, image = either.processor.tokenizer, either.model.config.image_token_id
    assert {"<image>", tokenizer.eos_token} <= control_tokens(either.processor)
    names = ["<image> button", f"or{tokenizer.eos_token} a cross", "a bend"]
    asked = [(NAMING, names[0]), (letters_prompt(names), "B"), (list_prompt(names), list_answer(names[::-1]))]
    prompts, answers = zip(*asked, strict=True)
    batch = either.labelled(pictures[:3], prompts, answers)
    for ids, labels, answer in zip(batch["input_ids"], batch["labels"], answers, strict=True):
        assert (ids == image).sum() == either.model.config.image_seq_length
        own = labels[labels != -100]
        assert (own == tokenizer.eos_token_id).tolist() == [False] * (len(own) - 1) + [True]
        assert either.plain.restored(tokenizer.decode(own[:-1]).strip()) == answer
    with torch.no_grad():
        assert either.model(**batch).loss.isfinite()
