"""Every setting of a recipe: its type, its default, its check and what it means.

It stands in the lowest package because every command reads the whole recipe: the data stages too
must refuse a misspelt key, whichever section it is in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from data_prep.errors import UserError

MODES = ("likelihood", "letters", "generate")
SOURCES = ("image", "name", "fused")


def check(condition: bool, message: str) -> None:
    """Raises a ``UserError`` with the message where the condition does not hold."""
    if not condition:
        raise UserError(message)


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    check(value in allowed, f"{key}={value}: must be one of {', '.join(allowed)}")


def _bounded(section: str, args: Any, least: dict[str, float], most: dict[str, float] | None = None) -> None:
    """Checks numbers of a section against the least, and the most, that work."""
    for key, bound in least.items():
        value = getattr(args, key)
        check(value >= bound, f"{section}.{key}={value}: must be at least {bound}")
    for key, bound in (most or {}).items():
        value = getattr(args, key)
        check(value <= bound, f"{section}.{key}={value}: must be at most {bound}")


@dataclass
class ArmoryArgs:
    """Sizes of the procedural data set."""

    tuning_classes: int = 960
    """Classes to mine ranking examples from."""
    development_classes: int = 120
    """Classes on which choices are made."""
    test_classes: int = 200
    """Classes of the final figures."""
    family_size: int = 4
    """Near-duplicates per family: each differs from the family's core in one detail."""
    tuning_images: int = 4
    """Pictures per tuning class."""
    memory_images: int = 16
    """Pictures per development and test class from which shots are drawn."""
    query_images: int = 10
    """Pictures per development and test class to be recognised."""
    size: int = 96
    """Width and height of a picture, in pixels."""
    weather: float = 0.5
    """How foul the conditions are, 0 to 1: leaves, haze and blur. The embedded models were trained in fair weather,
    as models from elsewhere know other pictures than a user's."""

    def __post_init__(self) -> None:
        counts = ("tuning_classes", "development_classes", "test_classes", "family_size", "memory_images")
        _bounded("data.armory", self, dict.fromkeys((*counts, "query_images"), 1) | {"tuning_images": 2, "size": 16})
        _bounded("data.armory", self, {"weather": 0}, {"weather": 1})
        check(self.family_size <= 6, "data.armory.family_size: at most 6 neighbours differ in a detail of their own")


@dataclass
class DataArgs:
    """Where labelled images come from."""

    name: str = "armory"
    """``armory`` (procedural) or ``folder`` (yours)."""
    root: str | None = None
    """With ``folder``: a folder per class, or a folder that holds samples.csv or samples.jsonl, or such a file."""
    seed: int = 0
    """Draws armory's classes and pictures; splits a folder that names no splits."""
    shares: list[float] = field(default_factory=lambda: [0.6, 0.2, 0.2])
    """Shares of train, val and test of each class where a folder names no splits."""
    small_classes: str = "error"
    """A class with too few images to split or to leave one out: ``error``, or ``skip`` (counted)."""
    unreadable: str = "error"
    """An image that does not decode: ``error``, or ``skip`` (counted)."""
    armory: ArmoryArgs = field(default_factory=ArmoryArgs)

    def __post_init__(self) -> None:
        _bounded("data", self, {"seed": 0})
        _one_of("data.small_classes", self.small_classes, ("error", "skip"))
        _one_of("data.unreadable", self.unreadable, ("error", "skip"))
        check(
            len(self.shares) == 3 and min(self.shares) > 0 and abs(sum(self.shares) - 1) < 1e-6,
            f"data.shares={list(self.shares)}: give three positive shares (train, val, test) that sum to 1",
        )


@dataclass
class RetrieverArgs:
    """The CLIP encoder and the memory made with it."""

    model: str = "nano-clip"
    """``nano-clip``, an open_clip model name, ``local-dir:PATH`` or ``hf-hub:OWNER/NAME``."""
    pretrained: str | None = None
    """open_clip tag or path of weights; not needed with nano-clip, ``local-dir:`` and ``hf-hub:``."""
    templates: list[str] = field(default_factory=lambda: ["{}"])
    """Prompts around a class name, averaged."""
    batch_size: int = 128
    """Images or texts per forward pass."""
    workers: int = 0
    """Processes that decode images."""
    index: str = "flat"
    """FAISS index: ``flat`` (exact)."""
    pool: int = 64
    """Entries fetched at first for k distinct classes; widened until k are found."""
    fusion: float = 0.5
    """Weight of the name's similarity in the fused score; the image's is one minus it."""

    def __post_init__(self) -> None:
        _one_of("retriever.index", self.index, ("flat",))
        check(0 <= self.fusion <= 1, f"retriever.fusion={self.fusion}: must lie in 0..1")
        _bounded("retriever", self, {"batch_size": 1, "workers": 0, "pool": 1})
        check(len(self.templates) > 0, "retriever.templates: give at least one, such as {}")
        for template in self.templates:
            check(
                template.count("{}") == 1 and not set(template.replace("{}", "")) & set("{}"),
                f"retriever.templates: {template!r} needs one {{}} for the class name, and no other braces",
            )


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
            _one_of("mining.memories", memory, SOURCES)
        check(len(self.memories) > 0, "mining.memories: name at least one of image, name, fused")
        _bounded("mining", self, {"shard_size": 1})
        _one_of("mining.ground_truth", self.ground_truth, ("only_if_retrieved", "insert"))


@dataclass
class LoraArgs:
    """The adapter."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    scope: str = "language"
    """``language``, or ``language+projector``; the vision tower stays frozen."""

    def __post_init__(self) -> None:
        _bounded("ranker.lora", self, {"rank": 1, "alpha": 1, "dropout": 0}, {"dropout": 0.99})
        _one_of("ranker.lora.scope", self.scope, ("language", "language+projector"))


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
    """How ``eval.run`` ranks: ``likelihood``, ``letters`` or ``generate``."""

    def __post_init__(self) -> None:
        _one_of("ranker.mode", self.mode, MODES)
        _one_of("ranker.dtype", self.dtype, ("float32", "bfloat16"))


@dataclass
class OptimArgs:
    """The optimiser."""

    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    """Share of the steps that warm up."""
    epochs: int = 1
    batch_size: int = 16
    """Examples per process and forward pass."""
    accumulate: int = 1
    """Forward passes per step."""
    max_steps: int = -1
    """Stops early after so many optimiser steps; -1: after the epochs."""

    def __post_init__(self) -> None:
        least = {"lr": 0, "weight_decay": 0, "warmup": 0, "epochs": 1, "batch_size": 1, "accumulate": 1}
        _bounded("optim", self, least, {"warmup": 1})
        check(self.max_steps == -1 or self.max_steps >= 1, f"optim.max_steps={self.max_steps}: at least 1, or -1")


@dataclass
class TrainerArgs:
    """Lightning's Trainer."""

    strategy: str = "auto"
    """``auto``, ``ddp``, or ``deepspeed_stage_1``, ``deepspeed_stage_2``; also on CPU processes."""
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: str = "32-true"
    grad_clip: float = 1.0
    log_every: int = 10
    """Steps."""
    checkpoint_every: int = 50
    """Steps between checkpoints, and between validations."""
    validation_images: int = 200
    """Development examples that a validation ranks."""
    resume: bool = True
    """Goes on from the run folder's last checkpoint; false starts the run anew."""

    def __post_init__(self) -> None:
        counts = ("devices", "num_nodes", "log_every", "checkpoint_every", "validation_images")
        _bounded("trainer", self, dict.fromkeys(counts, 1) | {"grad_clip": 0})
        _one_of("trainer.precision", self.precision, ("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true"))
        _one_of(
            "trainer.strategy",
            self.strategy,
            ("auto", "ddp", "deepspeed_stage_1", "deepspeed_stage_2"),
        )


@dataclass
class TrackingArgs:
    """Weights & Biases; CSV is always written beside it."""

    wandb: str = "offline"
    """``offline``, ``online`` or ``disabled``."""
    project: str = "rar"
    entity: str | None = None

    def __post_init__(self) -> None:
        _one_of("tracking.wandb", self.wandb, ("offline", "online", "disabled"))


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
        _one_of("eval.split", self.split, ("test", "development"))
        _one_of("eval.candidates", self.candidates, SOURCES)
        check(2 <= self.k <= 26, f"eval.k={self.k}: must lie in 2..26, one letter a candidate")
        check(min(self.shots, default=1) >= 1, "eval.shots: each must be at least 1")
        check(bool(self.shots) or self.zero_shot, "eval.shots=[]: nothing to evaluate with eval.zero_shot=false")
        check(bool(self.seeds), "eval.seeds=[]: name at least one seed of the draw")
        _bounded("eval", self, {"batch_size": 1, "bootstrap": 1, "alone_images": 0, "alone_classes": 0})


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
    language_lr: float = 1e-3
    letter_steps: int = 900
    """Steps of the last stage, which trains mostly on letters."""
    letter_lr: float = 7e-4
    naming: int = 24
    """Naming conversations per step."""
    letters: int = 48
    """Letter conversations per step."""
    sorting: int = 4
    """List conversations per step."""
    clip_steps: int = 700
    clip_batch: int = 256
    clip_lr: float = 1e-3


@dataclass
class Recipe:
    """Everything that decides a run."""

    task: str = MISSING
    """``ranker``, ``nano_clip`` or ``nano_mllm``."""
    out: str = MISSING
    """The run's folder."""
    cache: str = "cache"
    """Folder for what stages make and share."""
    seed: int = 0
    data: DataArgs = field(default_factory=DataArgs)
    retriever: RetrieverArgs = field(default_factory=RetrieverArgs)
    mining: MiningArgs = field(default_factory=MiningArgs)
    ranker: RankerArgs = field(default_factory=RankerArgs)
    optim: OptimArgs = field(default_factory=OptimArgs)
    trainer: TrainerArgs = field(default_factory=TrainerArgs)
    tracking: TrackingArgs = field(default_factory=TrackingArgs)
    eval: EvalArgs = field(default_factory=EvalArgs)
    nano: NanoArgs = field(default_factory=NanoArgs)

    def __post_init__(self) -> None:
        _one_of("task", self.task, ("ranker", "nano_clip", "nano_mllm"))
