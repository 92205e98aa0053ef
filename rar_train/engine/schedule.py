"""The learning-rate schedule: linear warm-up and cosine decay."""

from __future__ import annotations

import math

import torch


def warmup_cosine(optimizer: torch.optim.Optimizer, warmup_share: float, steps: int) -> dict:
    """Builds a schedule of linear warm-up, then a half cosine down to 1 % of the peak.

    Args:
        optimizer: Its learning rate is the peak.
        warmup_share: Fraction of the steps that warm up, 0 to 1.
        steps: Optimiser steps in the entire run.

    Returns:
        dict: The value of ``configure_optimizers``; the schedule advances every step and is logged as ``optim/lr``.
    """
    warmup = max(1, round(warmup_share * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "optim/lr"}}
