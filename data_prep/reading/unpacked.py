"""Images out of archives: written once into the cache as files, since every later stage opens files."""

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
class Picture:
    """One image of an archive.

    Attributes:
        data: The encoded image.
        suffix: Of its file, or empty where the archive does not say.
        label: The class name.
        split: ``train``, ``val``, ``test``, or empty.
        twin: Which of several classes of that name.
    """

    data: bytes
    suffix: str
    label: str
    split: str
    twin: int = 0


class ClassNames:
    """Names that an archive's labels number; classes of one name, or of names that look the same, stay distinct.

    Args:
        names: By number.
        source: What lists them, for errors.
    """

    def __init__(self, names: list[str], source: str):
        self.names, self.source = names, source
        seen: Counter[str] = Counter()
        self._twins = []
        for name in names:
            self._twins.append(seen[tidy(name)])
            seen[tidy(name)] += 1
        self._several = {name for name, count in Counter(names).items() if count > 1}

    def at(self, number: int, where: str) -> tuple[str, int]:
        """Name and twin of a class.

        Raises:
            UserError: There is no class of that number.
        """
        if not 0 <= number < len(self.names):
            raise UserError(f"{where}: class {number} is not in {self.source}, which names {len(self.names)}")
        return self.names[number], self._twins[number]

    def called(self, name: str, where: str) -> tuple[str, int]:
        """Name and twin of a class that is given by name, or by its number as text.

        Raises:
            UserError: There is no such class, or which one it is cannot be decided.
        """
        if name not in self.names:
            if not name.isdecimal() or int(name) >= len(self.names):
                known = f"neither in {self.source} nor a number below {len(self.names)}"
                raise UserError(f"{where}: class {name} is {known}")
            return self.at(int(name), where)
        numbered = name.isdecimal() and int(name) < len(self.names) and self.names[int(name)] != name
        if numbered or name in self._several:
            raise UserError(f"{where}: class {name} can be several classes of {self.source}; number the classes")
        return self.at(self.names.index(name), where)


def unpack(pictures: Iterable[Picture], archives: list[Path], depends: list, cache: Path) -> tuple[Path, list[Row]]:
    """Writes an archive's images as files, or finds them in the cache.

    Args:
        pictures: The images, read only where the cache lacks them.
        archives: Where they come from; a changed size or time unpacks anew.
        depends: What else labels depend on.
        cache: Folder of caches.

    Returns:
        tuple[Path, list[Row]]: The folder of files, and its rows.

    Raises:
        UserError: What the cache holds is not what was unpacked.
    """
    stats = [[ascii(str(path)), path.stat().st_size, path.stat().st_mtime_ns] for path in archives]
    folder = cache / f"unpacked-{fingerprint([_ROWS, stats, depends])}"
    if not folder.exists():
        log.info("data: unpacking %d archives into %s", len(archives), folder)
        with write_folder(folder) as part:
            rows, contents = [], {}
            for number, picture in enumerate(progress_bar("unpacking images", pictures)):
                name = f"{number // 1000:06d}/{number:09d}{picture.suffix}"
                (part / name).parent.mkdir(exist_ok=True)
                (part / name).write_bytes(picture.data)
                contents[name] = hashlib.sha256(picture.data).hexdigest()
                rows.append(Row(name, picture.label, picture.split, picture.twin))
            write_json(part / _ROWS, [astuple(row) for row in rows])
            seal(part, contents | {_ROWS: file_hash(part / _ROWS)})
    confirm(folder, cache)
    return folder, [Row(*row) for row in read_json(folder / _ROWS)]
