"""Settings of the evaluation (section ``eval``)."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.settings.modes import ADAPTERS, CLIP_LORA, SOURCES
from data_prep.settings.validate import bounded, check, one_of

DEFAULT_K = 5
"""Number of candidates in the paper."""

MIN_IMAGES = 50
"""Validation images below which nothing is chosen: an image more or less would decide."""

MAX_KEMENY = 12
"""Largest number of candidates of ``aggregate: kemeny``, whose time doubles with each."""


@dataclass
class EvalArgs:
    """Protocol of ``eval.run``."""

    split: str = "test"
    """Split to evaluate: ``test``, or ``val`` to choose settings."""
    classes: str = "all"
    """Classes to evaluate, images and memory: ``all``; or of a data set whose parts share their classes ``base``, the
    first half by label, or ``new``, the other half, on which nothing may have been tuned or chosen (see
    ``data.tune_classes``). ``eval.run --base-to-new`` evaluates both."""
    shots: list[int] = field(default_factory=lambda: [4])
    """Images per class in the memory, sampled with CoOp's seeded draw; one evaluation for each number in the list. Each
    is at least 1, without repeats; may be empty."""
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    """Seeds of the few-shot sampling, at least one and without repeats; results are averaged over them."""
    zero_shot: bool = True
    """Also evaluates with a memory of class names alone."""
    full_train_memory: bool = False
    """Also evaluates with every training image in the memory, without sampling."""
    choices: int = 0
    """Also evaluates multiple choice among this number of classes for each image: the true class and the wrong ones
    whose names are nearest to the image, as FOCI asks it with 4; 0: none; else 2 to 26. Its rows (``choice``) are
    apart from those of retrieval, as the true class is always among the candidates."""
    k: int | str = "auto"
    """Number of candidates for the ranker: ``auto``, or a number of at least 1; at most 26 in mode ``letters``, and 12
    with ``aggregate: kemeny``. With ``auto`` the number with the best top-1 on validation images is used, up to
    ``k_max``; it is 5 in the modes that write a list, and in commands that have no validation images."""
    k_max: int = 50
    """Largest number of candidates that ``k: auto`` tries, at least 1; 26 in mode ``letters``."""
    candidates: str = "auto"
    """Where few-shot candidates come from: ``image`` (the memory of images, as in the paper), ``name``, both
    (``fused``), an adapter (``tip``, ``tip_f`` or ``linear_probe``), ``clip_lora``, or ``auto``: the one of these, with
    the adapters in ``adapters`` and ``clip_lora`` where it is set, whose candidates contain the true class most often
    on validation images."""
    adapters: list[str] = field(default_factory=lambda: list(ADAPTERS))
    """Few-shot adapters to fit to each memory of images, a row each: Tip-Adapter (``tip``), Tip-Adapter-F (``tip_f``)
    and CLAP's linear probe (``linear_probe``). Their hyperparameters are chosen on validation images; may be empty."""
    clip_lora: str | None = None
    """Run of ``recipe=retriever_clip_lora`` with an encoder for each of ``shots`` and ``seeds``: adds the row
    ``clip_lora`` to few-shot tasks, and a source of candidates. Null: none."""
    batch_size: int = 32
    """Images per ranking batch, at least 1."""
    permutations: int | str = "auto"
    """Number of seeded candidate orders in which each image is ranked, at least 1; their rankings are aggregated. With
    ``auto`` it is 2 in mode ``letters`` where that gives a better top-1 on validation images, else 1."""
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
    fusion: bool | None = None
    """Adds the rows ``rar_fused`` and ``rar_gated``, fitted on the validation split, and the gate's curve. Null: in the
    modes that give probabilities, ``likelihood`` and ``letters``."""
    fit_images: int = 500
    """Number of validation images, evenly spaced, on which k, source, fusion, gate and thresholds are chosen; 0:
    all."""
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
    metrics: list[str] = field(default_factory=list)
    """Further metrics of each row, computed from the predictions: ``mean_class_top1``, ``mean_reciprocal_rank``, a
    ``module:function`` of your own, or the name of an entry point; see docs/extending.md."""
    bootstrap: int = 2000
    """Number of bootstrap resamples, of classes and seeds, for the confidence intervals; at least 1."""
    leaks: str = "error"
    """What to do when an evaluated image is, byte for byte, also in the memory's pool or was mined for training:
    ``error``; ``skip`` (leaves the memory's copies out of the memory, and evaluated images that were mined out of the
    evaluation, and counts both); or ``allow`` (keeps, counts and reports it)."""
    near_duplicate_threshold: float = 0.99
    """Cosine similarity, at least 0.5, from which a memory or training image is reported as a near-duplicate of an
    evaluated one; above 1: the search is skipped."""

    def __post_init__(self) -> None:
        one_of("eval.split", self.split, ("test", "val"))
        one_of("eval.classes", self.classes, ("all", "base", "new"))
        one_of("eval.candidates", self.candidates, ("auto", *SOURCES, *ADAPTERS, CLIP_LORA))
        check(
            self.candidates != CLIP_LORA or self.clip_lora is not None,
            "eval.candidates=clip_lora: give eval.clip_lora=RUN too, a run of recipe=retriever_clip_lora",
        )
        check(
            self.clip_lora is None or self.classes == "all",
            f"eval.classes={self.classes}: eval.clip_lora tunes its encoders on draws of all classes; set one of both",
        )
        check(
            self.clip_lora is None or self.open_set_fraction == 0,
            f"eval.open_set_fraction={self.open_set_fraction}: the encoders of eval.clip_lora have seen the images of "
            "all classes, so that none is unknown to them; set one of both",
        )
        for adapter in self.adapters:
            one_of("eval.adapters", adapter, ADAPTERS)
        one_of("eval.aggregate", self.aggregate, ("mean", "borda", "kemeny"))
        one_of("eval.gate", self.gate, ("margin", "entropy"))
        for key in ("k", "permutations"):
            value = getattr(self, key)
            valid = value == "auto" or (isinstance(value, int) and value >= 1)
            check(valid, f"eval.{key}={value}: must be at least 1, or auto")
        kemeny_fits = self.aggregate != "kemeny" or self.fixed_k <= MAX_KEMENY
        check(kemeny_fits, f"eval.aggregate=kemeny: eval.k={self.k} must be at most {MAX_KEMENY}")
        check(min(self.shots, default=1) >= 1, "eval.shots: each must be at least 1")
        has_memory = bool(self.shots) or self.zero_shot or self.full_train_memory
        check(has_memory, "eval.shots=[]: nothing to evaluate with eval.zero_shot=false")
        valid_choices = self.choices == 0 or 2 <= self.choices <= 26
        check(valid_choices, f"eval.choices={self.choices}: must be 0 for none, or 2 to 26 answers")
        one_of("eval.leaks", self.leaks, ("error", "skip", "allow"))
        check(bool(self.seeds), "eval.seeds=[]: give at least one sampling seed")
        for key in ("shots", "seeds", "metrics", "adapters"):
            values = getattr(self, key)
            has_duplicates = len(set(values)) < len(values)
            check(not has_duplicates, f"eval.{key}={list(values)}: a value is repeated and would count twice")
        minimum: dict[str, float] = dict.fromkeys(("k_max", "batch_size", "bootstrap"), 1)
        minimum |= dict.fromkeys(("ranker_only_images", "ranker_only_classes", "reply_tokens", "fit_images"), 0)
        minimum |= {"gate_loss": 0, "open_set_fraction": 0, "near_duplicate_threshold": 0.5}
        bounded("eval", self, minimum, {"gate_loss": 1, "open_set_fraction": 0.9})

    @property
    def fixed_k(self) -> int:
        """The number of candidates where none is chosen on validation images: ``k``, or the paper's 5."""
        return DEFAULT_K if isinstance(self.k, str) else self.k

    @property
    def fitted_adapters(self) -> list[str]:
        """The adapters that are fitted: ``adapters``, and the source of candidates where it is one."""
        also = [self.candidates] if self.candidates in ADAPTERS else []
        return [name for name in ADAPTERS if name in (*self.adapters, *also)]

    @property
    def fixed_permutations(self) -> int:
        """The number of candidate orders where none is chosen on validation images."""
        return 1 if isinstance(self.permutations, str) else self.permutations
