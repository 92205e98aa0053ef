"""The ranker's losses: each a function of the model and a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rar_train.backend import Mllm
from rar_train.collate import RankingBatch, to_device
from rar_train.scoring import by_owner, letter_scores, name_scores


def letter_table(mllm: Mllm, batch: RankingBatch) -> Tensor:
    """Letter logits of a batch, shape ``[n, k]``."""
    inputs = to_device(batch.letters, next(mllm.model.parameters()))
    return letter_scores(mllm, inputs, batch.letter_ids, batch.counts)


def likelihood_table(mllm: Mllm, batch: RankingBatch) -> Tensor:
    """Log-likelihoods of the candidates' names, shape ``[n, k]``."""
    inputs = to_device(batch.naming, next(mllm.model.parameters()))
    return by_owner(name_scores(mllm, inputs, batch.names, batch.owners), batch.counts)


def letters_loss(mllm: Mllm, batch: RankingBatch) -> Tensor:
    """Cross-entropy of the true letter among the candidates' letters."""
    table = letter_table(mllm, batch)
    return F.cross_entropy(table, torch.tensor(batch.truths, device=table.device))


def likelihood_loss(mllm: Mllm, batch: RankingBatch) -> Tensor:
    """Cross-entropy of the true candidate under the softmax of the names' log-likelihoods."""
    table = likelihood_table(mllm, batch)
    return F.cross_entropy(table, torch.tensor(batch.truths, device=table.device))


def list_loss(mllm: Mllm, batch: RankingBatch) -> Tensor:
    """The language-model loss on the sorted list (the paper's objective)."""
    return mllm.model(**to_device(batch.sorting, next(mllm.model.parameters()))).loss


LOSSES = {"letters": letters_loss, "likelihood": likelihood_loss, "list": list_loss}
TABLES = {"letters": letter_table, "likelihood": likelihood_table}
