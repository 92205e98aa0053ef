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
from data_prep.datasets.folder import list_rows
from data_prep.datasets.shots import load_shots
from data_prep.memory.memories import with_templates
from data_prep.reading.dataset import count_suffixes, log_once
from data_prep.reading.descriptions import read_descriptions
from data_prep.reading.finding import report_skipped
from data_prep.reading.name_files import read_vocabulary
from data_prep.reading.sources import SourceKind, find_source
from data_prep.settings import Recipe, RetrieverArgs, check

log = logging.getLogger(__name__)

Classes = str | Path | Sequence[str] | Mapping[str, Sequence[str | Path]]


def check_classes(path: Path | None) -> str | None:
    """Checks what ``--classes`` names before a model is loaded, and returns it as ``Recognizer`` takes it.

    Raises:
        UserError: There is nothing, or a file of another kind.
    """
    if path is None:
        return None
    find_source(path, f"--classes {path}")
    return str(path)


def is_kept_memory(classes: Classes) -> bool:
    """Returns whether classes are the path of a kept memory.

    Raises:
        UserError: They are a path, and there is nothing, or a file of another kind.
    """
    return isinstance(classes, str | Path) and find_source(Path(classes), str(classes)).kind is SourceKind.MEMORY


def list_class_images(classes: Classes, recipe: Recipe) -> dict[str, list[Path]]:
    """Lists image files by class name; spellings of a name that look the same are one class.

    Args:
        classes: A folder per class, or of splits, of which the training images are taken; a table, likewise; a list of
            names; names alone; or files by name.
        recipe: ``data`` says how folders and tables are read; the files and folders that were passed over are listed in
            ``cache``.

    Raises:
        UserError: There is no such path, or it holds no classes; a name is not text, or its files are not a list.
    """
    files_by_name: dict[str, list[Path]] = defaultdict(list)
    if isinstance(classes, Mapping):
        for name, files in classes.items():
            is_list = files is not None and not isinstance(files, str | Path)
            check(is_list, f"class {name}: give its image files as a list, [] for none")
            files_by_name[check_name(name)] += [Path(file) for file in files]
    elif isinstance(classes, str | Path):
        files_by_name = _list_path(Path(classes), recipe)
    else:
        for name in classes:
            files_by_name[check_name(name)] += []
    if not files_by_name:
        raise UserError(f"{classes}: no classes; give names, or a folder with a folder of images per class")
    return _merge_equal_names(files_by_name)


def _list_path(path: Path, recipe: Recipe) -> dict[str, list[Path]]:
    """Lists the image files of a folder, a table or a list of names, as a data set's reader does."""
    if find_source(path, str(path)).kind is SourceKind.NAMES:
        return {check_name(name): [] for name in read_vocabulary(path)}
    layout = list_rows(path, recipe.data, str(path))
    if layout.rule:
        log_once(log, logging.INFO, f"classes: {path}: {layout.rule}")
    report_skipped(layout.passed, Path(recipe.cache))
    splits = {row.split for row in layout.rows} - {""}
    check(not splits or "train" in splits, f"{path}: has {', '.join(sorted(splits))}, but no train to remember")
    if splits:
        log_once(log, logging.INFO, f"classes: {path}: the training images are remembered, as in an evaluation")
    rows = [row for row in layout.rows if row.split in ("", "train")]
    names = sorted({check_name(name) for name in (*layout.classes, *(row.label for row in layout.rows))})
    files_by_name: dict[str, list[Path]] = {name: [] for name in names}
    for row in rows:
        files_by_name[tidy(row.label)].append(layout.base / row.path)
    if empty := [name for name, files in files_by_name.items() if not files]:
        shown = ", ".join(empty[:5]) + ", …" * (len(empty) > 5)
        log.warning("%s: %d classes without images, which are found by their names alone: %s", path, len(empty), shown)
    suffixes = count_suffixes(Path(row.path) for row in rows)
    log_once(log, logging.INFO, f"classes: {path}: {len(rows):,} images ({suffixes}) of {len(names):,} classes")
    return files_by_name


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
    """Reads ``descriptions.json`` in a folder of classes, or beside a file of them."""
    if not isinstance(classes, str | Path):
        return ClassTexts()
    path = Path(classes)
    described = read_descriptions(path if path.is_dir() else path.parent, names)
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
