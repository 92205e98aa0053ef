"""The ranker's losses, one value per example, so that an example's weight does not depend on its batch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.settings import ObjectiveArgs
from rar_train.models.mllm import Mllm
from rar_train.models.scoring import score, split_by_row
from rar_train.ranker.collate import RankingBatch


@dataclass(frozen=True)
class BatchScores:
    """What the model says about a batch; None for conversations that it does not have.

    Attributes:
        tables: Scores of shape ``[n, k]`` by mode, ``-inf`` beyond an example's candidates: the ``letters``' logits
            and the names' log-likelihoods (``likelihood``).
        list: Mean log-likelihood of the sorted lists' tokens, shape ``[n]``.
    """

    tables: dict[str, Tensor]
    list: Tensor | None


def score_batch(mllm: Mllm, batch: RankingBatch) -> BatchScores:
    """Scores all conversations of a batch in one forward pass."""
    scores = score(mllm, batch.forest, batch.letter_ids)
    tables, lists = {}, None
    if "letters" in batch.modes:
        counts = torch.tensor(batch.counts, device=scores.letters.device)
        beyond = torch.arange(scores.letters.shape[1], device=counts.device) >= counts[:, None]
        tables["letters"] = scores.letters.masked_fill(beyond, float("-inf"))
    answers, lengths = scores.answers, scores.lengths
    if "list" in batch.modes:  # the last answer of each example
        names = [count if "likelihood" in batch.modes else 0 for count in batch.counts]
        last = [end + row for row, end in enumerate(accumulate(names))]
        lists = answers[last] / lengths[last]
        answers = answers[sorted({*range(len(answers))} - {*last})]
    if "likelihood" in batch.modes:
        tables["likelihood"] = split_by_row(answers, batch.counts)
    return BatchScores(tables, lists)


def truth_loss(table: Tensor, batch: RankingBatch) -> Tensor:
    """Computes the cross-entropy of the true candidate under the softmax of each row's scores, shape ``[n]``."""
    return F.cross_entropy(table, torch.tensor(batch.truths, device=table.device), reduction="none")


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


TABLES = ("letters", "likelihood")
"""The modes with a table of scores."""


def compute_losses(mllm: Mllm, batch: RankingBatch, args: ObjectiveArgs) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Computes the unweighted losses in use, in one forward pass.

    Args:
        mllm: The ranker.
        batch: Collated for the objectives.
        args: Which objectives are in use.

    Returns:
        tuple: Losses of shape ``[n]`` by objective, and the batch's score tables of shape ``[n, k]`` by mode.
    """
    scores = score_batch(mllm, batch)
    losses = {}
    for name in args.weights:
        if name == "list":
            # A mean over each list's tokens. Hugging Face's ``loss`` is one over all tokens of the batch, in which an
            # example with a short answer counts for less.
            losses[name] = -scores.list
        elif name == "listwise":
            losses[name] = listwise_loss(scores.tables["letters"], batch, args.listwise_loss)
        else:
            losses[name] = truth_loss(scores.tables[name], batch)
    return losses, scores.tables
