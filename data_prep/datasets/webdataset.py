"""Reader of WebDataset shards, including clip_benchmark's data sets; they are unpacked once into the cache."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError
from data_prep.reading.checked import MOST_BYTES
from data_prep.reading.dataset import Dataset
from data_prep.reading.finding import (
    HIDDEN_OR_SYSTEM,
    IMAGE_SUFFIXES,
    NOT_AN_IMAGE,
    Findings,
    find_files,
    is_hidden_or_system_file,
    report_skipped,
)
from data_prep.reading.rows import part_rows
from data_prep.reading.splits import split_of_archive
from data_prep.reading.tables import is_empty, label_text
from data_prep.reading.unpacked import ArchiveImage, ClassNames, unpack
from data_prep.settings import DataArgs

Passed = list[tuple[Path, str]]


def _label(sample: dict[str, Any], column: str, where: str) -> str:
    """Returns the class in ``cls`` (a number or a name), or in the record ``json``."""
    name = label_text(sample.get("cls", b""), where).removeprefix("\ufeff").strip()
    if name:
        return name
    try:
        record = json.loads(sample.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: its .json is not readable ({error})") from None
    if not isinstance(record, dict) or is_empty(record.get(column)):
        hint = "; a sample's name must have no dot, since what follows the first dot is read as the extension"
        raise UserError(
            f"{where}: no class; it needs .cls, or .json with {column} (data.label_column)"
            + hint * any("." in extension for extension in sample)
        )
    return label_text(record[column], where)


def _members(shard: Path, passed: Passed) -> Iterator[dict[str, Any]]:
    """Yields the files of a shard, in the form that webdataset groups.

    Its own opener is not used: it expects URLs, and runs a path that begins with ``pipe:`` as a command.
    """
    with tarfile.open(shard) as tar:
        for member in tar:
            if not member.isreg():
                continue
            *folders, name = Path(member.name).parts
            if is_hidden_or_system_file(name) or any(is_hidden_or_system_file(part, folder=True) for part in folders):
                passed.append((shard / member.name, HIDDEN_OR_SYSTEM))
            elif "." not in name:
                passed.append((shard / member.name, NOT_AN_IMAGE))
            elif member.size > MOST_BYTES:
                raise UserError(
                    f"{shard}, {member.name}: has {member.size / 1e9:.1f} GB, too large for an image; remove it"
                )
            else:
                yield {"fname": member.name, "data": tar.extractfile(member).read(), "__url__": str(shard)}


def _parse_sample(
    sample: dict[str, Any], names: ClassNames | None, column: str, split: str, where: str
) -> ArchiveImage:
    image_keys = [key for key in sample if f".{key.rsplit('.', 1)[-1]}" in IMAGE_SUFFIXES]
    if len(image_keys) != 1:
        present = ", ".join(key for key in sample if not key.startswith("__"))
        raise UserError(f"{where}: should hold one image, but has {present}; a sample's name must have no dot")
    label = _label(sample, column, where)
    name, twin = names.by_name(label, where) if names else (label, 0)
    return ArchiveImage(sample[image_keys[0]], f".{image_keys[0].rsplit('.', 1)[-1]}", name, split, twin)


def _read_images(
    root: Path, shards: list[Path], names: ClassNames | None, column: str, passed: Passed
) -> Iterator[ArchiveImage]:
    from webdataset.tariterators import group_by_keys

    for shard in shards:
        split = split_of_archive(shard, root)
        try:
            for sample in group_by_keys(_members(shard, passed)):
                yield _parse_sample(sample, names, column, split, f"{shard}, {sample['__key__']}")
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise UserError(f"{shard}: not readable as a shard ({' '.join(str(error).split())})") from None


def _read_lines(path: Path) -> list[str]:
    """Reads the lines of a text file, without empty ones at its end.

    Raises:
        UserError: The file is not text, or a line between others is empty.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as text in UTF-8 ({error})") from None
    if "" in lines:
        raise UserError(f"{path}, line {lines.index('') + 1}: is empty")
    return lines


def read_webdataset(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads ``*.tar`` below ``data.root``; a shard's split is in its name or its folder's (``train/0.tar``).

    ``classnames.txt`` lists the names of classes that shards give by index, and
    ``zeroshot_classification_templates.txt`` lists prompt templates with ``{c}``; both are in ``data.root``.

    Raises:
        UserError: There are no shards, one is damaged, a sample lacks image or class, or an error of ``read_folder``.
    """
    root = Path(args.root or "")
    findings = find_files(root, ".tar") if args.root else Findings()
    if not findings.files:
        raise UserError(f"data.root={args.root}: data.name=webdataset needs a folder that holds .tar shards")
    class_file, template_file = root / "classnames.txt", root / "zeroshot_classification_templates.txt"
    names = ClassNames(_read_lines(class_file), class_file.name) if class_file.is_file() else None
    passed = list(findings.passed)
    images = _read_images(root, findings.files, names, args.label_column, passed)
    folder, rows = unpack(images, findings.files, [names.names if names else [], args.label_column], cache)
    report_skipped(passed, cache)
    templates = [line.replace("{c}", "{}") for line in _read_lines(template_file)] if template_file.is_file() else []
    return replace(part_rows(folder, rows, args, cache, parts), templates=tuple(templates))
