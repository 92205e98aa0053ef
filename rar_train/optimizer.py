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
    fused = device.type == "cuda" if optim.fused is None else optim.fused
    return torch.optim.AdamW(parameters, lr=optim.lr, weight_decay=optim.weight_decay, fused=fused or None)
