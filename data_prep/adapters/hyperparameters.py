"""What is chosen of an adapter on validation images, with the values of its paper where nothing is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FIELDS = {"tip": ("alpha", "beta"), "tip_f": ("alpha", "beta", "epochs"), "linear_probe": ("strength",)}
"""The hyperparameters of each adapter."""

EPOCHS = 20
"""Epochs of Tip-Adapter-F's schedule."""


@dataclass(frozen=True)
class Hyperparameters:
    """Hyperparameters of an adapter, of which it uses those in ``FIELDS``.

    Attributes:
        alpha: Weight of the cache's scores beside the zero-shot scores.
        beta: Sharpness of the cache's affinities.
        epochs: After how many epochs of its schedule of ``EPOCHS`` Tip-Adapter-F is stopped.
        strength: Factor of CLAP's penalty; 1 is its own rule.
    """

    alpha: float = 1.0
    beta: float = 5.5
    epochs: int = EPOCHS
    strength: float = 1.0

    def of(self, name: str) -> dict[str, float]:
        """Returns those that an adapter uses."""
        return {field: getattr(self, field) for field in FIELDS[name]}

    @classmethod
    def from_dict(cls, values: Mapping[str, float] | None) -> Hyperparameters:
        """Restores what ``of`` returned; the paper's values for None."""
        given = dict(values or {})
        if "epochs" in given:
            given["epochs"] = int(given["epochs"])
        return cls(**given)  # type: ignore[arg-type]
