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
from rar_train.models.scoring import _PADDED, _groups, by_owner, letter_scores, name_scores


def names_of(pairs) -> list[list[str]]:
    return [[candidate.name for candidate in example.candidates] for example, _ in pairs]


def naive_log_likelihood(mllm: Mllm, image, name: str) -> Tensor:
    """The sum of the answer's token log-probabilities from one whole forward pass."""
    batch = mllm.labelled([image], [NAMING], [name])
    labels = batch.pop("labels")[:, 1:]
    tokens = mllm.model(**batch).logits[:, :-1].log_softmax(-1)
    kept = labels != -100
    return tokens[kept].gather(1, labels[kept][:, None]).sum()


def test_letter_scores_are_the_same_alone_and_beside_longer_prompts(either: Mllm, pairs):
    images, names = [image for _, image in pairs], names_of(pairs)
    with torch.no_grad():
        together = letter_scores(either, *letter_inputs(either, images, names), [len(row) for row in names])
        for row, image, own in zip(together, images, names, strict=True):
            alone = letter_scores(either, *letter_inputs(either, [image], [own]), [len(own)])
            torch.testing.assert_close(row[: len(own)], alone[0], rtol=1e-4, atol=1e-4)


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


def test_name_scores_equal_a_whole_forward_pass_for_each_candidate(either: Mllm, pairs):
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
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("padded", [0, 3, 10**6])
def test_name_scores_are_the_same_however_names_pass_together(either: Mllm, pairs, monkeypatch, padded):
    images, names = (
        [image for _, image in pairs],
        [["a", "a bend or, three mullets argent", "b c"], ["d"], ["e f", "g"]],
    )
    with torch.no_grad():
        whole = [naive_log_likelihood(either, image, n) for image, row in zip(images, names, strict=True) for n in row]
        monkeypatch.setattr("rar_train.models.scoring._PADDED", padded)
        scores = name_scores(either, *naming_inputs(either, images, names))
    torch.testing.assert_close(scores, torch.stack(whole), rtol=1e-4, atol=1e-3)


def test_under_zero_3_all_processes_make_as_many_passes_whatever_the_names(fresh, pairs, monkeypatch):
    """A process whose names differ more in length must not ask for a pass in which the others take no part."""
    monkeypatch.setattr("rar_train.models.scoring._PADDED", 0)
    mllm, images, names = fresh(), [pairs[0][1]], [["a", "b c", "a bend or, three mullets argent"]]

    def passes() -> int:
        count = []
        hook = mllm.model.register_forward_hook(lambda *_: count.append(1))
        with torch.no_grad():
            name_scores(mllm, *naming_inputs(mllm, images, names))
        hook.remove()
        return len(count)

    apart = passes()
    next(mllm.model.parameters()).ds_id = 0  # as DeepSpeed marks what it has partitioned
    assert apart > 2 and passes() == 2


@given(st.lists(st.integers(1, 30), min_size=1, max_size=200))
def test_groups_hold_every_answer_once_and_pad_little(lengths):
    groups = _groups(lengths)
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    for group in groups:
        own = [lengths[place] for place in group]
        # The last length to join was within the limit when it did; the others of that length add nothing.
        assert sum(max(own) - length for length in own) <= _PADDED
    # No two neighbours would have passed together within the limit.
    for one, other in pairwise(groups):
        least = min(lengths[place] for place in other)
        assert sum(least - lengths[place] for place in one) > _PADDED


def test_the_gradient_of_name_scores_is_that_of_the_whole_forward_pass(fresh, pairs):
    image, names = pairs[1][1], names_of(pairs)[1]

    def gradients(score) -> list[Tensor]:
        torch.manual_seed(0)
        mllm = add_lora(fresh(), LoraArgs(rank=2))
        score(mllm).backward()
        return [p.grad for name, p in mllm.model.named_parameters() if "lora_B" in name]

    cached = gradients(lambda mllm: name_scores(mllm, *naming_inputs(mllm, [image], [names]))[0])
    naive = gradients(lambda mllm: naive_log_likelihood(mllm, image, names[0]))
    assert all(gradient.abs().sum() > 0 for gradient in naive)
    for one, other in zip(cached, naive, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_letter_scores_pass_a_gradient_to_the_adapter(fresh, pairs):
    mllm = add_lora(fresh(), LoraArgs(rank=2))
    image, names = pairs[0][1], names_of(pairs)[0]
    letter_scores(mllm, *letter_inputs(mllm, [image], [names]), [5])[0, 1].backward()
    reached = [p.grad for name, p in mllm.model.named_parameters() if "lora_B" in name]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in reached)


@pytest.mark.parametrize("counts", [(2, 3), (3, 1, 2)])
def test_by_owner_lays_scores_out_by_row(counts):
    table = by_owner(torch.arange(float(sum(counts))), counts)
    assert table.shape == (len(counts), max(counts))
    assert table[table.isfinite()].tolist() == list(range(sum(counts)))
    assert table.isfinite().sum(1).tolist() == list(counts)
