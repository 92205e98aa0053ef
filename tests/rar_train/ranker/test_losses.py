"""Each objective can be learned, and uses the scores that it claims to use."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from data_prep.prompting.prompts import list_answer, list_prompt
from data_prep.settings import LoraArgs, ObjectiveArgs, RankerArgs
from data_prep.settings.ranker import OBJECTIVES, REWARDED
from rar_train.models.loading import load_mllm
from rar_train.models.lora import add_lora
from rar_train.models.mllm import Mllm
from rar_train.models.scoring import takes_trees
from rar_train.ranker.collate import RankingBatch, collate
from rar_train.ranker.losses import LISTWISE_LOSSES, TABLES, compute_losses, listmle, ranknet, score_batch

SUPERVISED = [name for name in OBJECTIVES if name not in REWARDED]

rankings = st.lists(st.floats(-5, 5, allow_nan=False), min_size=2, max_size=8).map(torch.tensor)


def make_batch(mllm: Mllm, pairs, *objectives: str) -> RankingBatch:
    return collate(mllm, pairs, objectives, 0, [0] * len(pairs))


def compute_loss(mllm: Mllm, batch: RankingBatch, objective: str, kind: str = "ranknet") -> Tensor:
    args = ObjectiveArgs(**(dict.fromkeys(OBJECTIVES, 0.0) | {objective: 1.0}), listwise_loss=kind)
    losses = compute_losses(mllm, batch, args).values
    assert set(losses) == {objective} and losses[objective].shape == (len(batch.examples),)
    return losses[objective].mean()


LISTS = [("listwise", "listmle"), ("listwise", "softmax")]


@pytest.mark.parametrize(("objective", "kind"), [*((name, "ranknet") for name in OBJECTIVES), *LISTS])
def test_a_few_steps_on_one_batch_lower_the_loss(objective, kind, pairs):
    torch.manual_seed(0)
    mllm = add_lora(load_mllm(RankerArgs()), LoraArgs(rank=8))
    # Each image is paired with another's candidates, so that even a good model has something to learn.
    wrong = [(example, pairs[i - 1][1]) for i, (example, _) in enumerate(pairs)]
    batch = make_batch(mllm, wrong, objective)
    optimizer = torch.optim.AdamW([p for p in mllm.model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(10):
        loss = compute_loss(mllm, batch, objective, kind)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.98 * losses[0]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_only_the_adapter_gets_a_gradient(fresh, objective, pairs):
    mllm = add_lora(fresh(), LoraArgs(rank=2))
    compute_loss(mllm, make_batch(mllm, pairs, objective), objective).backward()
    reached = {name for name, parameter in mllm.model.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, _ in mllm.model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize("objective", TABLES)
def test_choice_losses_are_cross_entropies_of_the_truth_among_its_candidates(either: Mllm, objective, pairs):
    batch = make_batch(either, pairs, objective)
    with torch.no_grad():
        table = score_batch(either, batch).tables[objective]
        loss = compute_loss(either, batch, objective)
    expected = [
        -row[:count].log_softmax(0)[truth] for row, count, truth in zip(table, batch.counts, batch.truths, strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_the_binary_loss_wants_yes_for_the_true_class_and_no_for_each_other(nano: Mllm, pairs):
    batch = make_batch(nano, pairs, "yes_no")
    args = ObjectiveArgs(0, 0, yes_no=1, yes_no_loss="binary")
    with torch.no_grad():
        scored = compute_losses(nano, batch, args)
    rows = zip(scored.values["yes_no"], scored.tables["yes_no"], batch.counts, batch.truths, strict=True)
    for loss, row, count, truth in rows:
        odds = row[:count].tolist()
        wanted = [value if index == truth else -value for index, value in enumerate(odds)]
        assert loss.item() == pytest.approx(sum(math.log1p(math.exp(-w)) for w in wanted) / count, rel=1e-4, abs=1e-6)


def test_the_list_loss_uses_only_the_answers_tokens(either: Mllm, pairs):
    batch = make_batch(either, pairs, "list")
    with torch.no_grad():
        loss = compute_loss(either, batch, "list")
        names = [[candidate.name for candidate in example.candidates] for example in batch.examples]
        answers = [list_answer([row[i] for i in order]) for row, order in zip(names, batch.orders, strict=True)]
        inputs = either.labelled(batch.images, [list_prompt(row) for row in names], answers)
        labels = inputs.pop("labels")
        logits = either.model(**inputs).logits
    # A mean over each answer's tokens, then over the examples.
    expected = [
        F.cross_entropy(row[:-1], targets[1:], ignore_index=-100) for row, targets in zip(logits, labels, strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-4, atol=1e-4)


def test_the_listwise_target_is_the_truth_first_and_the_others_as_retrieved(nano: Mllm, pairs):
    batch = make_batch(nano, pairs, "listwise")
    for order, shown, (retrieved, _) in zip(batch.orders, batch.examples, pairs, strict=True):
        target = [shown.candidates[position] for position in order]
        assert target[0].label == retrieved.label
        others = [candidate for candidate in retrieved.candidates if candidate.label != retrieved.label]
        assert target[1:] == others
    with torch.no_grad():
        table = score_batch(nano, batch).tables["letters"]
        rows = [ranknet(row[order]) for row, order in zip(table, batch.orders, strict=True)]
        torch.testing.assert_close(compute_loss(nano, batch, "listwise"), torch.stack(rows).mean())


def test_listwise_softmax_is_the_letters_objective(nano: Mllm, pairs):
    batch = make_batch(nano, pairs, "listwise", "letters")
    with torch.no_grad():
        torch.testing.assert_close(
            compute_loss(nano, batch, "listwise", "softmax"), compute_loss(nano, batch, "letters")
        )


@given(rankings)
@settings(max_examples=50, deadline=None)
def test_ranknet_weighs_each_pair_of_ranks_by_the_inverse_of_their_sum(scores):
    values = scores.tolist()
    expected = sum(
        math.log1p(math.exp(values[j] - values[i])) / (i + j + 2)
        for i in range(len(values)) for j in range(i + 1, len(values))
    )  # fmt: skip
    assert ranknet(scores).item() == pytest.approx(expected, rel=1e-4)


@given(rankings)
@settings(max_examples=50, deadline=None)
def test_listmle_is_the_likelihood_of_sampling_the_order_one_by_one(scores):
    log_likelihood = sum(scores[rank:].log_softmax(0)[0] for rank in range(len(scores)))
    assert listmle(scores).item() == pytest.approx(-log_likelihood.item(), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind", LISTWISE_LOSSES)
@given(st.permutations([4.0, 2.0, 1.0, -3.0]))
@settings(max_examples=24, deadline=None)
def test_no_order_has_a_lower_loss_than_the_target(kind, scores):
    loss = LISTWISE_LOSSES[kind]
    assert loss(torch.tensor([4.0, 2.0, 1.0, -3.0])) <= loss(torch.tensor(scores)) + 1e-5


def test_all_objectives_share_one_pass(nano: Mllm, pairs):
    batch, passes = make_batch(nano, pairs, *OBJECTIVES), []
    assert takes_trees(nano)
    hook = nano.base.model.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        scored = compute_losses(nano, batch, ObjectiveArgs(list=1, listwise=1, yes_no=1))
    hook.remove()
    assert len(passes) == 1 and set(scored.values) == set(SUPERVISED) and set(scored.tables) == set(TABLES)


@pytest.mark.parametrize("objective", SUPERVISED)
def test_an_objectives_loss_is_the_same_alone_and_with_the_others(either: Mllm, objective, pairs):
    with torch.no_grad():
        batch = make_batch(either, pairs, *SUPERVISED)
        losses = compute_losses(either, batch, ObjectiveArgs(list=1, listwise=1, yes_no=1)).values
        alone = compute_loss(either, make_batch(either, pairs, objective), objective)
    torch.testing.assert_close(losses[objective].mean(), alone, rtol=1e-5, atol=1e-5)
