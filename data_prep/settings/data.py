"""Settings of the data sets (section ``data``)."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.settings.validate import bounded, check, one_of


@dataclass
class ArmoryArgs:
    """Sizes and conditions of ``armory``, the procedural data set of heraldic shields."""

    train_classes: int = 960
    """Number of training classes; ranking examples are mined from them."""
    val_classes: int = 120
    """Number of validation classes; settings are chosen on them."""
    test_classes: int = 200
    """Number of test classes; the final metrics are computed on them."""
    family_size: int = 4
    """Near-duplicate classes per family, 1 to 6: each differs from the family's core in one detail."""
    train_images: int = 4
    """Images per training class, at least 2."""
    memory_images: int = 16
    """Images per validation and test class from which the memory's few-shot images are sampled."""
    query_images: int = 10
    """Images per validation and test class to recognise."""
    size: int = 96
    """Width and height of an image, in pixels, at least 16."""
    corruption: float = 0.5
    """Strength of the image corruption, 0 (none) to 1: leaves, haze and blur. The embedded models were trained on clean
    images, just as a public model was trained on images other than yours."""

    def __post_init__(self) -> None:
        counts = ("train_classes", "val_classes", "test_classes", "family_size", "memory_images")
        bounded("data.armory", self, dict.fromkeys((*counts, "query_images"), 1) | {"train_images": 2, "size": 16})
        bounded("data.armory", self, {"corruption": 0}, {"corruption": 1})
        check(self.family_size <= 6, "data.armory.family_size: must be at most 6, the number of details to differ in")


EMOJI_FAMILIES = ("noto", "noto-v1", "twemoji", "openmoji", "fluent", "emojione", "emojione-v1", "fxemoji")
EMOJI_VOCABULARIES = ("animals", "food", "flags", "faces", "vehicles", "others")


@dataclass
class EmojiArgs:
    """Which design families and sub-vocabularies of the emoji data set are used for training, validation and test."""

    val: str = "noto"
    """Design family of the validation images, on which settings are chosen; never trained on."""
    test: str = "twemoji"
    """Design family of the test images, for the final metrics; never trained on, and different from ``val``."""
    memory: list[str] = field(default_factory=list)
    """Families in the validation and test memories. Empty: all except the family being recognised, and for validation
    not the test family either."""
    train_vocabulary: list[str] = field(default_factory=list)
    """Sub-vocabularies to train on: ``animals``, ``food``, ``flags``, ``faces``, ``vehicles``, ``others``. Empty:
    all."""
    vocabulary: list[str] = field(default_factory=list)
    """Sub-vocabularies to recognise, one or several (same names as ``train_vocabulary``). Empty: all."""

    def __post_init__(self) -> None:
        for key, family in (("val", self.val), ("test", self.test)):
            one_of(f"data.emoji.{key}", family, EMOJI_FAMILIES)
        check(self.val != self.test, f"data.emoji.val={self.test}: is also the test family; choose another")
        for family in self.memory:
            one_of("data.emoji.memory", family, EMOJI_FAMILIES)
            check(family != self.test, f"data.emoji.memory: {family} is the test family, which would leak; remove it")
        for key, names in (("train_vocabulary", self.train_vocabulary), ("vocabulary", self.vocabulary)):
            for name in names:
                one_of(f"data.emoji.{key}", name, EMOJI_VOCABULARIES)


@dataclass
class DataArgs:
    """Where the labelled images come from and how they are split."""

    name: str = "armory"
    """Data set: ``armory`` (procedural); ``emoji`` (made by ``python -m data_prep.emoji``); ``folder``,
    ``imagefolder``, ``webdataset`` or ``parquet`` (your own images); a benchmark such as ``caltech101``; or your own
    reader, as ``module:function`` or an entry point's name. docs/datasets.md lists all names and layouts."""
    root: str | None = None
    """Path of the data. For ``folder``: a folder with one subfolder per class, a folder that contains samples.csv or
    samples.jsonl, or such a file. For a benchmark: its folder, or the parent folder of several benchmarks."""
    class_folders: str = "auto"
    """Which folders are classes where class folders have sub-folders: ``top`` (those at the top, with all images below
    them), ``deepest`` (each folder that holds images, named by its path) or ``auto``; docs/datasets.md has its rule."""
    label_column: str = "label"
    """Name of the class field: the column of a ``folder`` table or of ``parquet``, the metadata key of ``imagefolder``,
    the record key of ``webdataset``."""
    descriptions: str | None = None
    """Texts that say what the classes look like: path of a JSON file (class name to a text or a list of texts), or
    ``own``, those that ``armory`` and ``emoji`` have. Null: ``descriptions.json`` in ``root``, if there is one. Never
    write them from images that are evaluated."""
    draw: str = "coop"
    """How few-shot images are sampled: ``coop`` (random with a seed, as CoOp does), ``first_n`` (the first n of each
    class, as in the paper's code), or ``2sfs`` (those of 2SFS's public files, ``split_fewshot`` in the data set's
    folder)."""
    seed: int = 0
    """Seed, at least 0, that samples armory's classes and images and splits a folder that defines no splits."""
    split_ratios: list[float] = field(default_factory=lambda: [0.6, 0.2, 0.2])
    """Fractions of each class's images for train, val and test where a folder defines no splits: three positive numbers
    that sum to 1. Copies of an image, by bytes or by look, stay in one part."""
    tune_classes: str = "all"
    """Classes of the parts that are mined, tuned on and chosen on (``train``, ``val`` and its memory): ``all``, or
    ``base``, the first half of the classes by label, as base-to-new generalisation has it. ``test`` and its memory keep
    all classes; ``eval.classes`` says which of them are evaluated. Not for armory, whose parts have different
    classes."""
    val_only_classes: float = 0.0
    """Fraction of the tuned classes, the last ones by label, from 0 to 0.9, that ``train`` lacks and ``val`` has: so
    what is chosen and fitted on validation images also holds for classes that nothing was tuned on. Not for armory,
    where no validation class is tuned on anyway."""
    on_small_class: str = "error"
    """What to do with a class that has too few images to split or to leave one out: ``error``, or ``skip`` (leaves the
    class out and counts it)."""
    on_error: str = "skip"
    """What to do with an unusable image (damaged, empty, a decompression bomb, or among images of your own the same
    bytes in several classes): ``skip`` (leaves it out, counts it and lists it with the reason) or ``raise``."""
    armory: ArmoryArgs = field(default_factory=ArmoryArgs)
    """Settings of the procedural data set, used when ``name`` is ``armory``."""
    emoji: EmojiArgs = field(default_factory=EmojiArgs)
    """Settings of the emoji data set, used when ``name`` is ``emoji``."""

    def __post_init__(self) -> None:
        bounded("data", self, {"seed": 0})
        check(
            self.name != "armory" or self.root is None,
            f"data.root={self.root}: armory makes its own images; for yours, set data.name=folder",
        )
        check(
            self.descriptions != "own" or self.name in ("armory", "emoji"),
            f"data.descriptions=own: {self.name} has none; give the path of a JSON file",
        )
        one_of("data.class_folders", self.class_folders, ("auto", "top", "deepest"))
        one_of("data.draw", self.draw, ("coop", "first_n", "2sfs"))
        one_of("data.tune_classes", self.tune_classes, ("all", "base"))
        check(
            self.tune_classes == "all" or self.name != "armory",
            f"data.tune_classes={self.tune_classes}: does not apply to armory, whose train, val and test have "
            "different classes anyway: all that are evaluated are new",
        )
        bounded("data", self, {"val_only_classes": 0}, {"val_only_classes": 0.9})
        check(
            self.val_only_classes == 0 or self.name != "armory",
            f"data.val_only_classes={self.val_only_classes}: does not apply to armory, whose train and val have "
            "different classes anyway",
        )
        one_of("data.on_small_class", self.on_small_class, ("error", "skip"))
        one_of("data.on_error", self.on_error, ("skip", "raise"))
        check(
            len(self.split_ratios) == 3 and min(self.split_ratios) > 0 and abs(sum(self.split_ratios) - 1) < 1e-6,
            f"data.split_ratios={list(self.split_ratios)}: must be 3 positive numbers (train, val, test) of sum 1",
        )
