"""Truncated names are counted and listed, with every kind of open_clip tokenizer."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from data_prep.embedding.encoder import NANO_CLIP, embed_names, load_encoder
from data_prep.embedding.name_tokens import find_identical_names, find_truncated, tokenize_names
from data_prep.settings import RetrieverArgs

SIMPLE, HF = SimpleTokenizer(context_length=12), HFTokenizer(str(NANO_CLIP), context_length=12)
PADS_WITH_END = HFTokenizer(str(NANO_CLIP), context_length=12)
PADS_WITH_END.tokenizer.pad_token = PADS_WITH_END.tokenizer.eos_token

words = st.lists(st.sampled_from(["azure", "a", "bend", "or", "gules", ","]), min_size=1, max_size=20).map(" ".join)


def length(tokenize, text: str) -> int:
    """Returns the number of tokens of an untruncated text, with start and end tokens."""
    if isinstance(tokenize, SimpleTokenizer):
        return len(tokenize.encode(text)) + 2
    return len(tokenize.tokenizer(tokenize.clean_fn(text)).input_ids)


@settings(max_examples=60, deadline=None)
@given(st.lists(words, min_size=1, max_size=6), st.sampled_from([SIMPLE, HF, PADS_WITH_END]))
def test_exactly_the_texts_longer_than_the_context_are_reported_as_truncated(texts, tokenize):
    expected = [index for index, text in enumerate(texts) if length(tokenize, text) > 12]
    assert find_truncated(tokenize, texts, tokenize(texts)) == expected


def test_different_names_with_identical_tokens_are_grouped():
    ids = torch.tensor([[1, 2], [1, 2], [3, 4], [1, 2]])
    assert find_identical_names(["a", "A", "b", "a"], ids) == [["a", "A"]]
    assert find_identical_names(["a", "a", "b", "a"], ids) == [], "a repeated name is one name"


def test_a_warning_lists_truncated_names_and_names_with_identical_tokens(tmp_path, caplog):
    start = "azure, a bend or between two mullets argent and three crescents gules, on a chief vert a lion, " * 4
    names = ["gules", f"{start} a heart or", f"{start} a tower purpure", f"vert {start}"]
    embed_names(load_encoder(RetrieverArgs()), names, RetrieverArgs(templates=["{}", "a {}"]), tmp_path)
    truncated, identical = (
        record.getMessage() for record in caplog.records if record.name == "data_prep.embedding.name_tokens"
    )
    assert truncated.startswith(
        "names: 3 of 4 names are longer than the 32 tokens that the encoder reads, and were truncated: 'azure"
    )
    assert identical.startswith("names: 2 different names have the same embedding as another")


def test_descriptions_are_called_descriptions_and_may_be_identical(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    start = "azure, a bend or between two mullets argent and three crescents gules, on a chief vert a lion, " * 4
    texts = [[f"{start} a heart or"], [f"{start} a tower purpure"]]
    embed_names(load_encoder(RetrieverArgs()), ["azure", "gules"], RetrieverArgs(), tmp_path, texts)
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert warning.startswith("descriptions: 2 of 2 descriptions are longer than the 32 tokens")
    assert "2 names" in caplog.text and "descriptions, " in caplog.text


@pytest.mark.parametrize("tokenize", [SIMPLE, HF])
def test_names_that_fit_give_no_warning(tokenize, caplog):
    assert tokenize_names(tokenize, ["azure", "gules", "azure"], ["{}", "a {}"]).shape == (3, 2, 12)
    assert not caplog.records
