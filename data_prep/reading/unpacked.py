"""Unpacks images of archives into the cache once, as files, since every later stage opens files."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, fingerprint, read_json, write_folder, write_json
from data_prep.core.names import tidy
from data_prep.core.progress import progress_bar
from data_prep.reading.kept import confirm, seal
from data_prep.reading.rows import Row

log = logging.getLogger(__name__)

_ROWS = "rows.json"


@dataclass(frozen=True)
class ArchiveImage:
    """One image of an archive.

    Attributes:
        data: The encoded image.
        suffix: The suffix of its file; empty where the archive does not give one.
        label: The class name.
        split: ``train``, ``val``, ``test``, or empty.
        twin: Index among the classes that share the name.
    """

    data: bytes
    suffix: str
    label: str
    split: str
    twin: int = 0


class ClassNames:
    """Class names by index, for an archive's labels; classes with equal or similar-looking names remain distinct.

    Args:
        names: Class names by index.
        source: The file or column that lists them, for errors.
    """

    def __init__(self, names: list[str], source: str):
        self.names, self.source = names, source
        seen: Counter[str] = Counter()
        self._twins = []
        for name in names:
            self._twins.append(seen[tidy(name)])
            seen[tidy(name)] += 1
        self._repeated = {name for name, count in Counter(names).items() if count > 1}

    def by_index(self, index: int, where: str) -> tuple[str, int]:
        """Returns the name and twin of a class.

        Raises:
            UserError: There is no class with that index.
        """
        if not 0 <= index < len(self.names):
            raise UserError(f"{where}: class {index} is not in {self.source}, which names {len(self.names)}")
        return self.names[index], self._twins[index]

    def by_name(self, name: str, where: str) -> tuple[str, int]:
        """Returns the name and twin of a class that is given by name, or by its index as text.

        Raises:
            UserError: There is no such class, or the name is ambiguous.
        """
        if name not in self.names:
            if not name.isdecimal() or int(name) >= len(self.names):
                raise UserError(
                    f"{where}: class {name} is neither in {self.source} nor a number below {len(self.names)}"
                )
            return self.by_index(int(name), where)
        is_another_index = name.isdecimal() and int(name) < len(self.names) and self.names[int(name)] != name
        if is_another_index or name in self._repeated:
            raise UserError(f"{where}: class {name} can be several classes of {self.source}; number the classes")
        return self.by_index(self.names.index(name), where)


def unpack(
    images: Iterable[ArchiveImage], archives: list[Path], label_key: list, cache: Path
) -> tuple[Path, list[Row]]:
    """Writes the images of archives as files, or finds them in the cache.

    Args:
        images: The images; iterated only if the cache lacks them.
        archives: The archive files; if a size or modification time changes, they are unpacked again.
        label_key: What else the labels depend on, as part of the cache key.
        cache: Folder of caches.

    Returns:
        tuple[Path, list[Row]]: The folder of files, and its rows.

    Raises:
        UserError: The cached files were altered after unpacking.
    """
    stats = [[ascii(str(path.absolute())), path.stat().st_size, path.stat().st_mtime_ns] for path in archives]
    folder = cache / f"unpacked-{fingerprint([_ROWS, stats, label_key])}"
    if not folder.exists():
        log.info("data: unpacking %d archives into %s", len(archives), folder)
        with write_folder(folder) as part:
            rows, contents = [], {}
            for index, image in enumerate(progress_bar("unpacking images", images)):
                name = f"{index // 1000:06d}/{index:09d}{image.suffix}"
                (part / name).parent.mkdir(exist_ok=True)
                (part / name).write_bytes(image.data)
                contents[name] = hashlib.sha256(image.data).hexdigest()
                rows.append(Row(name, image.label, image.split, image.twin))
            write_json(part / _ROWS, [astuple(row) for row in rows])
            seal(part, contents | {_ROWS: file_hash(part / _ROWS)})
    confirm(folder, cache)
    return folder, [Row(*row) for row in read_json(folder / _ROWS)]
