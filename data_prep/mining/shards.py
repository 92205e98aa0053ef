"""Ranking examples in WebDataset shards, with an index that reads any example alone."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import webdataset as wds
from PIL import Image
from torch.utils.data import Dataset

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, read_manifest, write_manifest
from data_prep.core.images import open_image, shown_size
from data_prep.core.records import Candidate, RankingExample, Sample
from data_prep.reading.finding import IMAGE_SUFFIXES


def to_json(example: RankingExample) -> dict:
    """An example as a JSON object."""
    return asdict(example)


def from_json(value: dict) -> RankingExample:
    """The example that ``to_json`` wrote."""
    candidates = tuple(Candidate(**candidate) for candidate in value["candidates"])
    return RankingExample(value["key"], value["label"], candidates)


def write_shards(
    folder: Path,
    examples: Iterable[tuple[RankingExample, Sample]],
    shard_size: int,
    metadata: dict,
    images: str = "raw",
) -> None:
    """Writes examples and their images into tar shards, an index and a manifest.

    The bytes depend on the examples alone. Each shard is readable by ``webdataset.WebDataset``.

    Args:
        folder: Empty, or with files that belong to the examples; the manifest names them with their hashes.
        examples: Each with its sample.
        shard_size: Examples per shard.
        metadata: Put into the manifest when the examples have been taken.
        images: ``raw`` keeps the image files' bytes as they are, ``paths`` keeps where they lie and their hashes.
    """
    parts = ((example, *_stored_image(Path(sample.path), sample.digest, images)) for example, sample in examples)
    write_parts(folder, parts, shard_size, metadata)


def _stored_image(path: Path, digest: str, images: str) -> tuple[str, bytes]:
    if images == "paths":
        return "path", f"{digest} {path.resolve()}".encode()
    return _kind_of(path), path.read_bytes()


def write_parts(
    folder: Path, parts: Iterable[tuple[RankingExample, str, bytes]], shard_size: int, metadata: dict
) -> None:
    """Writes examples whose images are at hand as suffix and bytes; otherwise as ``write_shards``."""
    opened: dict[str, BinaryIO] = {}

    def opener(name: str) -> BinaryIO:
        opened[name] = open(folder / name, "wb")  # noqa: SIM115 (the writer closes it)
        return opened[name]

    # webdataset's own opener takes a path for an address ("pipe:", "c:x"), and a per cent sign in it for a pattern.
    with wds.ShardWriter(
        "examples-%06d.tar", maxcount=shard_size, verbose=0, mtime=0, user="", group="",
        opener=opener, post=lambda name: opened.pop(name).close(),
    ) as writer:  # fmt: skip
        for example, suffix, data in parts:
            writer.write({"__key__": example.key, "json": to_json(example), suffix: data})
    shards = sorted(folder.glob("examples-*.tar"))
    counts = {}
    with open(folder / "index.jsonl", "w", encoding="utf-8") as file:
        for shard in shards:
            lines = index_lines(shard)
            counts[shard.name] = len(lines)
            file.writelines(f"{json.dumps(line)}\n" for line in lines)
    files = {path.name: file_hash(path) for path in sorted(folder.iterdir())}
    whole = metadata | {"examples": sum(counts.values()), "shards": counts, "files": files}
    write_manifest(folder / "manifest.json", whole)


def _kind_of(path: Path) -> str:
    """The suffix under which an image is stored: its file's, or where that is none of an image's, its format."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return path.suffix.lower()[1:]
    with Image.open(path) as image:
        return str(image.format).lower()


def index_lines(shard: Path) -> list[dict]:
    """Where each example's parts lie in a shard: offset and size by kind."""
    found: dict[str, dict] = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            key, suffix = member.name.split(".", 1)
            line = found.setdefault(key, {"key": key, "shard": shard.name})
            line["json" if suffix == "json" else "image"] = [member.offset_data, member.size]
            if suffix != "json":
                line["suffix"] = suffix
    return list(found.values())


def _remake(folder: Path) -> str:
    return f"delete {folder} to have it made again"


def check_files(folder: Path, files: dict[str, str], remedy: str = "") -> None:
    """Compares files with the hashes that the manifest names.

    Args:
        folder: Where they lie.
        files: SHA-256 by name.
        remedy: What to do about a damaged file; by default to delete the folder, as of a cache.

    Raises:
        UserError: One is missing or its bytes are not those that were written.
    """
    remedy = remedy or _remake(folder)
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: missing; {remedy}")
        if file_hash(folder / name) != expected:
            raise UserError(f"{folder / name}: damaged (its hash differs); {remedy}")


def read_metadata(folder: Path, remedy: str = "") -> dict:
    """The manifest of a folder of shards.

    Raises:
        UserError: It is missing or damaged.
    """
    return read_manifest(folder / "manifest.json", remedy or _remake(folder))


def read_example(folder: Path, line: dict) -> RankingExample:
    """The example that a line of the index points to."""
    return from_json(json.loads(_read(folder, line, "json")))


def read_image_bytes(folder: Path, line: dict) -> tuple[str, bytes]:
    """The image that a line of the index points to, as suffix and bytes.

    Raises:
        UserError: The shards hold paths, and the file is missing or has changed.
    """
    data = _read(folder, line, "image")
    if line.get("suffix") != "path":
        return line.get("suffix", ""), data
    digest, _, path = data.decode().partition(" ")
    if not Path(path).is_file():
        raise UserError(f"{path}: missing; example {line['key']} of {folder} was mined from it")
    data = Path(path).read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{path}: changed since example {line['key']} of {folder} was mined from it; mine anew")
    return _kind_of(Path(path)), data


def read_pair(folder: Path, line: dict) -> tuple[RankingExample, Image.Image]:
    """The example and its picture that a line of the index points to."""
    _, data = read_image_bytes(folder, line)
    return read_example(folder, line), open_image(data, f"{folder / line['shard']}: {line['key']}")


def _read(folder: Path, line: dict, kind: str) -> bytes:
    offset, size = line[kind]
    with open(folder / line["shard"], "rb") as file:
        file.seek(offset)
        return file.read(size)


class ShardedExamples(Dataset):
    """Reads examples and their images by number.

    Args:
        folder: What ``write_shards`` filled.
        remedy: What to do about a damaged file; by default to delete the folder, as of a cache.

    Raises:
        UserError: A shard is missing or its bytes are not those that were written.
    """

    def __init__(self, folder: Path, remedy: str = ""):
        self.folder = folder
        self.manifest = read_metadata(folder, remedy)
        check_files(folder, self.manifest["files"], remedy)
        self.lines = [json.loads(line) for line in (folder / "index.jsonl").read_text().split("\n")[:-1]]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, number: int) -> tuple[RankingExample, Image.Image]:
        return read_pair(self.folder, self.lines[number])

    def example(self, number: int) -> RankingExample:
        """An example without its picture."""
        return read_example(self.folder, self.lines[number])

    def image_size(self, number: int) -> tuple[int, int]:
        """Width and height of an example's picture as it is shown; it is not decoded."""
        _, data = read_image_bytes(self.folder, self.lines[number])
        return shown_size(data, self.lines[number]["key"])

    def examples(self) -> Iterator[RankingExample]:
        """All examples without their pictures."""
        return map(self.example, range(len(self)))
