"""WebDataset shards, also as clip_benchmark publishes its data sets; unpacked once into the cache."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.datasets.dataset import Dataset
from data_prep.datasets.folder import IMAGE_SUFFIXES, part_rows
from data_prep.datasets.unpacked import Picture, split_of, unpack
from data_prep.errors import UserError
from data_prep.settings import DataArgs


def _label(sample: dict[str, Any], column: str, where: str) -> str:
    """The class in ``cls`` (a number or a name), or in the record ``json``."""
    name = sample.get("cls", b"").decode().strip()
    if name:
        return name
    try:
        record = json.loads(sample["json"])
    except (KeyError, ValueError):
        record = None
    if not isinstance(record, dict) or record.get(column) in (None, ""):
        raise UserError(f"{where}: no class; it needs .cls, or .json with {column} (data.label_column)")
    return str(record[column])


def _name(label: str, names: list[str], where: str) -> str:
    if not names or label in names:
        return label
    if not label.isdigit() or int(label) >= len(names):
        raise UserError(f"{where}: class {label} is neither in classnames.txt nor a number below {len(names)}")
    return names[int(label)]


def _pictures(root: Path, shards: list[Path], names: list[str], column: str) -> Iterator[Picture]:
    from webdataset.tariterators import tarfile_samples

    for shard in shards:
        split = split_of(shard, root)
        try:
            for sample in tarfile_samples([{"url": str(shard)}]):
                where = f"{shard}, {sample['__key__']}"
                kinds = [kind for kind in sample if f".{kind.rsplit('.', 1)[-1].lower()}" in IMAGE_SUFFIXES]
                if len(kinds) != 1:
                    raise UserError(f"{where}: should hold one image, but has {', '.join(sample)}")
                label = _name(_label(sample, column, where), names, where)
                yield Picture(sample[kinds[0]], f".{kinds[0].rsplit('.', 1)[-1].lower()}", label, split)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise UserError(f"{shard}: not readable as a shard ({error})") from None


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_webdataset(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads ``*.tar`` below ``data.root``; a shard's split is in its name or its folder's (``train/0.tar``).

    ``classnames.txt`` names the classes that shards number, and ``zeroshot_classification_templates.txt`` holds
    prompts around ``{c}``, both beside the shards.

    Raises:
        UserError: No shards, a damaged one, a sample without image or class, or what ``folder`` refuses.
    """
    root = Path(args.root or "")
    shards = sorted(root.rglob("*.tar")) if args.root else []
    if not shards:
        raise UserError(f"data.root={args.root}: data.name=webdataset needs a folder that holds .tar shards")
    listed, prompts = root / "classnames.txt", root / "zeroshot_classification_templates.txt"
    names = _lines(listed) if listed.is_file() else []
    pictures = _pictures(root, shards, names, args.label_column)
    folder, rows = unpack(pictures, shards, [names, args.label_column], cache)
    templates = [line.replace("{c}", "{}") for line in _lines(prompts)] if prompts.is_file() else []
    return replace(part_rows(folder, rows, args, cache, parts), templates=tuple(templates))
