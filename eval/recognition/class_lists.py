"""The classes that a caller gives a memory: their names, their image files, and what the encoder reads of them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.names import normalize_name, tidy
from data_prep.datasets import read_dataset
from data_prep.datasets.folder import find_splits
from data_prep.datasets.shots import load_shots
from data_prep.memory.memories import with_templates
from data_prep.reading.descriptions import read_descriptions
from data_prep.reading.finding import class_folders, find_images, report_skipped
from data_prep.reading.tables import label_text
from data_prep.settings import Recipe, RetrieverArgs, check

log = logging.getLogger(__name__)

Classes = str | Path | Sequence[str] | Mapping[str, Sequence[str | Path]]


def list_class_images(classes: Classes, cache: Path) -> dict[str, list[Path]]:
    """Lists image files by class name; spellings of a name that look the same are one class.

    Args:
        classes: A folder with a folder of images per class; names alone; or files by name.
        cache: Folder of caches, where the files and folders that were passed over are listed.

    Raises:
        UserError: There is no folder, or it holds no classes; a name is not text, or its files are not a list.
    """
    files_by_name: dict[str, list[Path]] = defaultdict(list)
    if isinstance(classes, Mapping):
        for name, files in classes.items():
            is_list = files is not None and not isinstance(files, str | Path)
            check(is_list, f"class {name}: give its image files as a list, [] for none")
            files_by_name[check_name(name)] += [Path(file) for file in files]
    elif isinstance(classes, str | Path):
        root = Path(classes)
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; give one with a folder of images per class")
        top = class_folders(root)
        splits, _ = find_splits(root, top.files)
        if splits:
            names = ", ".join(folder.name for folder in splits)
            raise UserError(f"{root}: holds splits ({names}), not classes; give one of them, such as {min(splits)}")
        passed = list(top.passed)
        for folder in top.files:
            images = find_images(folder)
            if not images.files:
                log.warning("%s: a class without images, which is found by its name alone", folder)
            files_by_name[tidy(label_text(folder.name, str(folder)))] += images.files
            passed += images.passed
        report_skipped(passed, cache)
    else:
        for name in classes:
            files_by_name[check_name(name)] += []
    if not files_by_name:
        raise UserError(f"{classes}: no classes; give names, or a folder with a folder of images per class")
    return _merge_equal_names(files_by_name)


def check_name(name: str) -> str:
    """Checks a class's name, and returns it without surplus white space and invisible characters.

    Raises:
        UserError: It is not a text, or has no visible character.
    """
    check(
        isinstance(name, str) and bool(normalize_name(name)), f"class {name!r}: a name is text with a visible character"
    )
    return tidy(name)


def _merge_equal_names(files_by_name: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Merges classes whose names differ in case, white space or Unicode form alone: a reply cannot tell them apart."""
    first_spellings: dict[str, str] = {}
    merged: dict[str, list[Path]] = {}
    for name, files in files_by_name.items():
        first = first_spellings.setdefault(normalize_name(name), name)
        if first != name:
            log.warning("classes: %r looks like %r: one class", name, first)
        merged.setdefault(first, []).extend(files)
    return merged


@dataclass(frozen=True)
class ClassTexts:
    """What the encoder reads of classes.

    Attributes:
        names: What it encodes in place of a name, by name; see ``Dataset.texts``.
        descriptions: Texts averaged into a class's vector, by name.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    descriptions: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_texts(classes: Classes, names: Sequence[str]) -> ClassTexts:
    """Reads ``descriptions.json`` in a folder of classes."""
    described = read_descriptions(Path(classes), names) if isinstance(classes, str | Path) else {}
    return ClassTexts(descriptions={names[label]: texts for label, texts in described.items()})


def read_test_classes(recipe: Recipe) -> tuple[RetrieverArgs, dict[str, list[str]], ClassTexts]:
    """Reads the classes of a recipe's own test split, with the images of its evaluation's first shots and seed.

    Returns:
        tuple[RetrieverArgs, dict[str, list[str]], ClassTexts]: The retriever's settings with the data set's
        templates; image files by class name, none where the evaluation has names alone; and the classes' texts.
    """
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("test_memory",))
    files: dict[str, list[str]] = {dataset.names[label]: [] for label in dataset.labels("test_memory")}
    args = recipe.eval
    if args.shots:
        pool, draw = dataset.parts["test_memory"], recipe.data.draw
        for sample in load_shots(pool, args.shots[0], args.seeds[0], draw, Path(recipe.cache)):
            files[dataset.names[sample.label]].append(sample.path)
    descriptions = {dataset.names[label]: texts for label, texts in dataset.descriptions.items()}
    texts = ClassTexts(dict(zip(dataset.names, dataset.texts, strict=True)), descriptions)
    return with_templates(recipe.retriever, dataset), files, texts
