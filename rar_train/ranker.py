"""The ranker's LightningModule: LoRA on an MLLM, trained on ranking examples."""

from __future__ import annotations

import logging
from dataclasses import asdict

import lightning as L
import torch
from torch import Tensor

from data_prep.settings import Recipe
from rar_train.adapter import add_lora
from rar_train.backend import Mllm
from rar_train.collate import RankingBatch
from rar_train.objectives import LOSSES, TABLES
from rar_train.schedule import warmup_cosine

log = logging.getLogger(__name__)


class RankerModule(L.LightningModule):
    """Trains an adapter by a weighted sum of objectives; validates by ranking.

    Args:
        recipe: The run's recipe.
        mllm: The base model; the adapter is added to it.
        steps: Optimiser steps in the whole run, for the schedule.
    """

    # A checkpoint holds the adapter alone; the base comes from its own files.
    strict_loading = False

    def __init__(self, recipe: Recipe, mllm: Mllm, steps: int):
        super().__init__()
        self.recipe, self.steps = recipe, steps
        self.mllm = add_lora(mllm, recipe.ranker.lora)
        self.model = self.mllm.model
        self.weights = {name: weight for name, weight in asdict(recipe.ranker.objectives).items() if weight > 0}

    def train(self, mode: bool = True) -> RankerModule:
        """Sets the mode; the frozen vision tower stays in eval mode, so its statistics hold still."""
        super().train(mode)
        self.model.get_submodule(f"base_model.model.{self.mllm.family.vision}").eval()
        return self

    def on_train_start(self) -> None:
        """``from_pretrained`` leaves eval mode and Lightning keeps what it finds."""
        self.train()

    def on_train_batch_start(self, batch: RankingBatch, batch_idx: int) -> None:
        """Makes dropout a function of seed, batch and process, so that a resumed run repeats it."""
        torch.manual_seed((self.recipe.seed * 1_000_003 + batch_idx) * 1_009 + self.global_rank)

    def training_step(self, batch: RankingBatch, _) -> Tensor:
        """The weighted sum of the recipe's objectives."""
        losses = {name: LOSSES[name](self.mllm, batch) for name in self.weights}
        total = sum(self.weights[name] * loss for name, loss in losses.items())
        self.log_dict({f"train/{name}": loss for name, loss in losses.items()}, batch_size=len(batch.examples))
        self.log("train/loss", total, prog_bar=True, batch_size=len(batch.examples))
        return total

    def validation_step(self, batch: RankingBatch, _) -> None:
        """Accuracy of each one-pass mode on development examples, which all hold the truth."""
        truths = torch.tensor(batch.truths, device=self.device)
        for mode, table in TABLES.items():
            hits = (table(self.mllm, batch).argmax(1) == truths).float().mean()
            self.log(f"val/{mode}", hits, batch_size=len(truths), sync_dist=True)

    def configure_optimizers(self) -> dict:
        """AdamW on the adapter, with warm-up and cosine decay."""
        optim = self.recipe.optim
        adapted = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(adapted, lr=optim.lr, weight_decay=optim.weight_decay)
        return warmup_cosine(optimizer, optim.warmup, self.steps)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keeps the checkpoint at the adapter's size (DeepSpeed leaves frozen weights out itself)."""
        adapted = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        state = checkpoint.get("state_dict", {})
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name in adapted}
