"""The embedding cache: unit vectors by a key of what was embedded, in part files that are never changed.

A folder belongs to one encoder. Every process writes part files of its own, under a temporary name
that is then renamed, so that processes, machines and killed runs can share the folder without locks.
A part carries the checksums of its keys and vectors, which are compared whenever it is read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from data_prep.core.errors import UserError
from data_prep.core.files import REMAKE, naming_path, part_path, write_json

KEY = "S32"


def _raw(keys: Sequence[str]) -> np.ndarray:
    """SHA-256 keys as 32-byte values, shape ``[n]``."""
    return np.frombuffer(bytes.fromhex("".join(keys)), KEY)


def _checksum(values: np.ndarray) -> str:
    """SHA-256 of an array: its type, shape and content."""
    digest = hashlib.sha256(f"{values.dtype.str}{values.shape}".encode())
    digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()


class EmbeddingStore:
    """Vectors of one encoder.

    Args:
        folder: Where the parts lie; made when the first is written.
        metadata: What the vectors depend on, written beside them for a reader.
    """

    def __init__(self, folder: Path, metadata: dict):
        self.folder, self.metadata = folder, metadata

    def _tensor(self, part: Path, name: str) -> np.ndarray:
        try:
            with safe_open(part, "np") as file:
                values, checksums = file.get_tensor(name), file.metadata() or {}
        except SafetensorError as error:
            raise UserError(f"{part}: damaged ({error}); {REMAKE}") from None
        except OSError as error:
            raise UserError(f"{part}: cannot be read ({error})") from None
        if checksums.get(name) != _checksum(values):
            raise UserError(f"{part}: damaged (the checksum of its {name} differs); {REMAKE}")
        return values

    def _places(self, keys: Sequence[str]) -> tuple[list[Path], np.ndarray, np.ndarray]:
        """The parts, and for each key its part (-1 where none has it) and its row there."""
        parts = sorted(self.folder.glob("part-*.safetensors"))
        wanted = _raw(keys)
        where, row = np.full(len(wanted), -1), np.zeros(len(wanted), int)
        for number, part in enumerate(parts):
            held = self._tensor(part, "keys").view(KEY).ravel()
            order = np.argsort(held)
            found = np.minimum(np.searchsorted(held, wanted, sorter=order), len(held) - 1)
            hit = (held[order[found]] == wanted) & (where < 0)
            where[hit], row[hit] = number, order[found[hit]]
        return parts, where, row

    def missing(self, keys: Sequence[str]) -> list[int]:
        """The place of the first of each key that the store lacks, in order."""
        _, where, _ = self._places(keys)
        first: dict[str, int] = {}
        for place in np.flatnonzero(where < 0):
            first.setdefault(keys[place], int(place))
        return list(first.values())

    def read(self, keys: Sequence[str]) -> np.ndarray:
        """The vectors of keys that the store holds, in their order.

        Returns:
            np.ndarray: float32, shape ``[n, d]``.

        Raises:
            UserError: A key is missing or a part is damaged.
        """
        parts, where, row = self._places(keys)
        if not len(keys) or (where < 0).any():
            raise UserError(f"{self.folder}: holds {(where >= 0).sum()} of the {len(keys)} embeddings asked for")
        vectors = None
        for number in np.unique(where):
            own = where == number
            values = self._tensor(parts[number], "vectors")
            if vectors is None:
                vectors = np.empty((len(keys), values.shape[1]), np.float32)
            vectors[own] = values[row[own]]
        return vectors

    def write(self, keys: Sequence[str], vectors: np.ndarray) -> None:
        """Adds a part; the same keys written by another process give the same file."""
        if not self.folder.exists():
            write_json(self.folder / "encoder.json", self.metadata)
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:24]
        path = self.folder / f"part-{name}.safetensors"
        tensors = {
            "keys": _raw(keys).view(np.uint8).reshape(len(keys), -1),
            "vectors": np.ascontiguousarray(vectors, np.float32),
        }
        part = part_path(path)
        try:
            with naming_path(path):
                save_file(tensors, part, {what: _checksum(values) for what, values in tensors.items()})
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
