"""The AdamW optimiser and gradient clipping, by device and strategy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from data_prep.distributed.devices import resolve_accelerator
from data_prep.settings import Recipe


def make_adamw(parameters: Sequence[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """Makes AdamW by the recipe, fused (``optim.fused``) on a CUDA GPU and where DeepSpeed keeps it in host memory.

    The device is taken from the recipe: under DeepSpeed the model is not on it yet when the optimiser is made.

    Args:
        parameters: The trained parameters.
        recipe: Learning rate, weight decay, precision, device, and DeepSpeed's offloading.
    """
    optim, trainer = recipe.optim, recipe.trainer
    # A fused step unscales float16's gradients itself, too late to clip them.
    on_gpu = resolve_accelerator(trainer) == "cuda" and trainer.precision != "16-mixed"
    fused = (on_gpu or trainer.offload != "none") if optim.fused is None else optim.fused
    return torch.optim.AdamW(parameters, lr=optim.lr, weight_decay=optim.weight_decay, fused=fused or None)


class FusedClippingMixin:
    """Mixin for a LightningModule with a ``recipe``: clips gradients by norm, also for a fused optimiser in bfloat16.

    A fused optimiser may unscale gradients itself, so under mixed precision Lightning refuses to clip for it; in
    bfloat16 nothing is scaled. DeepSpeed clips gradients itself.
    """

    recipe: Recipe

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips gradients; Lightning's hook."""
        args = self.recipe.trainer
        if args.precision != "bf16-mixed" or args.zero_stage:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
