"""WebDataset shards, also as clip_benchmark publishes its data sets; unpacked once into the cache."""

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
    IMAGE_SUFFIXES,
    NO_PICTURE,
    RESIDUE,
    Findings,
    find_files,
    is_residue,
    report_passed,
)
from data_prep.reading.rows import part_rows
from data_prep.reading.splits import split_of_archive
from data_prep.reading.tables import is_empty, label_text
from data_prep.reading.unpacked import ClassNames, Picture, unpack
from data_prep.settings import DataArgs

Passed = list[tuple[Path, str]]


def _label(sample: dict[str, Any], column: str, where: str) -> str:
    """The class in ``cls`` (a number or a name), or in the record ``json``."""
    name = label_text(sample.get("cls", b""), where).removeprefix("\ufeff").strip()
    if name:
        return name
    try:
        record = json.loads(sample.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: its .json is not readable ({error})") from None
    if not isinstance(record, dict) or is_empty(record.get(column)):
        dots = "; a sample's name must hold no dot, since what follows the first is its kind"
        raise UserError(
            f"{where}: no class; it needs .cls, or .json with {column} (data.label_column)"
            + dots * any("." in kind for kind in sample)
        )
    return label_text(record[column], where)


def _members(shard: Path, passed: Passed) -> Iterator[dict[str, Any]]:
    """The files of a shard, as webdataset groups them. Its own opener is for addresses, and runs what begins a pipe."""
    with tarfile.open(shard) as tar:
        for member in tar:
            if not member.isreg():
                continue
            *folders, name = Path(member.name).parts
            if is_residue(name) or any(is_residue(part, folder=True) for part in folders):
                passed.append((shard / member.name, RESIDUE))
            elif "." not in name:
                passed.append((shard / member.name, NO_PICTURE))
            elif member.size > MOST_BYTES:
                raise UserError(f"{shard}, {member.name}: has {member.size / 1e9:.1f} GB, which no picture has")
            else:
                yield {"fname": member.name, "data": tar.extractfile(member).read(), "__url__": str(shard)}


def _sample_picture(sample: dict[str, Any], names: ClassNames | None, column: str, split: str, where: str) -> Picture:
    kinds = [kind for kind in sample if f".{kind.rsplit('.', 1)[-1]}" in IMAGE_SUFFIXES]
    if len(kinds) != 1:
        has = ", ".join(kind for kind in sample if not kind.startswith("__"))
        raise UserError(f"{where}: should hold one image, but has {has}; a sample's name must hold no dot")
    label = _label(sample, column, where)
    name, twin = names.called(label, where) if names else (label, 0)
    return Picture(sample[kinds[0]], f".{kinds[0].rsplit('.', 1)[-1]}", name, split, twin)


def _pictures(
    root: Path, shards: list[Path], names: ClassNames | None, column: str, passed: Passed
) -> Iterator[Picture]:
    from webdataset.tariterators import group_by_keys

    for shard in shards:
        split = split_of_archive(shard, root)
        try:
            for sample in group_by_keys(_members(shard, passed)):
                yield _sample_picture(sample, names, column, split, f"{shard}, {sample['__key__']}")
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise UserError(f"{shard}: not readable as a shard ({' '.join(str(error).split())})") from None


def _lines(path: Path) -> list[str]:
    """The lines of a text file, without empty ones at its end.

    Raises:
        UserError: It is not text, or a line between others is empty.
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

    ``classnames.txt`` names the classes that shards number, and ``zeroshot_classification_templates.txt`` holds
    prompts around ``{c}``, both beside the shards.

    Raises:
        UserError: No shards, a damaged one, a sample without image or class, or what ``folder`` refuses.
    """
    root = Path(args.root or "")
    found = find_files(root, ".tar") if args.root else Findings()
    if not found.files:
        raise UserError(f"data.root={args.root}: data.name=webdataset needs a folder that holds .tar shards")
    listed, prompts = root / "classnames.txt", root / "zeroshot_classification_templates.txt"
    names = ClassNames(_lines(listed), listed.name) if listed.is_file() else None
    passed = list(found.passed)
    pictures = _pictures(root, found.files, names, args.label_column, passed)
    folder, rows = unpack(pictures, found.files, [names.names if names else [], args.label_column], cache)
    report_passed(passed, cache)
    templates = [line.replace("{c}", "{}") for line in _lines(prompts)] if prompts.is_file() else []
    return replace(part_rows(folder, rows, args, cache, parts), templates=tuple(templates))
