"""Images out of archives: written once into the cache as files, since every later stage opens files."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.datasets.folder import SPLIT_WORDS, Row
from data_prep.files import fingerprint, write_folder, write_text
from data_prep.progress import bar

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """One image of an archive.

    Attributes:
        data: The encoded image.
        suffix: Of its file, or empty where the archive does not say.
        label: The class name.
        split: ``train``, ``val``, ``test``, or empty.
    """

    data: bytes
    suffix: str
    label: str
    split: str


def split_of(archive: Path, root: Path) -> str:
    """The split that an archive's name (``train-0001.tar``) or its folder (``train/0.tar``) begins with; else empty."""
    for part in reversed(archive.relative_to(root).parts):
        word = re.split(r"[^a-z]", part.casefold())[0]
        if word in SPLIT_WORDS:
            return SPLIT_WORDS[word]
    return ""


def unpack(pictures: Iterable[Picture], archives: list[Path], depends: list, cache: Path) -> tuple[Path, list[Row]]:
    """Writes an archive's images as files, or finds them in the cache.

    Args:
        pictures: The images, read only where the cache lacks them.
        archives: Where they come from; a changed size or time unpacks anew.
        depends: What else labels depend on.
        cache: Folder of caches.

    Returns:
        tuple[Path, list[Row]]: The folder of files, and its rows.
    """
    stats = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in archives]
    folder = cache / f"unpacked-{fingerprint([stats, depends])}"
    if not folder.exists():
        log.info("data: unpacking %d archives into %s", len(archives), folder)
        with write_folder(folder) as part:
            lines = []
            for number, picture in enumerate(bar("unpacking images", pictures)):
                name = f"{number // 1000:06d}/{number:09d}{picture.suffix}"
                (part / name).parent.mkdir(exist_ok=True)
                (part / name).write_bytes(picture.data)
                lines.append(json.dumps(asdict(Row(name, picture.label, picture.split)), ensure_ascii=False))
            write_text(part / "rows.jsonl", "".join(f"{line}\n" for line in lines))
    with open(folder / "rows.jsonl", encoding="utf-8") as file:
        return folder, [Row(**json.loads(line)) for line in file]
