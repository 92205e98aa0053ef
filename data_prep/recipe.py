"""Recipes: dataclass defaults < recipe YAML < ``key.sub=value`` on the command line.

It stands in the lowest package because every command reads the whole recipe: the data stages too
must refuse a misspelt key, whichever section it is in.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from data_prep.errors import UserError

MODES = ("likelihood", "letters", "generate")
SOURCES = ("image", "name", "fused")
RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    _check(value in allowed, f"{key}={value}: must be one of {', '.join(allowed)}")


def _bounded(section: str, args: Any, least: dict[str, float], most: dict[str, float] | None = None) -> None:
    """Checks numbers of a section against the least, and the most, that work."""
    for key, bound in least.items():
        value = getattr(args, key)
        _check(value >= bound, f"{section}.{key}={value}: must be at least {bound}")
    for key, bound in (most or {}).items():
        value = getattr(args, key)
        _check(value <= bound, f"{section}.{key}={value}: must be at most {bound}")


@dataclass
class ArmoryArgs:
    """Sizes of the procedural data set."""

    tuning_classes: int = 240
    """Classes to mine ranking examples from."""
    development_classes: int = 120
    """Classes on which choices are made."""
    test_classes: int = 200
    """Classes of the final figures."""
    family_size: int = 4
    """Near-duplicates per family: each differs from the family's core in one detail."""
    tuning_images: int = 8
    """Pictures per tuning class."""
    memory_images: int = 16
    """Pictures per development and test class from which shots are drawn."""
    query_images: int = 5
    """Pictures per development and test class to be recognised."""
    size: int = 96
    """Width and height of a picture, in pixels."""

    def __post_init__(self) -> None:
        counts = ("tuning_classes", "development_classes", "test_classes", "family_size", "memory_images")
        _bounded("data.armory", self, dict.fromkeys((*counts, "query_images"), 1) | {"tuning_images": 2, "size": 16})
        _check(self.family_size <= 6, "data.armory.family_size: at most 6 neighbours differ in a detail of their own")


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
        _check(
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
        _check(0 <= self.fusion <= 1, f"retriever.fusion={self.fusion}: must lie in 0..1")
        _bounded("retriever", self, {"batch_size": 1, "workers": 0, "pool": 1})
        _check(len(self.templates) > 0, "retriever.templates: give at least one, such as {}")
        for template in self.templates:
            _check(
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
        _check(2 <= self.k <= 26, f"mining.k={self.k}: must lie in 2..26, one letter a candidate")
        for memory in self.memories:
            _one_of("mining.memories", memory, SOURCES)
        _check(len(self.memories) > 0, "mining.memories: name at least one of image, name, fused")
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
        _check(min(weights) >= 0 and max(weights) > 0, "ranker.objectives: no weight below 0, one above 0")


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
        _check(self.max_steps == -1 or self.max_steps >= 1, f"optim.max_steps={self.max_steps}: at least 1, or -1")


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
        _check(2 <= self.k <= 26, f"eval.k={self.k}: must lie in 2..26, one letter a candidate")
        _check(min(self.shots, default=1) >= 1, "eval.shots: each must be at least 1")
        _check(bool(self.shots) or self.zero_shot, "eval.shots=[]: nothing to evaluate with eval.zero_shot=false")
        _check(bool(self.seeds), "eval.seeds=[]: name at least one seed of the draw")
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
    clip_steps: int = 300
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


def _known_keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key in config:
        keys.append(prefix + str(key))
        value = None if OmegaConf.is_missing(config, key) else config[key]
        if isinstance(value, DictConfig):
            keys += _known_keys(value, f"{prefix}{key}.")
    return keys


def _leaves(values: Any, prefix: str = "") -> list[str]:
    """The keys of a layer that hold values, such as ``ranker.lora.rank``."""
    if not isinstance(values, dict):
        return [prefix.rstrip(".")]
    return [leaf for key, value in values.items() for leaf in _leaves(value, f"{prefix}{key}.")]


def _nearest(key: str, known: list[str]) -> str | None:
    """The known key that resembles this one most, by its whole path or by its last word."""
    whole = difflib.get_close_matches(key, known, 1, 0.5)
    last = {name.split(".")[-1]: name for name in reversed(known)}
    word = difflib.get_close_matches(key.split(".")[-1], list(last), 1, 0.6)
    if "." not in key and word:
        return last[word[0]]
    return whole[0] if whole else last[word[0]] if word else None


def _merge(config: DictConfig, values: DictConfig | ListConfig, source: str) -> DictConfig:
    """Merges one layer into the recipe; an unknown key or a wrong type is an error that names it."""
    known = _known_keys(config)
    for key in _leaves(OmegaConf.to_container(values, resolve=False)):
        if key not in known:
            near = _nearest(key, known)
            raise UserError(f"{source}: unknown key {key}" + (f"; did you mean {near}?" if near else ""))
        section = OmegaConf.is_dict(OmegaConf.select(config, key, throw_on_missing=False))
        _check(not section, f"{source}: {key} is a section; give one of its keys, such as {key}.KEY=VALUE")
    try:
        return OmegaConf.merge(config, values)
    except (ConfigKeyError, OmegaConfBaseException) as error:
        raise UserError(f"{source}: {error.full_key}: {str(error).splitlines()[0]}") from None


def recipe_names() -> list[str]:
    """The names of the recipes that the package carries."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _recipe_path(name: str, folder: Path = Path()) -> Path:
    """A recipe by its name, or by the path of a YAML file, which may be relative to a folder."""
    if Path(name).suffix in (".yaml", ".yml"):
        _check((folder / name).is_file(), f"recipe {folder / name}: no such file")
        return folder / name
    if name not in recipe_names():
        near = difflib.get_close_matches(name, recipe_names(), 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(recipe_names())}."
        raise UserError(f"unknown recipe {name}; {hint} A path to a .yaml file works too.")
    return RECIPES / f"{name}.yaml"


def _load_layers(path: Path, config: DictConfig, seen: tuple[Path, ...] = ()) -> DictConfig:
    """Merges a recipe file after the ones that it names as its ``base``."""
    _check(path not in seen, f"{path}: recipes name each other as base: {' -> '.join(p.stem for p in (*seen, path))}")
    try:
        layer = OmegaConf.load(path)
    except Exception as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from None
    _check(isinstance(layer, DictConfig), f"{path}: a recipe is a mapping of keys to values")
    base = layer.pop("base", None)
    if base is not None:
        sibling = path.parent / f"{base}.yaml"
        below = sibling if sibling.is_file() else _recipe_path(str(base), path.parent)
        config = _load_layers(below, config, (*seen, path))
    return _merge(config, layer, str(path))


def load_recipe(arguments: list[str]) -> Recipe:
    """Resolves a command line to a recipe.

    Args:
        arguments: ``recipe=NAME`` or ``recipe=PATH.yaml`` and any number of ``key.sub=value``.

    Returns:
        Recipe: Typed and checked.

    Raises:
        UserError: No recipe, an unknown recipe or key (the nearest is named), or a value of the
            wrong type or out of range.
    """
    for argument in arguments:
        _check("=" in argument, f"{argument}: give settings as key=value, such as recipe=ranker_lora")
    pairs = [argument.split("=", 1) for argument in arguments]
    names = [value for key, value in pairs if key == "recipe"]
    _check(len(names) == 1, f"give recipe=NAME once; there are {', '.join(recipe_names())}")
    config = _load_layers(_recipe_path(names[0]), OmegaConf.structured(Recipe))
    return _to_recipe(override(config, [f"{key}={value}" for key, value in pairs if key != "recipe"]))


def override(config: DictConfig, settings: list[str]) -> DictConfig:
    """Merges ``key.sub=value`` settings into a recipe."""
    try:
        layer = OmegaConf.from_dotlist(settings)
    except Exception as error:
        raise UserError(f"command line: {error}") from None
    return _merge(config, layer, "command line")


def _to_recipe(config: DictConfig) -> Recipe:
    try:
        missing = OmegaConf.missing_keys(config)
        _check(not missing, f"recipe: no value for {', '.join(sorted(missing))}")
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(f"recipe: {error.full_key}: {str(error).splitlines()[0]}") from None


def load_saved_recipe(path: Path, settings: list[str]) -> Recipe:
    """Reads the recipe that a run saved and merges settings into it."""
    config = _load_layers(path, OmegaConf.structured(Recipe))
    return _to_recipe(override(config, settings))


def recipe_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.structured(recipe))
