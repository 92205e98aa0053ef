"""Scores do not depend on batch or padding, and a name's score is its log-likelihood."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from data_prep.prompting.prompts import NAMING, letters_prompt
from data_prep.settings import LoraArgs
from rar_train.models.inputs import letter_inputs, naming_inputs
from rar_train.models.lora import add_lora
from rar_train.models.mllm import Mllm
from rar_train.models.scoring import _MAX_PADDING, _group_by_length, letter_scores, name_scores, split_by_row


def names_of(pairs) -> list[list[str]]:
    return [[candidate.name for candidate in example.candidates] for example, _ in pairs]


def naive_log_likelihood(mllm: Mllm, image, name: str) -> Tensor:
    """Computes the sum of the answer's token log-probabilities from one full forward pass."""
    batch = mllm.labelled([image], [NAMING], [name])
    labels = batch.pop("labels")[:, 1:]
    tokens = mllm.model(**batch).logits[:, :-1].log_softmax(-1)
    labelled = labels != -100
    return tokens[labelled].gather(1, labels[labelled][:, None]).sum()


def test_letter_scores_are_the_same_alone_and_batched_with_longer_prompts(either: Mllm, pairs):
    images, names = [image for _, image in pairs], names_of(pairs)
    with torch.no_grad():
        together = letter_scores(either, *letter_inputs(either, images, names), [len(row) for row in names])
        for scores, image, row in zip(together, images, names, strict=True):
            alone = letter_scores(either, *letter_inputs(either, [image], [row]), [len(row)])
            torch.testing.assert_close(scores[: len(row)], alone[0], rtol=1e-4, atol=1e-4)


def test_letter_scores_are_the_letters_logits_after_the_prompt(either: Mllm, pairs):
    image, names = pairs[0][1], names_of(pairs)[0]
    prompt = letters_prompt(names)
    with torch.no_grad():
        logits = either.model(**either.inputs([image], [prompt])).logits[0, -1]
        scores = letter_scores(either, *letter_inputs(either, [image], [names]), [len(names)])
    torch.testing.assert_close(scores[0], logits[either.letter_ids(len(names))], rtol=1e-4, atol=1e-4)


def test_letters_beyond_a_rows_candidates_are_impossible(nano: Mllm, pairs):
    images, names = [image for _, image in pairs], names_of(pairs)
    with torch.no_grad():
        scores = letter_scores(nano, *letter_inputs(nano, images, names), [5, 2, 4])
    assert scores.isfinite().tolist() == [[True] * count + [False] * (5 - count) for count in (5, 2, 4)]
    assert (scores[1, 2:] == float("-inf")).all()


def test_name_scores_equal_a_full_forward_pass_for_each_candidate(either: Mllm, pairs):
    images, names = [image for _, image in pairs], names_of(pairs)
    with torch.no_grad():
        scores = name_scores(either, *naming_inputs(either, images, names))
        naive = [naive_log_likelihood(either, image, n) for image, row in zip(images, names, strict=True) for n in row]
    torch.testing.assert_close(scores, torch.stack(naive), rtol=1e-4, atol=1e-3)


def test_name_scores_are_the_same_alone_and_in_a_batch(either: Mllm, pairs):
    images, names = [image for _, image in pairs], names_of(pairs)
    with torch.no_grad():
        together = name_scores(either, *naming_inputs(either, images, names)).split([5, 2, 4])
        alone = [
            name_scores(either, *naming_inputs(either, [image], [row]))
            for image, row in zip(images, names, strict=True)
        ]
    for batched, single in zip(together, alone, strict=True):
        torch.testing.assert_close(batched, single, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("padded", [0, 3, 10**6])
def test_name_scores_are_the_same_however_names_are_grouped(either: Mllm, pairs, monkeypatch, padded):
    images, names = (
        [image for _, image in pairs],
        [["a", "a bend or, three mullets argent", "b c"], ["d"], ["e f", "g"]],
    )
    with torch.no_grad():
        naive = [naive_log_likelihood(either, image, n) for image, row in zip(images, names, strict=True) for n in row]
        monkeypatch.setattr("rar_train.models.scoring._MAX_PADDING", padded)
        scores = name_scores(either, *naming_inputs(either, images, names))
    torch.testing.assert_close(scores, torch.stack(naive), rtol=1e-4, atol=1e-3)


def test_under_zero_3_all_processes_run_the_same_number_of_passes_whatever_the_names(fresh, pairs, monkeypatch):
    """A process whose names differ more in length must not run a pass in which the others take no part."""
    monkeypatch.setattr("rar_train.models.scoring._MAX_PADDING", 0)
    mllm, images, names = fresh(), [pairs[0][1]], [["a", "b c", "a bend or, three mullets argent"]]

    def count_passes() -> int:
        count = []
        hook = mllm.model.register_forward_hook(lambda *_: count.append(1))
        with torch.no_grad():
            name_scores(mllm, *naming_inputs(mllm, images, names))
        hook.remove()
        return len(count)

    grouped = count_passes()
    next(mllm.model.parameters()).ds_id = 0  # as DeepSpeed marks what it has partitioned
    assert grouped > 2 and count_passes() == 2


@given(st.lists(st.integers(1, 30), min_size=1, max_size=200))
def test_groups_hold_every_answer_once_and_pad_little(lengths):
    groups = _group_by_length(lengths)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        members = [lengths[index] for index in group]
        # The last length added was within the limit; further answers of that length add no padding.
        assert sum(max(members) - length for length in members) <= _MAX_PADDING
    # No two neighbouring groups could be merged within the limit.
    for group, following in pairwise(groups):
        shortest = min(lengths[index] for index in following)
        assert sum(shortest - lengths[index] for index in group) > _MAX_PADDING


def test_the_gradient_of_name_scores_equals_that_of_the_full_forward_pass(fresh, pairs):
    image, names = pairs[1][1], names_of(pairs)[1]

    def gradients(score) -> list[Tensor]:
        torch.manual_seed(0)
        mllm = add_lora(fresh(), LoraArgs(rank=2))
        score(mllm).backward()
        return [p.grad for name, p in mllm.model.named_parameters() if "lora_B" in name]

    cached = gradients(lambda mllm: name_scores(mllm, *naming_inputs(mllm, [image], [names]))[0])
    naive = gradients(lambda mllm: naive_log_likelihood(mllm, image, names[0]))
    assert all(gradient.abs().sum() > 0 for gradient in naive)
    for gradient, expected in zip(cached, naive, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3)


def test_letter_scores_pass_a_gradient_to_the_adapter(fresh, pairs):
    mllm = add_lora(fresh(), LoraArgs(rank=2))
    image, names = pairs[0][1], names_of(pairs)[0]
    letter_scores(mllm, *letter_inputs(mllm, [image], [names]), [5])[0, 1].backward()
    reached = [p.grad for name, p in mllm.model.named_parameters() if "lora_B" in name]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in reached)


@pytest.mark.parametrize("counts", [(2, 3), (3, 1, 2)])
def test_by_owner_lays_scores_out_by_row(counts):
    table = split_by_row(torch.arange(float(sum(counts))), counts)
    assert table.shape == (len(counts), max(counts))
    assert table[table.isfinite()].tolist() == list(range(sum(counts)))
    assert table.isfinite().sum(1).tolist() == list(counts)
