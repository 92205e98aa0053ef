"""Batches: shuffled candidates, and inputs for the objectives in use."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BatchFeature

from data_prep.core.records import Candidate, RankingExample
from data_prep.core.rng import shuffle_candidates
from data_prep.prompting.prompts import NAMING, list_answer
from data_prep.prompting.targets import target_names
from rar_train.models.inputs import to_device
from rar_train.models.mllm import Mllm
from rar_train.ranker.collate import collate
from rar_train.ranker.token_budget import longest_conversations


def make_example(count: int, key: str = "key") -> RankingExample:
    return RankingExample(key, count - 1, tuple(Candidate(i, f"class {i}", 1 - i / 100) for i in range(count)))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 26), st.integers(0, 2**31), st.integers(0, 1000), st.text(max_size=20))
def test_shuffling_permutes_the_candidates_and_keeps_the_truth(count, seed, epoch, key):
    example = make_example(count, key)
    shown = shuffle_candidates(example, seed, epoch)
    assert sorted(shown.candidates, key=lambda c: c.label) == list(example.candidates)
    assert (shown.key, shown.label) == (example.key, example.label)
    assert shown.candidates[shown.truth] == example.candidates[example.truth]
    assert shuffle_candidates(example, seed, epoch) == shown


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.text(max_size=20))
def test_the_order_changes_with_epoch_seed_and_key(seed, key):
    example = make_example(20, key)
    orders = {shuffle_candidates(example, seed, epoch).candidates for epoch in range(4)}
    orders.add(shuffle_candidates(example, seed + 1, 0).candidates)
    orders.add(shuffle_candidates(make_example(20, f"{key}2"), seed, 0).candidates)
    assert len(orders) == 6


def test_the_truth_is_about_equally_often_at_each_position():
    positions = [shuffle_candidates(make_example(5, str(key)), 0, 0).truth for key in range(1000)]
    assert all(140 < positions.count(position) < 260 for position in range(5))


def test_only_the_objectives_in_use_are_prepared(nano: Mllm, pairs):
    for objective, answers in (("letters", 0), ("listwise", 0), ("likelihood", 5 + 2 + 4), ("list", 3)):
        forest = collate(nano, pairs, [objective], 0, [0, 0, 0]).forest
        assert len(forest.answer_lengths) == answers
        assert len(forest.letter_reads) == (3 if answers == 0 else 0)


def test_truths_letters_and_names_follow_the_order_shown(either: Mllm, pairs):
    batch = collate(either, pairs, ["letters", "likelihood", "list"], 3, [0, 1, 2])
    tokenizer = either.processor.tokenizer
    assert batch.counts == [5, 2, 4]
    assert batch.examples == [shuffle_candidates(pairs[i][0], 3, i) for i in range(3)]
    for row, (example, truth) in enumerate(zip(batch.examples, batch.truths, strict=True)):
        assert example.candidates[truth].label == example.label
        letters, *answers = [path for path in batch.forest.paths if path.row == row]
        text, sorting = (tokenizer.decode(batch.forest.ids[row, path.nodes]) for path in (letters, answers[-1]))
        lettered = [f"{letter}. {c.name}\n" for letter, c in zip("ABCDE", example.candidates, strict=False)]
        assert "".join(lettered) in text
        names = [path.answer for path in answers[:-1]]
        assert names == [either.answer_ids(NAMING, c.name) for c in example.candidates]
        target = list_answer(target_names(pairs[row][0], "truth_first"))
        assert tokenizer.decode(answers[-1].answer).strip() == target + tokenizer.eos_token
        assert list_answer([c.name for c in example.candidates]) in sorting


def test_described_candidates_have_a_line_each_in_the_letters_and_list_prompts(either: Mllm, pairs):
    example, image = pairs[0]
    candidates = tuple(replace(c, description=f"text {c.label}") for c in example.candidates[:3])
    pair = (replace(example, candidates=candidates), image)
    batch = collate(either, [pair], ["letters", "list"], 0, [0])
    forest, decode = batch.forest, either.processor.tokenizer.decode
    letters, sorting = (decode(forest.ids[path.row, path.nodes]) for path in forest.paths)
    for letter, candidate in zip("ABC", batch.examples[0].candidates, strict=True):
        assert f"{letter}. {candidate.name}: text {candidate.label}\n" in letters
        assert f"\n{candidate.name}: text {candidate.label}" in sorting
    (conversation, *_) = longest_conversations(pair[0], ["letters"])
    assert conversation[0].count(": text ") == 3  # the token budget counts them


def test_moving_inputs_changes_the_dtype_of_pixels_but_not_of_ids():
    inputs = BatchFeature({"input_ids": torch.ones(1, 2, dtype=torch.long), "pixel_values": torch.ones(1, 3)})
    moved = to_device(inputs, torch.zeros(1, dtype=torch.bfloat16))
    assert moved["input_ids"].dtype == torch.long and moved["pixel_values"].dtype == torch.bfloat16
