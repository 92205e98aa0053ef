"""Settings of the ranker."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.settings.checks import bounded, check, one_of
from data_prep.settings.modes import MODES


@dataclass
class LoraArgs:
    """The adapter."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    scope: str = "language"
    """``language``, or ``language+projector``; the vision tower stays frozen."""

    def __post_init__(self) -> None:
        bounded("ranker.lora", self, {"rank": 1, "alpha": 1, "dropout": 0}, {"dropout": 0.99})
        one_of("ranker.lora.scope", self.scope, ("language", "language+projector"))


@dataclass
class ObjectiveArgs:
    """Weights of the losses; one with weight 0 is not computed."""

    letters: float = 1.0
    """Cross-entropy over the candidates' letters."""
    likelihood: float = 1.0
    """Cross-entropy over the candidates' log-likelihoods as names."""
    list: float = 0.0
    """The paper's: language-model loss on the sorted list, truth first."""

    def __post_init__(self) -> None:
        weights = (self.letters, self.likelihood, self.list)
        check(min(weights) >= 0 and max(weights) > 0, "ranker.objectives: no weight below 0, one above 0")


@dataclass
class RankerArgs:
    """The MLLM, its adapter and how it ranks."""

    model: str = "nano-mllm"
    """``nano-mllm``, a Hugging Face name, or a folder."""
    dtype: str = "float32"
    """``float32`` or ``bfloat16``."""
    lora: LoraArgs = field(default_factory=LoraArgs)
    objectives: ObjectiveArgs = field(default_factory=ObjectiveArgs)
    mode: str = "likelihood"
    """How ``eval.run`` ranks: ``likelihood``, ``letters``, ``constrained`` or ``generate``."""

    def __post_init__(self) -> None:
        one_of("ranker.mode", self.mode, MODES)
        one_of("ranker.dtype", self.dtype, ("float32", "bfloat16"))
