"""Settings of the embedded models' training (section ``nano``)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class NanoArgs:
    """Training of the embedded models (tasks ``nano_clip`` and ``nano_mllm``) on armory's base classes."""

    seed: int = 0
    """Seed of the base corpus and of both trainings."""
    thousands: int = 80
    """Number of distinct base blazons, one image each, in thousands."""
    tower_steps: int = 6000
    """Optimiser steps of the MLLM's vision tower."""
    tower_batch: int = 64
    """Images per step of the vision tower."""
    tower_lr: float = 2e-3
    """Peak learning rate of the vision tower."""
    language_steps: int = 2000
    """Optimiser steps of the language model."""
    language_lr: float = 1.5e-3
    """Peak learning rate of the language model."""
    naming: int = 24
    """Naming conversations per step of the language model."""
    letters: int = 48
    """Letter conversations per step of the language model."""
    sorting: int = 4
    """List-ranking conversations per step of the language model."""
    clip_steps: int = 700
    """Optimiser steps of the CLIP model."""
    clip_batch: int = 256
    """Image-caption pairs per step of the CLIP model."""
    clip_lr: float = 1e-3
    """Peak learning rate of the CLIP model."""
