"""Names that the encoder cannot read whole are counted and named, with every tokenizer of open_clip's kinds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from data_prep.embedding.encoder import NANO_CLIP, embed_names, load_encoder
from data_prep.embedding.name_tokens import cut_texts, find_names_alike, name_tokens
from data_prep.settings import RetrieverArgs

SIMPLE, HF = SimpleTokenizer(context_length=12), HFTokenizer(str(NANO_CLIP), context_length=12)
PADS_WITH_END = HFTokenizer(str(NANO_CLIP), context_length=12)
PADS_WITH_END.tokenizer.pad_token = PADS_WITH_END.tokenizer.eos_token

words = st.lists(st.sampled_from(["azure", "a", "bend", "or", "gules", ","]), min_size=1, max_size=20).map(" ".join)


def length(tokenize, text: str) -> int:
    """Tokens of a text that nothing cuts, end and beginning with it."""
    if isinstance(tokenize, SimpleTokenizer):
        return len(tokenize.encode(text)) + 2
    return len(tokenize.tokenizer(tokenize.clean_fn(text)).input_ids)


@settings(max_examples=60, deadline=None)
@given(st.lists(words, min_size=1, max_size=6), st.sampled_from([SIMPLE, HF, PADS_WITH_END]))
def test_those_are_cut_that_are_longer_than_the_context(texts, tokenize):
    expected = [place for place, text in enumerate(texts) if length(tokenize, text) > 12]
    assert cut_texts(tokenize, texts, tokenize(texts)) == expected


def test_names_are_alike_where_different_names_have_the_same_tokens():
    ids = torch.tensor([[1, 2], [1, 2], [3, 4], [1, 2]])
    assert find_names_alike(["a", "A", "b", "a"], ids) == [["a", "A"]]
    assert find_names_alike(["a", "a", "b", "a"], ids) == [], "one name is one text"


def test_cut_names_and_those_that_end_alike_are_warned_of(tmp_path, caplog):
    start = "azure, a bend or between two mullets argent and three crescents gules, on a chief vert a lion, " * 4
    names = ["gules", f"{start} a heart or", f"{start} a tower purpure", f"vert {start}"]
    embed_names(load_encoder(RetrieverArgs()), names, RetrieverArgs(templates=["{}", "a {}"]), tmp_path)
    cut, alike = (record.getMessage() for record in caplog.records if record.name == "data_prep.embedding.name_tokens")
    assert cut.startswith(
        "names: 3 of 4 names are longer than the 32 tokens that the encoder reads, and were cut: 'azure"
    )
    assert alike.startswith("names: 2 different names have the same embedding as another")


@pytest.mark.parametrize("tokenize", [SIMPLE, HF])
def test_names_that_fit_are_passed_over_in_silence(tokenize, caplog):
    assert name_tokens(tokenize, ["azure", "gules", "azure"], ["{}", "a {}"]).shape == (3, 2, 12)
    assert not caplog.records
