"""The ranker's losses, one value per example, so that an example's weight does not depend on its batch."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.settings import ObjectiveArgs
from rar_train.models.inputs import to_device
from rar_train.models.mllm import Mllm
from rar_train.models.scoring import answer_loss, answer_scores, letter_scores, name_scores, split_by_row
from rar_train.ranker.collate import RankingBatch


def letter_table(mllm: Mllm, batch: RankingBatch) -> Tensor:
    """Returns the letter logits of a batch, shape ``[n, k]``."""
    inputs = to_device(batch.letters, next(mllm.model.parameters()))
    return letter_scores(mllm, inputs, batch.letter_ids, batch.counts)


def likelihood_table(mllm: Mllm, batch: RankingBatch) -> Tensor:
    """Returns the log-likelihoods of the candidates' names, shape ``[n, k]``."""
    if batch.conversations is not None:
        return split_by_row(answer_scores(mllm, batch.conversations)[0], batch.counts)
    inputs = to_device(batch.naming, next(mllm.model.parameters()))
    return split_by_row(name_scores(mllm, inputs, batch.names, batch.owners), batch.counts)


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


TABLES = {"letters": letter_table, "likelihood": likelihood_table}
READS = {"letters": "letters", "likelihood": "likelihood", "listwise": "letters"}
"""Score table that each objective uses; ``list`` uses none."""


def compute_losses(
    mllm: Mllm, batch: RankingBatch, args: ObjectiveArgs, tables: Iterable[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Computes the unweighted losses in use; objectives that use the same score table share one forward pass.

    Args:
        mllm: The ranker.
        batch: Collated for the objectives and tables.
        args: Which objectives are in use.
        tables: Further score tables to compute.

    Returns:
        tuple: Losses of shape ``[n]`` by objective, and score tables of shape ``[n, k]`` by mode.
    """
    needed = dict.fromkeys([*(READS[name] for name in args.weights if name in READS), *tables])
    scores = {mode: TABLES[mode](mllm, batch) for mode in needed}
    losses = {}
    for name in args.weights:
        if name == "list":
            losses[name] = answer_loss(mllm, batch.sorting)
        elif name == "listwise":
            losses[name] = listwise_loss(scores["letters"], batch, args.listwise_loss)
        else:
            losses[name] = truth_loss(scores[name], batch)
    return losses, scores
