"""Settings of the evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.settings.checks import bounded, check, one_of
from data_prep.settings.modes import SOURCES


@dataclass
class EvalArgs:
    """The protocol of ``eval.run``."""

    split: str = "test"
    """``test``, or ``development`` to choose settings."""
    shots: list[int] = field(default_factory=lambda: [4])
    """Images per class in the memory, CoOp's seeded draw."""
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    zero_shot: bool = True
    """Also with a memory of names alone."""
    k: int = 5
    """Candidates that the ranker sees."""
    candidates: str = "image"
    """What few-shot candidates come from: ``image`` (the paper's), ``name`` or ``fused``."""
    batch_size: int = 32
    """Images per ranking pass."""
    alone_images: int = 200
    """Images for the row of the ranker without retriever, which scores every class; 0 leaves it out."""
    alone_classes: int = 256
    """The row is left out where there are more classes than this."""
    bootstrap: int = 2000
    """Resamples of the images for the interval."""

    def __post_init__(self) -> None:
        one_of("eval.split", self.split, ("test", "development"))
        one_of("eval.candidates", self.candidates, SOURCES)
        check(2 <= self.k <= 26, f"eval.k={self.k}: must lie in 2..26, one letter a candidate")
        check(min(self.shots, default=1) >= 1, "eval.shots: each must be at least 1")
        check(bool(self.shots) or self.zero_shot, "eval.shots=[]: nothing to evaluate with eval.zero_shot=false")
        check(bool(self.seeds), "eval.seeds=[]: name at least one seed of the draw")
        bounded("eval", self, {"batch_size": 1, "bootstrap": 1, "alone_images": 0, "alone_classes": 0})
