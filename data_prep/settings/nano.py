"""Settings of the embedded models' training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class NanoArgs:
    """Training of the embedded models, on armory's base classes."""

    seed: int = 0
    thousands: int = 80
    """Distinct base blazons, one picture each, in thousands."""
    tower_steps: int = 6000
    tower_batch: int = 64
    tower_lr: float = 2e-3
    language_steps: int = 2000
    language_lr: float = 1.5e-3
    naming: int = 24
    """Naming conversations per step."""
    letters: int = 48
    """Letter conversations per step."""
    sorting: int = 4
    """List conversations per step."""
    clip_steps: int = 700
    clip_batch: int = 256
    clip_lr: float = 1e-3
