"""Ranking examples in WebDataset shards, with an index for random access."""

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
from data_prep.core.images import display_size, open_image, read_format
from data_prep.core.records import Candidate, RankingExample, Sample
from data_prep.reading.finding import IMAGE_SUFFIXES


def to_json(example: RankingExample) -> dict:
    """Returns an example as a JSON object; descriptions that are empty are left out."""
    value = asdict(example)
    for candidate in value["candidates"]:
        if not candidate["description"]:
            del candidate["description"]
    return value


def from_json(value: dict) -> RankingExample:
    """Returns the example that ``to_json`` converted."""
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

    The bytes depend only on the examples. Each shard is readable by ``webdataset.WebDataset``.

    Args:
        folder: Empty, or with files that belong to the examples; the manifest lists them with their hashes.
        examples: Each with its sample.
        shard_size: Examples per shard.
        metadata: Written into the manifest after all examples have been consumed.
        images: ``raw`` stores the bytes of the image files, ``paths`` stores the paths and hashes.
    """
    parts = ((example, *_stored_image(Path(sample.path), sample.digest, images)) for example, sample in examples)
    write_parts(folder, parts, shard_size, metadata)


def _stored_image(path: Path, digest: str, images: str) -> tuple[str, bytes]:
    """Returns what a shard stores of an image: a suffix and bytes."""
    if images == "paths":
        return "path", f"{digest} {path.resolve()}".encode()
    return _image_suffix(path), path.read_bytes()


def write_parts(
    folder: Path, parts: Iterable[tuple[RankingExample, str, bytes]], shard_size: int, metadata: dict
) -> None:
    """Writes examples whose images are given as suffix and bytes; otherwise like ``write_shards``."""
    open_files: dict[str, BinaryIO] = {}

    def opener(name: str) -> BinaryIO:
        open_files[name] = open(folder / name, "wb")  # noqa: SIM115 (the writer closes it)
        return open_files[name]

    # webdataset's default opener takes a path for a URL ("pipe:", "c:x"), and a per cent sign in it for a pattern.
    with wds.ShardWriter(
        "examples-%06d.tar", maxcount=shard_size, verbose=0, mtime=0, user="", group="",
        opener=opener, post=lambda name: open_files.pop(name).close(),
    ) as writer:  # fmt: skip
        for example, suffix, data in parts:
            writer.write({"__key__": example.key, "json": to_json(example), suffix: data})
    shards = sorted(folder.glob("examples-*.tar"))
    counts = {}
    with open(folder / "index.jsonl", "w", encoding="utf-8") as file:
        for shard in shards:
            lines = read_index_lines(shard)
            counts[shard.name] = len(lines)
            file.writelines(f"{json.dumps(line)}\n" for line in lines)
    files = {path.name: file_hash(path) for path in sorted(folder.iterdir())}
    manifest = metadata | {"examples": sum(counts.values()), "shards": counts, "files": files}
    write_manifest(folder / "manifest.json", manifest)


def _image_suffix(path: Path) -> str:
    """Returns the suffix under which an image is stored: its file's, or its format if that is not an image suffix."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return path.suffix.lower()[1:]
    return read_format(path).lower()


def read_index_lines(shard: Path) -> list[dict]:
    """Returns the index lines of a shard: for each example, offset and size in bytes of its JSON and its image."""
    lines: dict[str, dict] = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            key, suffix = member.name.split(".", 1)
            line = lines.setdefault(key, {"key": key, "shard": shard.name})
            line["json" if suffix == "json" else "image"] = [member.offset_data, member.size]
            if suffix != "json":
                line["suffix"] = suffix
    return list(lines.values())


def _default_remedy(folder: Path) -> str:
    return f"delete {folder} to have it made again"


def check_files(folder: Path, files: dict[str, str], remedy: str = "") -> None:
    """Checks files against the hashes in the manifest.

    Args:
        folder: The folder of the files.
        files: SHA-256 by name.
        remedy: What to do about a damaged file; by default to delete the folder, as for a cache.

    Raises:
        UserError: A file is missing or damaged.
    """
    remedy = remedy or _default_remedy(folder)
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: missing; {remedy}")
        if file_hash(folder / name) != expected:
            raise UserError(f"{folder / name}: damaged (its hash differs); {remedy}")


def read_metadata(folder: Path, remedy: str = "") -> dict:
    """Reads the manifest of a folder of shards.

    Raises:
        UserError: It is missing or damaged.
    """
    return read_manifest(folder / "manifest.json", remedy or _default_remedy(folder))


def read_example(folder: Path, line: dict) -> RankingExample:
    """Reads the example that an index line points to."""
    return from_json(json.loads(_read(folder, line, "json")))


def read_image_bytes(folder: Path, line: dict) -> tuple[str, bytes]:
    """Reads the image that an index line points to, as suffix and bytes.

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
        raise UserError(f"{path}: changed since example {line['key']} of {folder} was mined from it; mine again")
    return _image_suffix(Path(path)), data


def read_pair(folder: Path, line: dict) -> tuple[RankingExample, Image.Image]:
    """Reads the example and the image that an index line points to."""
    _, data = read_image_bytes(folder, line)
    return read_example(folder, line), open_image(data, f"{folder / line['shard']}: {line['key']}")


def _read(folder: Path, line: dict, kind: str) -> bytes:
    """Reads the bytes of an example's ``json`` or ``image``."""
    offset, size = line[kind]
    with open(folder / line["shard"], "rb") as file:
        file.seek(offset)
        return file.read(size)


class ShardedExamples(Dataset):
    """Gives random access to examples and their images.

    Args:
        folder: Folder of shards, as ``write_shards`` writes it.
        remedy: What to do about a damaged file; by default to delete the folder, as for a cache.

    Raises:
        UserError: A shard is missing or damaged.
    """

    def __init__(self, folder: Path, remedy: str = ""):
        self.folder = folder
        self.manifest = read_metadata(folder, remedy)
        check_files(folder, self.manifest["files"], remedy)
        self.lines = [json.loads(line) for line in (folder / "index.jsonl").read_text().split("\n")[:-1]]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> tuple[RankingExample, Image.Image]:
        return read_pair(self.folder, self.lines[index])

    def example(self, index: int) -> RankingExample:
        """Reads an example without its image."""
        return read_example(self.folder, self.lines[index])

    def image_size(self, index: int) -> tuple[int, int]:
        """Returns the width and height of an example's image as shown, without decoding it."""
        _, data = read_image_bytes(self.folder, self.lines[index])
        return display_size(data, self.lines[index]["key"])

    def examples(self) -> Iterator[RankingExample]:
        """Reads all examples without their images."""
        return map(self.example, range(len(self)))
