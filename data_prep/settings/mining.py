"""Settings of mining."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.settings.checks import bounded, check, one_of
from data_prep.settings.modes import SOURCES


@dataclass
class MiningArgs:
    """How ranking examples are made from the tuning classes."""

    k: int = 5
    """Candidates per example, distinct classes."""
    memories: list[str] = field(default_factory=lambda: ["image", "name"])
    """What candidates come from, one example per image and source: ``image``, ``name``, ``fused``."""
    ground_truth: str = "only_if_retrieved"
    """``only_if_retrieved`` drops an example whose truth is not among the candidates; ``insert`` puts it last."""
    shard_size: int = 1000
    """Examples per shard."""

    def __post_init__(self) -> None:
        check(2 <= self.k <= 26, f"mining.k={self.k}: must lie in 2..26, one letter a candidate")
        for memory in self.memories:
            one_of("mining.memories", memory, SOURCES)
        check(len(self.memories) > 0, "mining.memories: name at least one of image, name, fused")
        bounded("mining", self, {"shard_size": 1})
        one_of("mining.ground_truth", self.ground_truth, ("only_if_retrieved", "insert"))
