"""The optimiser: AdamW, in the form that device and strategy ask for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from data_prep.settings import Recipe


def adamw(parameters: Sequence[nn.Parameter], recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """AdamW by the recipe.

    Args:
        parameters: What is trained.
        recipe: Rate, decay, ``optim.fused``, and whether DeepSpeed keeps the optimiser in the host's memory.
        device: Where the model is.
    """
    optim = recipe.optim
    if recipe.trainer.offload != "none" and device.type == "cuda":
        from deepspeed.ops.adam import DeepSpeedCPUAdam  # slow to import, and compiled on first use

        return DeepSpeedCPUAdam(parameters, lr=optim.lr, weight_decay=optim.weight_decay, adamw_mode=True)
    # A fused step undoes the scaling of float16's gradients itself, too late to clip them.
    own = device.type == "cuda" and recipe.trainer.precision != "16-mixed"
    fused = own if optim.fused is None else optim.fused
    return torch.optim.AdamW(parameters, lr=optim.lr, weight_decay=optim.weight_decay, fused=fused or None)


class ClipsFused:
    """For a LightningModule with a ``recipe``: clips gradients by norm, also for a fused optimiser in bfloat16.

    A fused optimiser could undo the scaling of gradients itself, so under mixed precision Lightning refuses to clip for
    it; in bfloat16 nothing is scaled. DeepSpeed clips by itself.
    """

    recipe: Recipe

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's hook."""
        args = self.recipe.trainer
        if args.precision != "bf16-mixed" or args.strategy.startswith("deepspeed"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            parameters = [own for group in optimizer.param_groups for own in group["params"]]
            nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
