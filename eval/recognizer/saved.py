"""The note in a saved recognizer's folder: which run it was loaded from, and with which settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import read_json, read_sealed, remove, write_sealed
from data_prep.settings import check
from data_prep.settings.trust import check_outside
from rar_train.engine.run_folder import find_adapter

_FILE = "recognizer.json"


@dataclass(frozen=True)
class Origin:
    """Where a recognizer was loaded from.

    Attributes:
        run: The run's folder, or one of its checkpoints; absolute.
        adapter: SHA-256 of its adapter.
        settings: Settings that it was loaded with, as ``key.sub=value``.
    """

    run: str
    adapter: str
    settings: tuple[str, ...]

    @classmethod
    def of(cls, run: Path, adapter: Path, settings: Sequence[str]) -> Origin:
        """Describes a run that was just loaded."""
        return cls(str(run.resolve()), _adapter_hash(adapter), tuple(settings))

    def check_adapter(self, run: Path, folder: Path) -> None:
        """Checks that a run is there and still the same.

        Args:
            run: The run.
            folder: The saved recognizer, for the error message.

        Raises:
            UserError: It is not.
        """
        check(run.exists(), f"{folder}: saved with the run {run}, which is not there; give load(..., run=FOLDER)")
        is_same = _adapter_hash(find_adapter(run)[0]) == self.adapter
        check(is_same, f"{run}: its adapter is another one than {folder} was saved with; use from_pretrained instead")


def _adapter_hash(adapter: Path) -> str:
    return read_json(adapter / "manifest.json")["adapter"]


def write_origin(folder: Path, origin: Origin | None) -> None:
    """Writes the note; a recognizer that was put together by a program has none, and an older one is removed."""
    if origin is None:
        remove(folder / _FILE)
    else:
        write_sealed(folder / _FILE, asdict(origin))


def read_origin(folder: Path, settings: Sequence[str] = ()) -> Origin:
    """Reads the note of a saved recognizer.

    Args:
        folder: Its folder.
        settings: Settings that will override the saved ones.

    Raises:
        UserError: There is none, it is damaged, or its settings name paths that this user never gave.
    """
    path = folder / _FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file; load it with from_pretrained(RUN, {str(folder)!r})")
    origin = Origin(**read_sealed(path, "save it again"))
    values = dict(setting.split("=", 1) for setting in origin.settings)
    check_outside(path, values, {setting.split("=", 1)[0] for setting in settings})
    return Origin(origin.run, origin.adapter, tuple(origin.settings))
