"""The ranker's losses: of each example of a batch, so that none counts for more by the company it is in."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.settings import ObjectiveArgs
from rar_train.models.inputs import to_device
from rar_train.models.mllm import Mllm
from rar_train.models.scoring import answer_loss, answer_scores, by_owner, letter_scores, name_scores
from rar_train.ranker.collate import RankingBatch


def letter_table(mllm: Mllm, batch: RankingBatch) -> Tensor:
    """Letter logits of a batch, shape ``[n, k]``."""
    inputs = to_device(batch.letters, next(mllm.model.parameters()))
    return letter_scores(mllm, inputs, batch.letter_ids, batch.counts)


def likelihood_table(mllm: Mllm, batch: RankingBatch) -> Tensor:
    """Log-likelihoods of the candidates' names, shape ``[n, k]``."""
    if batch.conversations is not None:
        return by_owner(answer_scores(mllm, batch.conversations)[0], batch.counts)
    inputs = to_device(batch.naming, next(mllm.model.parameters()))
    return by_owner(name_scores(mllm, inputs, batch.names, batch.owners), batch.counts)


def truth_loss(table: Tensor, batch: RankingBatch) -> Tensor:
    """Cross-entropy of the true candidate under the softmax of a row's scores, shape ``[n]``."""
    return F.cross_entropy(table, torch.tensor(batch.truths, device=table.device), reduction="none")


def ranknet(scores: Tensor) -> Tensor:
    """RankNet with FIRST's weights: each pair of ranks i < j counts 1 / (i + j) (arXiv 2406.15657).

    Args:
        scores: Of one row's candidates in the target's order, best first, shape ``[k]``.
    """
    better, worse = torch.triu_indices(len(scores), len(scores), 1, device=scores.device)
    weights = 1 / (better + worse + 2)  # ranks count from 1
    return (weights * F.softplus(scores[worse] - scores[better])).sum()


def listmle(scores: Tensor) -> Tensor:
    """Negative log-likelihood of the target's order under Plackett-Luce (Xia et al. 2008).

    Args:
        scores: Of one row's candidates in the target's order, best first, shape ``[k]``.
    """
    return (scores.flip(0).logcumsumexp(0).flip(0) - scores).sum()


def softmax(scores: Tensor) -> Tensor:
    """Cross-entropy of the target's first, which the ``letters`` objective takes too; here to compare.

    Args:
        scores: Of one row's candidates in the target's order, best first, shape ``[k]``.
    """
    return scores.logsumexp(0) - scores[0]


LISTWISE_LOSSES = {"ranknet": ranknet, "listmle": listmle, "softmax": softmax}


def listwise_loss(table: Tensor, batch: RankingBatch, kind: str) -> Tensor:
    """A listwise loss of each row, in its target's order: shape ``[n]``.

    Args:
        table: Letter logits, shape ``[n, k]``.
        batch: Knows each row's target order.
        kind: A key of ``LISTWISE_LOSSES``.
    """
    rows = [LISTWISE_LOSSES[kind](row[torch.tensor(order)]) for row, order in zip(table, batch.orders, strict=True)]
    return torch.stack(rows)


TABLES = {"letters": letter_table, "likelihood": likelihood_table}
READS = {"letters": "letters", "likelihood": "likelihood", "listwise": "letters"}
"""The table that an objective reads; ``list`` reads none."""


def compute_losses(
    mllm: Mllm, batch: RankingBatch, args: ObjectiveArgs, tables: Iterable[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The losses in use, each before its weight; objectives that read the same scores share one pass.

    Args:
        mllm: The ranker.
        batch: Collated for the objectives and tables.
        args: Which objectives are in use.
        tables: Further tables to give.

    Returns:
        tuple: Losses of shape ``[n]`` by objective, and score tables of shape ``[n, k]`` by mode.
    """
    needed = dict.fromkeys([*(READS[name] for name in args.weights if name in READS), *tables])
    found = {mode: TABLES[mode](mllm, batch) for mode in needed}
    losses = {}
    for name in args.weights:
        if name == "list":
            losses[name] = answer_loss(mllm, batch.sorting)
        elif name == "listwise":
            losses[name] = listwise_loss(found["letters"], batch, args.listwise_loss)
        else:
            losses[name] = truth_loss(found[name], batch)
    return losses, found
