"""Settings of the evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.settings.modes import SOURCES
from data_prep.settings.validate import bounded, check, one_of


@dataclass
class EvalArgs:
    """The protocol of ``eval.run``."""

    split: str = "test"
    """``test``, or ``val`` to choose settings."""
    shots: list[int] = field(default_factory=lambda: [4])
    """Images per class in the memory, CoOp's seeded draw."""
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    zero_shot: bool = True
    """Also with a memory of names alone."""
    full_train_memory: bool = False
    """Also with every image of the training set in the memory, without a draw."""
    k: int = 5
    """Candidates that the ranker sees; at most 26 in mode ``letters``."""
    candidates: str = "image"
    """What few-shot candidates come from: ``image`` (the paper's), ``name`` or ``fused``."""
    batch_size: int = 32
    """Images per ranking pass."""
    permutations: int = 1
    """Seeded orders in which each image's candidates are shown; the rankings are aggregated."""
    aggregate: str = "mean"
    """How several orders become one: ``mean`` (of probabilities), ``borda``, or ``kemeny`` (exact, k up to 12)."""
    format_hint: bool = False
    """Untuned models are told the list's format, as in the released code; for ``constrained`` and ``generate``."""
    show_exemplars: bool = False
    """Shows a picture of each candidate, the most similar one in the memory, beside the picture in question."""
    reply_tokens: int = 0
    """Tokens that a reply may take in ``generate``; 0: as many as a list of the candidates, and 8 more."""
    fusion: bool = False
    """Adds the rows ``rar_fused`` and ``rar_gated``, fitted on the validation split, and the gate's curve."""
    fit_images: int = 0
    """Development images, spread evenly, on which fusion, gate and threshold are fitted when the test split is
    evaluated; 0: all."""
    gate: str = "margin"
    """What the gate goes by: the ``margin`` between the retriever's first two candidates, or its ``entropy``."""
    gate_loss: float = 0.005
    """Top-1 that the gate may cost on the validation split, for asking the ranker about fewer images."""
    open_set_fraction: float = 0.0
    """Share of the classes held out of a memory to play the unknown ones; 0 leaves it out."""
    ranker_only_images: int = 200
    """Images for the row of the ranker without retriever, which scores every class; 0 leaves it out."""
    ranker_only_classes: int = 256
    """The row is left out where there are more classes than this."""
    bootstrap: int = 2000
    """Resamples of classes and seeds for the interval."""
    leaks: str = "error"
    """An evaluated image that stands in the memory's pool or was mined for training, byte for byte: ``error``, or
    ``allow``, which counts and reports it."""
    near_duplicate_threshold: float = 0.99
    """Cosine similarity from which an image of a memory or of training is reported as a near-duplicate of an evaluated
    one; above 1: none is sought."""

    def __post_init__(self) -> None:
        one_of("eval.split", self.split, ("test", "val"))
        one_of("eval.candidates", self.candidates, SOURCES)
        one_of("eval.aggregate", self.aggregate, ("mean", "borda", "kemeny"))
        one_of("eval.gate", self.gate, ("margin", "entropy"))
        check(self.aggregate != "kemeny" or self.k <= 12, f"eval.aggregate=kemeny: eval.k={self.k}, but at most 12")
        check(min(self.shots, default=1) >= 1, "eval.shots: each must be at least 1")
        something = bool(self.shots) or self.zero_shot or self.full_train_memory
        check(something, "eval.shots=[]: nothing to evaluate with eval.zero_shot=false")
        one_of("eval.leaks", self.leaks, ("error", "allow"))
        check(bool(self.seeds), "eval.seeds=[]: name at least one seed of the draw")
        for key, numbers in (("shots", self.shots), ("seeds", self.seeds)):
            twice = len(set(numbers)) < len(numbers)
            check(not twice, f"eval.{key}={list(numbers)}: names one twice, which would count as two")
        counts = {"k": 1, "batch_size": 1, "permutations": 1, "bootstrap": 1}
        least = dict.fromkeys(
            (
                "ranker_only_images",
                "ranker_only_classes",
                "reply_tokens",
                "fit_images",
                "gate_loss",
                "open_set_fraction",
            ),
            0,
        )
        bounded(
            "eval", self, counts | least | {"near_duplicate_threshold": 0.5}, {"gate_loss": 1, "open_set_fraction": 0.9}
        )
