"""The ranker's losses, one value per example, so that an example's weight does not depend on its batch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.settings import REWARDED, ObjectiveArgs
from rar_train.models.mllm import Mllm
from rar_train.models.scoring import TreeScores, pair_scores, score, split_by_row
from rar_train.ranker.collate import CONVERSATIONS, RankingBatch
from rar_train.ranker.reward import policy_loss


@dataclass(frozen=True)
class BatchScores:
    """What the model says about a batch; None for conversations that it does not have.

    Attributes:
        tables: Scores of shape ``[n, k]`` by mode, ``-inf`` beyond an example's candidates: the ``letters``' logits,
            the names' log-odds (``yes_no``) and log-likelihoods (``likelihood``).
        list: Mean log-likelihood of the sorted lists' tokens, shape ``[n]``.
    """

    tables: dict[str, Tensor]
    list: Tensor | None


def score_batch(mllm: Mllm, batch: RankingBatch) -> BatchScores:
    """Scores all conversations of a batch in one forward pass."""
    scores = score(mllm, batch.forest, [*batch.letter_ids, *batch.yes_no_ids])
    tables, lists = _split_reads(mllm, batch, scores), None
    answers, lengths = scores.answers, scores.lengths
    if "list" in batch.modes:  # the last answer of each example
        names = [count if "likelihood" in batch.modes else 0 for count in batch.counts]
        last = [end + row for row, end in enumerate(accumulate(names))]
        lists = answers[last] / lengths[last]
        answers = answers[sorted({*range(len(answers))} - {*last})]
    if "likelihood" in batch.modes:
        tables["likelihood"] = split_by_row(answers, batch.counts)
    return BatchScores(tables, lists)


def _split_reads(mllm: Mllm, batch: RankingBatch, scores: TreeScores) -> dict[str, Tensor]:
    """Splits what is read after the prompts: an example's letters, and then its candidates' yes and no.

    Args:
        mllm: The ranker.
        batch: Its ``modes`` say which of them each example has.
        scores: With the logits of the letters and then of yes and no, shape ``[p, tokens]``.

    Returns:
        dict[str, Tensor]: Scores of shape ``[n, k]`` by mode, ``-inf`` beyond an example's candidates.
    """
    tables, letters, logits = {}, len(batch.letter_ids), scores.letters
    questions = [count if "yes_no" in batch.modes else 0 for count in batch.counts]
    lists = [row + before for row, before in enumerate(accumulate([0, *questions[:-1]]))] if letters else []
    if letters:
        counts = torch.tensor(batch.counts, device=logits.device)
        beyond = torch.arange(letters, device=counts.device) >= counts[:, None]
        tables["letters"] = logits[lists, :letters].masked_fill(beyond, float("-inf"))
    if "yes_no" in batch.modes:
        rows = sorted({*range(len(logits))} - {*lists})
        tables["yes_no"] = split_by_row(pair_scores(mllm, logits[rows, letters:], scores.states[rows]), batch.counts)
    return tables


def truth_loss(table: Tensor, batch: RankingBatch) -> Tensor:
    """Computes the cross-entropy of the true candidate under the softmax of each row's scores, shape ``[n]``."""
    return F.cross_entropy(table, torch.tensor(batch.truths, device=table.device), reduction="none")


def yes_no_loss(table: Tensor, batch: RankingBatch, kind: str) -> Tensor:
    """Computes the loss of the candidates' log-odds, shape ``[n]``.

    Args:
        table: Log-odds, shape ``[n, k]``.
        batch: Holds each row's candidates and truth.
        kind: ``softmax``, as ``truth_loss``, or ``binary``: each candidate's binary cross-entropy, averaged.
    """
    return truth_loss(table, batch) if kind == "softmax" else _binary_loss(table, batch)


def _binary_loss(table: Tensor, batch: RankingBatch) -> Tensor:
    losses = []
    for row, example, truth in zip(table, batch.examples, batch.truths, strict=True):
        labels = [candidate.label for candidate in example.candidates]
        right = torch.tensor([label == labels[truth] for label in labels], device=row.device, dtype=row.dtype)
        losses.append(F.binary_cross_entropy_with_logits(row[: len(labels)], right))
    return torch.stack(losses)


def ranknet(scores: Tensor) -> Tensor:
    """Computes the RankNet loss with FIRST's weights: a pair of ranks i < j weighs 1 / (i + j) (arXiv 2406.15657).

    Args:
        scores: Scores of one example's candidates in the target order, best first, shape ``[k]``.
    """
    better, worse = torch.triu_indices(len(scores), len(scores), 1, device=scores.device)
    weights = 1 / (better + worse + 2)  # ranks count from 1
    return (weights * F.softplus(scores[worse] - scores[better])).sum()


def listmle(scores: Tensor) -> Tensor:
    """Computes the negative log-likelihood of the target order under Plackett-Luce (ListMLE, Xia et al. 2008).

    Args:
        scores: Scores of one example's candidates in the target order, best first, shape ``[k]``.
    """
    return (scores.flip(0).logcumsumexp(0).flip(0) - scores).sum()


def softmax(scores: Tensor) -> Tensor:
    """Computes the cross-entropy of the first candidate, as the ``letters`` objective does; included for comparison.

    Args:
        scores: Scores of one example's candidates in the target order, best first, shape ``[k]``.
    """
    return scores.logsumexp(0) - scores[0]


LISTWISE_LOSSES = {"ranknet": ranknet, "listmle": listmle, "softmax": softmax}


def listwise_loss(table: Tensor, batch: RankingBatch, kind: str) -> Tensor:
    """Computes a listwise loss of each row in its target order, shape ``[n]``.

    Args:
        table: Letter logits, shape ``[n, k]``.
        batch: Holds each row's target order.
        kind: A key of ``LISTWISE_LOSSES``.
    """
    rows = [LISTWISE_LOSSES[kind](row[torch.tensor(order)]) for row, order in zip(table, batch.orders, strict=True)]
    return torch.stack(rows)


TABLES = ("letters", "yes_no", "likelihood")
"""The modes with a table of scores."""


@dataclass(frozen=True)
class Losses:
    """What a batch gives.

    Attributes:
        values: The unweighted losses in use, of shape ``[n]``, by objective.
        tables: Scores of shape ``[n, k]`` by mode.
        curves: Means over the batch for the logs, by name.
    """

    values: dict[str, Tensor]
    tables: dict[str, Tensor]
    curves: dict[str, Tensor]


@torch.no_grad()
def _score_without_adapter(mllm: Mllm, batch: RankingBatch) -> dict[str, Tensor]:
    """Scores a batch by the base model: tables of shape ``[n, k]`` by mode."""
    with mllm.model.disable_adapter():
        return score_batch(mllm, batch).tables


def compute_losses(mllm: Mllm, batch: RankingBatch, args: ObjectiveArgs) -> Losses:
    """Computes the unweighted losses in use, in one forward pass; a reward with KL divergence adds one of the base.

    Args:
        mllm: The ranker.
        batch: Collated for the objectives.
        args: Which objectives are in use.
    """
    scores = score_batch(mllm, batch)
    rewarded = [name for name in args.weights if name in REWARDED]
    base = _score_without_adapter(mllm, batch) if rewarded and args.reward.kl else {}
    losses, curves = {}, {}
    for name in args.weights:
        if name == "list":
            # A mean over each list's tokens. Hugging Face's ``loss`` is one over all tokens of the batch, in which an
            # example with a short answer counts for less.
            losses[name] = -scores.list
        elif name == "listwise":
            losses[name] = listwise_loss(scores.tables["letters"], batch, args.listwise_loss)
        elif name == "yes_no":
            losses[name] = yes_no_loss(scores.tables["yes_no"], batch, args.yes_no_loss)
        elif name in REWARDED:
            mode = CONVERSATIONS[name]
            truths = torch.tensor(batch.truths, device=scores.tables[mode].device)
            policy = policy_loss(scores.tables[mode], truths, args.reward, base.get(mode))
            losses[name] = policy.values
            curves |= {f"{name}_{curve}" if len(rewarded) > 1 else curve: v for curve, v in policy.curves.items()}
        else:
            losses[name] = truth_loss(scores.tables[name], batch)
    return Losses(losses, scores.tables, curves)
