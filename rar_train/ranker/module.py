"""The ranker's LightningModule: an adapter on an MLLM, trained on ranking examples."""

from __future__ import annotations

import logging
import math

import lightning as L
import torch
from torch import Tensor, nn

from data_prep.core.errors import UserError
from data_prep.settings import Recipe
from rar_train.engine.optimizer import FusedClippingMixin, make_adamw
from rar_train.engine.schedule import warmup_cosine
from rar_train.engine.tracking import RankedExample
from rar_train.models.lora import add_lora
from rar_train.models.mllm import Mllm
from rar_train.ranker.collate import RankingBatch
from rar_train.ranker.losses import compute_losses
from rar_train.ranker.validation import generate_rankings, generation_metrics

log = logging.getLogger(__name__)


class RankerModule(FusedClippingMixin, L.LightningModule):
    """Trains an adapter on a weighted sum of objectives; validates by ranking.

    Args:
        recipe: The run's recipe.
        mllm: The base model; the adapter is added to it.
        steps: Optimiser steps in the complete run, for the schedule.

    Attributes:
        ranked: Rankings of the last validation, for the trackers: ``tracking.pictures`` examples.
    """

    # A checkpoint holds only the adapter; the base model is loaded from its own files.
    strict_loading = False

    def __init__(self, recipe: Recipe, mllm: Mllm, steps: int):
        super().__init__()
        self.recipe, self.steps = recipe, steps
        self.mllm = add_lora(mllm, recipe.ranker.lora)
        self.model = self.mllm.model
        self.weights = recipe.ranker.objectives.weights
        self.ranked: list[RankedExample] = []
        if recipe.trainer.gradient_checkpointing is True:
            self.checkpoint_gradients()
        if recipe.trainer.compile:
            for layer in self.mllm.base.get_decoder().layers:
                layer.compile()

    def checkpoint_gradients(self) -> None:
        """Turns gradient checkpointing on."""
        self.mllm.base.activation_checkpointing_enable({"use_reentrant": False})
        # Only reentrant checkpointing needs gradients at its inputs; they would flow through the frozen tower.
        self.mllm.base.disable_input_require_grads()

    def train(self, mode: bool = True) -> RankerModule:
        """Sets the mode, but keeps a frozen vision tower in eval mode and never updates batch-norm statistics.

        A frozen projector's dropout is off too, so that the adapter trains on the inputs that it gets at inference.
        """
        super().train(mode)
        tower = self.mllm.base.get_submodule(self.mllm.family.vision)
        if not any(parameter.requires_grad for parameter in tower.parameters()):
            tower.eval()
        for module in tower.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        for projector in self.mllm.projectors:
            if not any(parameter.requires_grad for parameter in projector.parameters()):
                for module in projector.modules():
                    if isinstance(module, nn.Dropout):
                        module.eval()
        return self

    def on_train_start(self) -> None:
        """Sets training mode: ``from_pretrained`` leaves eval mode, and Lightning keeps the mode that it finds."""
        self.train()

    def on_train_batch_start(self, batch: RankingBatch, batch_idx: int) -> None:
        """Makes dropout a function of seed, batch and process, so that a resumed run repeats it."""
        torch.manual_seed((self.recipe.seed * 1_000_003 + batch_idx) * 1_009 + self.global_rank)

    def training_step(self, batch: RankingBatch, _) -> Tensor:
        """Computes the weighted sum of the recipe's objectives, with each example weighted by its share of the step.

        Raises:
            UserError: The loss is not a finite number, on any process.
        """
        losses = compute_losses(self.mllm, batch, self.recipe.ranker.objectives)
        total = sum(self.weights[name] * loss for name, loss in losses.values.items())
        means = {name: loss.detach().mean() for name, loss in losses.values.items()} | losses.curves
        # Reduced over all processes, so that all of them stop where one has to.
        if not self.trainer.strategy.reduce_boolean_decision(bool(total.isfinite().all()), all=True):
            values = ", ".join(f"{name} {mean.item():g}" for name, mean in means.items())
            raise UserError(
                f"the loss is not a finite number at step {self.trainer.global_step} ({values}); this "
                f"step is not saved, and earlier checkpoints are kept. Lower optim.lr={self.recipe.optim.lr:g}, or set "
                "trainer.precision=bf16-mixed or 32-true, with another out=FOLDER"
            )
        self.log_dict({f"train/{name}": mean for name, mean in means.items()}, batch_size=len(batch.examples))
        self.log("train/loss", total.detach().mean(), prog_bar=True, batch_size=len(batch.examples))
        loss = total @ torch.tensor(batch.weights, dtype=total.dtype, device=total.device)
        # Lightning divides the loss by the passes of a step, and DeepSpeed divides it again.
        passes = self.trainer.accumulate_grad_batches if self.trainer.strategy.handles_gradient_accumulation else 1
        return loss * passes

    def on_validation_epoch_start(self) -> None:
        """Clears the rankings of the last validation."""
        self.ranked, self._to_generate = [], []

    def validation_step(self, batch: RankingBatch, _) -> None:
        """Logs the loss, and the accuracy of each one-pass mode and of the retriever's order.

        Every validation example contains the truth.
        """
        losses = compute_losses(self.mllm, batch, self.recipe.ranker.objectives)
        count, tables = len(batch.examples), losses.tables
        total = sum(self.weights[name] * loss for name, loss in losses.values.items())
        self.log("val/loss", total.mean(), batch_size=count, sync_dist=True)
        for name, value in losses.curves.items():
            self.log(f"val/{name}", value, batch_size=count, sync_dist=True)
        truths = torch.tensor(batch.truths, device=self.device)
        for mode, table in tables.items():
            hits = (table.argmax(1) == truths).float().mean()
            self.log(f"val/{mode}", hits, batch_size=count, sync_dist=True)
        self.log("val/retriever", sum(batch.retriever_hits) / count, batch_size=count, sync_dist=True)
        batches = self.trainer.num_val_batches[0]
        for row in range(min(count, math.ceil(self._generate_count / batches))):
            self._to_generate.append((batch.images[row], batch.examples[row]))
        for row in range(min(count, self.recipe.tracking.pictures - len(self.ranked))):
            for mode, table in tables.items():
                order = tuple(table[row, : batch.counts[row]].argsort(descending=True, stable=True).tolist())
                self.ranked.append(RankedExample(batch.images[row], batch.examples[row], order, mode))

    @property
    def _generate_count(self) -> int:
        """Number of lists that each process generates."""
        return math.ceil(self.recipe.trainer.val_generate_examples / self.trainer.world_size)

    def on_validation_epoch_end(self) -> None:
        """Logs accuracy and outcomes of generated lists, on evenly spaced ones of the same examples."""
        chosen = self._to_generate[: self._generate_count]
        if not chosen:
            return
        size, rankings = self.recipe.optim.batch_size, []
        for start in range(0, len(chosen), size):
            images, examples = zip(*chosen[start : start + size], strict=True)
            rankings += generate_rankings(self.mllm, images, examples)
        for name, value in generation_metrics(rankings, [example for _, example in chosen]).items():
            self.log(f"val/{name}", value, batch_size=len(chosen), sync_dist=True)
        for (image, example), ranking in zip(chosen[: self.recipe.tracking.pictures], rankings, strict=False):
            self.ranked.append(RankedExample(image, example, ranking.order, "generate", ranking.reply))

    def configure_optimizers(self) -> dict:
        """Builds AdamW on the adapter, with warm-up and cosine decay."""
        adapted = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = make_adamw(adapted, self.recipe)
        return warmup_cosine(optimizer, self.recipe.optim.warmup_ratio, self.steps)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Removes frozen weights from the checkpoint (DeepSpeed omits them itself)."""
        adapted = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        state = checkpoint.get("state_dict", {})
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name in adapted}
