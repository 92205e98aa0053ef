"""Settings of the evaluation (section ``eval``)."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.settings.modes import SOURCES
from data_prep.settings.validate import bounded, check, one_of


@dataclass
class EvalArgs:
    """Protocol of ``eval.run``."""

    split: str = "test"
    """Split to evaluate: ``test``, or ``val`` to choose settings."""
    shots: list[int] = field(default_factory=lambda: [4])
    """Images per class in the memory, sampled with CoOp's seeded draw; one evaluation for each number in the list. Each
    is at least 1, without repeats; may be empty."""
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    """Seeds of the few-shot sampling, at least one and without repeats; results are averaged over them."""
    zero_shot: bool = True
    """Also evaluates with a memory of class names alone."""
    full_train_memory: bool = False
    """Also evaluates with every training image in the memory, without sampling."""
    k: int = 5
    """Number of candidates shown to the ranker, at least 1; at most 26 in mode ``letters``, and 12 with ``aggregate:
    kemeny``."""
    candidates: str = "image"
    """Memory that few-shot candidates come from: ``image`` (as in the paper), ``name``, or both (``fused``)."""
    batch_size: int = 32
    """Images per ranking batch, at least 1."""
    permutations: int = 1
    """Number of seeded candidate orders in which each image is ranked, at least 1; their rankings are aggregated."""
    aggregate: str = "mean"
    """How the rankings of several candidate orders are combined: ``mean`` (of probabilities; modes ``likelihood`` and
    ``letters`` only), ``borda``, or ``kemeny`` (exact, ``k`` up to 12)."""
    format_hint: bool = False
    """Adds the expected list format to the prompt of untuned models, as in the released code; for modes ``constrained``
    and ``generate``."""
    show_exemplars: bool = False
    """Shows an exemplar image of each candidate (the most similar one in the memory) next to the query image; not in
    mode ``likelihood``."""
    reply_tokens: int = 0
    """Maximum number of tokens in a ``generate`` reply; 0: the length of a list of the candidates plus 8."""
    fusion: bool = False
    """Adds the rows ``rar_fused`` and ``rar_gated``, fitted on the validation split, and the gate's curve. Modes
    ``likelihood`` and ``letters`` only."""
    fit_images: int = 0
    """Number of validation images, evenly spaced, on which fusion, gate and threshold are fitted when the test split is
    evaluated; 0: all."""
    gate: str = "margin"
    """Uncertainty measure of the gate: the ``margin`` between the retriever's two best candidates, or the ``entropy``
    of its probabilities."""
    gate_loss: float = 0.005
    """Top-1 accuracy, as a fraction from 0 to 1, that the gate may lose on the validation split in return for running
    the ranker on fewer images."""
    open_set_fraction: float = 0.0
    """Fraction of the classes (0 to 0.9) held out of the memory as unknown classes for open-set evaluation; 0: none.
    Modes ``likelihood`` and ``letters`` only."""
    ranker_only_images: int = 200
    """Number of images for the row of the ranker without retriever, which scores every class; 0: no such row."""
    ranker_only_classes: int = 256
    """Maximum number of classes for that row; with more classes it is left out."""
    bootstrap: int = 2000
    """Number of bootstrap resamples, of classes and seeds, for the confidence intervals; at least 1."""
    leaks: str = "error"
    """What to do when an evaluated image is, byte for byte, also in the memory's pool or was mined for training:
    ``error``, or ``allow`` (counts and reports it)."""
    near_duplicate_threshold: float = 0.99
    """Cosine similarity, at least 0.5, from which a memory or training image is reported as a near-duplicate of an
    evaluated one; above 1: the search is skipped."""

    def __post_init__(self) -> None:
        one_of("eval.split", self.split, ("test", "val"))
        one_of("eval.candidates", self.candidates, SOURCES)
        one_of("eval.aggregate", self.aggregate, ("mean", "borda", "kemeny"))
        one_of("eval.gate", self.gate, ("margin", "entropy"))
        check(self.aggregate != "kemeny" or self.k <= 12, f"eval.aggregate=kemeny: eval.k={self.k} must be at most 12")
        check(min(self.shots, default=1) >= 1, "eval.shots: each must be at least 1")
        has_memory = bool(self.shots) or self.zero_shot or self.full_train_memory
        check(has_memory, "eval.shots=[]: nothing to evaluate with eval.zero_shot=false")
        one_of("eval.leaks", self.leaks, ("error", "allow"))
        check(bool(self.seeds), "eval.seeds=[]: give at least one sampling seed")
        for key, values in (("shots", self.shots), ("seeds", self.seeds)):
            has_duplicates = len(set(values)) < len(values)
            check(not has_duplicates, f"eval.{key}={list(values)}: a value is repeated and would count twice")
        minimum: dict[str, float] = dict.fromkeys(("k", "batch_size", "permutations", "bootstrap"), 1)
        minimum |= dict.fromkeys(("ranker_only_images", "ranker_only_classes", "reply_tokens", "fit_images"), 0)
        minimum |= {"gate_loss": 0, "open_set_fraction": 0, "near_duplicate_threshold": 0.5}
        bounded("eval", self, minimum, {"gate_loss": 1, "open_set_fraction": 0.9})
