"""Base module for training a projector: everything else is frozen, and checkpoints hold only the projector."""

from __future__ import annotations

import lightning as L

from data_prep.settings import Recipe
from rar_train.engine.optimizer import FusedClippingMixin, make_adamw
from rar_train.engine.schedule import warmup_cosine
from rar_train.models.mllm import Mllm


class ProjectorTraining(FusedClippingMixin, L.LightningModule):
    """Trains only the projector of a model.

    Args:
        recipe: The run's recipe.
        mllm: The model.
        steps: Optimiser steps in the complete run, for the schedule.
    """

    # The rest of the model is loaded from its own files.
    strict_loading = False

    def __init__(self, recipe: Recipe, mllm: Mllm, steps: int):
        super().__init__()
        self.recipe, self.steps = recipe, steps
        mllm.model.requires_grad_(False)
        self.projector = mllm.base.get_submodule(mllm.family.connector).requires_grad_(True)

    def configure_optimizers(self) -> dict:
        """Builds AdamW on the projector, with warm-up and cosine decay."""
        optimizer = make_adamw(list(self.projector.parameters()), self.recipe)
        return warmup_cosine(optimizer, self.recipe.optim.warmup_ratio, self.steps)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keeps only the projector's weights in the checkpoint."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name.startswith("projector.")}
