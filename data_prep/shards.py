"""Ranking examples in WebDataset shards, with an index that reads any example alone."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import webdataset as wds
from PIL import Image
from torch.utils.data import Dataset

from data_prep.errors import UserError
from data_prep.files import file_hash, read_json, write_json, write_text
from data_prep.records import Candidate, RankingExample


def to_json(example: RankingExample) -> dict:
    """An example as a JSON object."""
    return asdict(example)


def from_json(value: dict) -> RankingExample:
    """The example that ``to_json`` wrote."""
    candidates = tuple(Candidate(**candidate) for candidate in value["candidates"])
    return RankingExample(value["key"], value["label"], candidates)


def write_shards(folder: Path, examples: Iterable[tuple[RankingExample, Path]], shard_size: int, facts: dict) -> None:
    """Writes examples and their image files into tar shards, an index and a manifest.

    The bytes depend on the examples alone. Each shard is readable by ``webdataset.WebDataset``.

    Args:
        folder: An empty folder.
        examples: Each with its image file, whose bytes are kept as they are.
        shard_size: Examples per shard.
        facts: Put into the manifest.
    """
    pattern = str(folder / "examples-%06d.tar")
    count = 0
    with wds.ShardWriter(pattern, maxcount=shard_size, verbose=0, mtime=0, user="", group="") as writer:
        for example, path in examples:
            suffix = path.suffix.lower().lstrip(".") or _format_of(path)
            writer.write({"__key__": example.key, "json": to_json(example), suffix: path.read_bytes()})
            count += 1
    shards = sorted(folder.glob("examples-*.tar"))
    lines = [line for shard in shards for line in _index_lines(shard)]
    write_text(folder / "index.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    files = {path.name: file_hash(path) for path in [*shards, folder / "index.jsonl"]}
    write_json(folder / "manifest.json", facts | {"examples": count, "files": files})


def _format_of(path: Path) -> str:
    """The suffix for an image whose file name has none, by its content."""
    with Image.open(path) as image:
        return str(image.format).lower()


def _index_lines(shard: Path) -> list[dict]:
    """Where each example's parts lie in a shard: offset and size by kind."""
    found: dict[str, dict] = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            key, suffix = member.name.split(".", 1)
            kind = "json" if suffix == "json" else "image"
            line = found.setdefault(key, {"key": key, "shard": shard.name})
            line[kind] = [member.offset_data, member.size]
    return list(found.values())


class ShardedExamples(Dataset):
    """Reads examples and their images by number.

    Args:
        folder: What ``write_shards`` filled.

    Raises:
        UserError: A shard is missing or its bytes are not those that were written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = read_json(folder / "manifest.json")
        for name, expected in self.manifest["files"].items():
            if not (folder / name).is_file():
                raise UserError(f"{folder / name}: missing; delete {folder} to have it made again")
            if file_hash(folder / name) != expected:
                raise UserError(f"{folder / name}: damaged (its hash differs); delete {folder} to have it made again")
        self.lines = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]

    def __len__(self) -> int:
        return len(self.lines)

    def _read(self, line: dict, kind: str) -> bytes:
        offset, size = line[kind]
        with open(self.folder / line["shard"], "rb") as file:
            file.seek(offset)
            return file.read(size)

    def example(self, number: int) -> RankingExample:
        """An example without its image."""
        return from_json(json.loads(self._read(self.lines[number], "json")))

    def image_size(self, number: int) -> tuple[int, int]:
        """Width and height of an example's image, which is not decoded."""
        with Image.open(io.BytesIO(self._read(self.lines[number], "image"))) as image:
            return image.size

    def __getitem__(self, number: int) -> tuple[RankingExample, Image.Image]:
        with Image.open(io.BytesIO(self._read(self.lines[number], "image"))) as image:
            return self.example(number), image.convert("RGB")
