"""Settings of data sets."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.settings.validate import bounded, check, one_of


@dataclass
class ArmoryArgs:
    """Sizes of the procedural data set."""

    train_classes: int = 960
    """Classes to mine ranking examples from."""
    val_classes: int = 120
    """Classes on which choices are made."""
    test_classes: int = 200
    """Classes of the final figures."""
    family_size: int = 4
    """Near-duplicates per family: each differs from the family's core in one detail."""
    train_images: int = 4
    """Pictures per training class."""
    memory_images: int = 16
    """Pictures per development and test class from which shots are drawn."""
    query_images: int = 10
    """Pictures per development and test class to be recognised."""
    size: int = 96
    """Width and height of a picture, in pixels."""
    corruption: float = 0.5
    """How foul the conditions are, 0 to 1: leaves, haze and blur. The embedded models were trained in fair weather,
    as models from elsewhere know other pictures than a user's."""

    def __post_init__(self) -> None:
        counts = ("train_classes", "val_classes", "test_classes", "family_size", "memory_images")
        bounded("data.armory", self, dict.fromkeys((*counts, "query_images"), 1) | {"train_images": 2, "size": 16})
        bounded("data.armory", self, {"corruption": 0}, {"corruption": 1})
        check(self.family_size <= 6, "data.armory.family_size: at most 6 neighbours differ in a detail of their own")


EMOJI_FAMILIES = ("noto", "noto-v1", "twemoji", "openmoji", "fluent", "emojione", "emojione-v1", "fxemoji")
EMOJI_VOCABULARIES = ("animals", "food", "flags", "faces", "vehicles", "others")


@dataclass
class EmojiArgs:
    """Which design families and sub-vocabularies of the emoji are for what."""

    val: str = "noto"
    """The family on which choices are made."""
    test: str = "twemoji"
    """The family of the final figures. Neither of the two is tuned on."""
    memory: list[str] = field(default_factory=list)
    """Families in the memories of development and test; none: all but the one that is recognised, and for development
    the test family neither."""
    train_vocabulary: list[str] = field(default_factory=list)
    """Sub-vocabularies to tune on: ``animals``, ``food``, ``flags``, ``faces``, ``vehicles``, ``others``; none: all."""
    vocabulary: list[str] = field(default_factory=list)
    """Sub-vocabularies to recognise, each alone or several together; none: all."""

    def __post_init__(self) -> None:
        for key, family in (("val", self.val), ("test", self.test)):
            one_of(f"data.emoji.{key}", family, EMOJI_FAMILIES)
        check(self.val != self.test, f"data.emoji.val={self.test}: is the test family; take another")
        for family in self.memory:
            one_of("data.emoji.memory", family, EMOJI_FAMILIES)
            check(family != self.test, f"data.emoji.memory: {family} is the test family; its drawings would leak")
        for key, names in (("train_vocabulary", self.train_vocabulary), ("vocabulary", self.vocabulary)):
            for name in names:
                one_of(f"data.emoji.{key}", name, EMOJI_VOCABULARIES)


@dataclass
class DataArgs:
    """Where labelled images come from."""

    name: str = "armory"
    """``armory`` (procedural); ``emoji`` (``python -m data_prep.emoji`` makes it); ``folder``, ``imagefolder``,
    ``webdataset`` or ``parquet`` (yours); or a benchmark, such as ``caltech101``. docs/datasets.md lists them all, with
    their layouts."""
    root: str | None = None
    """With ``folder``: a folder per class, or a folder that holds samples.csv or samples.jsonl, or such a file. With a
    benchmark: its folder, or the folder that holds the folders of several."""
    label_column: str = "label"
    """What names the class in tables of ``folder``, in metadata of ``imagefolder``, in records of ``webdataset``, in
    columns of ``parquet``."""
    draw: str = "coop"
    """How shots are drawn: ``coop`` (seeded), or ``first_n`` of each class, as the paper's code does."""
    seed: int = 0
    """Draws armory's classes and pictures; splits a folder that names no splits."""
    split_ratios: list[float] = field(default_factory=lambda: [0.6, 0.2, 0.2])
    """Shares of train, val and test of each class where a folder names no splits."""
    on_small_class: str = "error"
    """A class with too few images to split or to leave one out: ``error``, or ``skip`` (counted)."""
    on_error: str = "skip"
    """An image that cannot be shown (damaged, empty, a decompression bomb): ``skip``, which counts it and lists it with
    its reason, or ``raise``."""
    armory: ArmoryArgs = field(default_factory=ArmoryArgs)
    emoji: EmojiArgs = field(default_factory=EmojiArgs)

    def __post_init__(self) -> None:
        bounded("data", self, {"seed": 0})
        one_of("data.draw", self.draw, ("coop", "first_n"))
        one_of("data.on_small_class", self.on_small_class, ("error", "skip"))
        one_of("data.on_error", self.on_error, ("skip", "raise"))
        check(
            len(self.split_ratios) == 3 and min(self.split_ratios) > 0 and abs(sum(self.split_ratios) - 1) < 1e-6,
            f"data.split_ratios={list(self.split_ratios)}: give three positive shares (train, val, test) that sum to 1",
        )
