"""Counted lengths are those that the model reads; examples that are too long are dropped and reported, never cut."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from data_prep.core.errors import UserError
from data_prep.core.records import Sample
from data_prep.mining.shards import ShardedExamples, write_shards
from data_prep.prompting.prompts import NAMING, list_answer, list_prompt
from data_prep.settings.ranker import OBJECTIVES
from rar_train.ranker.collate import collate
from rar_train.ranker.token_budget import (
    ConversationTokens,
    byte_lengths,
    check_fits,
    longest_conversations,
    select_fitting,
)
from tests.rar_train.tiny_families import save_tiny


@pytest.fixture(scope="module")
def examples(pairs, tmp_path_factory) -> ShardedExamples:
    """Three examples, of 5, 2 and 4 candidates."""
    folder, images = tmp_path_factory.mktemp("shards"), tmp_path_factory.mktemp("images")
    for example, image in pairs:
        image.save(images / f"{example.key}.png")
    samples = [Sample(e.key, str(images / f"{e.key}.png"), e.label, e.key) for e, _ in pairs]
    write_shards(folder, [(e, sample) for (e, _), sample in zip(pairs, samples, strict=True)], 10, {})
    return ShardedExamples(folder)


@pytest.mark.parametrize("kind", ["llava", "llava_next", "qwen2_5_vl", "idefics3", "paligemma"])
def test_counted_tokens_are_those_of_the_processed_conversation(kind, pairs, tmp_path):
    from data_prep.settings import RankerArgs
    from rar_train.models.loading import load_mllm

    mllm = load_mllm(RankerArgs(model=str(save_tiny(kind, tmp_path))))
    tokens = ConversationTokens(mllm)
    for example, image in pairs:
        wide = image.resize((96, 40))
        for prompt, answer in longest_conversations(example, OBJECTIVES):
            processed = mllm.labelled([wide], [prompt], [answer])["input_ids"].shape[1]
            assert tokens.of(prompt, answer, wide.size) == processed


def test_bytes_are_an_upper_bound_on_tokens(nano, examples):
    lengths, tokens = byte_lengths(examples, OBJECTIVES), ConversationTokens(nano)
    for index, length in enumerate(lengths):
        conversations = longest_conversations(examples.example(index), OBJECTIVES)
        counts = [tokens.of(prompt, answer, (96, 96)) for prompt, answer in conversations]
        assert max(counts) <= length + tokens.frame + tokens.of_image((96, 96))


def test_examples_that_do_not_fit_are_dropped_and_reported(nano, examples, tiny, tmp_path, caplog):
    lengths, tokens = byte_lengths(examples, ["letters"]), ConversationTokens(nano)
    conversations = [longest_conversations(examples.example(index), ["letters"])[0] for index in range(3)]
    sizes = [tokens.of(prompt, answer, (96, 96)) for prompt, answer in conversations]
    assert np.argmax(sizes) == 0

    def select(limit: int) -> list[int]:
        recipe = tiny(tmp_path, f"ranker.max_tokens={limit}", "ranker.objectives.likelihood=0")
        return select_fitting(examples, lengths, nano, recipe).tolist()

    assert select(sizes[0]) == [0, 1, 2]
    with caplog.at_level(logging.WARNING):
        assert select(sizes[0] - 1) == [1, 2]
    assert "1 of 3 examples are longer than" in caplog.text and examples.example(0).key in caplog.text
    with pytest.raises(UserError, match=r"no ranking example fits 3 tokens; raise ranker\.max_tokens"):
        select(3)


def test_a_streamed_batch_that_does_not_fit_is_refused_with_a_remedy(nano, pairs):
    batch = collate(nano, pairs, ["letters", "likelihood", "list"], 0, [0] * len(pairs))
    prompts = [list_prompt([candidate.name for candidate in example.candidates]) for example in batch.examples]
    answers = [
        list_answer([example.candidates[position].name for position in order])
        for example, order in zip(batch.examples, batch.orders, strict=True)
    ]
    longest = nano.labelled(batch.images, prompts, answers)["input_ids"].shape[1]
    check_fits(batch, longest)
    with pytest.raises(UserError, match=rf"takes {longest} tokens, and {longest - 1} fit; lower mining.k"):
        check_fits(batch, longest - 1)
    naming = collate(nano, pairs, ["likelihood"], 0, [0] * len(pairs))
    with pytest.raises(UserError, match="tokens"):  # the names follow the prompt
        check_fits(naming, nano.inputs(naming.images, [NAMING] * 3)["input_ids"].shape[1])
