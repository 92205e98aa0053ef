"""Embedding cache: maps content keys to unit vectors, in append-only part files.

A folder belongs to one encoder. Every process writes its own part files, under a temporary name that is then renamed,
so processes, machines and killed runs can share the folder without locks. A part carries the checksums of its keys and
vectors, which are verified whenever it is read.
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


def _to_bytes(keys: Sequence[str]) -> np.ndarray:
    """Converts hexadecimal SHA-256 keys to 32-byte values, shape ``[n]``."""
    return np.frombuffer(bytes.fromhex("".join(keys)), KEY)


def _checksum(values: np.ndarray) -> str:
    """Returns the SHA-256 of an array's dtype, shape and content."""
    digest = hashlib.sha256(f"{values.dtype.str}{values.shape}".encode())
    digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()


class EmbeddingStore:
    """The cached vectors of one encoder.

    Args:
        folder: Folder of the part files; created when the first is written.
        metadata: Identifies the encoder; written next to the vectors for human readers.
    """

    def __init__(self, folder: Path, metadata: dict):
        self.folder, self.metadata = folder, metadata

    def _read_tensor(self, part: Path, name: str) -> np.ndarray:
        """Reads one tensor of a part file and verifies its checksum."""
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

    def _locate(self, keys: Sequence[str]) -> tuple[list[Path], np.ndarray, np.ndarray]:
        """Returns the part files, and for each key the index of its part (-1 where none has it) and its row there."""
        parts = sorted(self.folder.glob("part-*.safetensors"))
        queries = _to_bytes(keys)
        part_index, row = np.full(len(queries), -1), np.zeros(len(queries), int)
        for index, part in enumerate(parts):
            part_keys = self._read_tensor(part, "keys").view(KEY).ravel()
            order = np.argsort(part_keys)
            position = np.minimum(np.searchsorted(part_keys, queries, sorter=order), len(part_keys) - 1)
            hit = (part_keys[order[position]] == queries) & (part_index < 0)
            part_index[hit], row[hit] = index, order[position[hit]]
        return parts, part_index, row

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Returns the index of the first occurrence of each key that the store lacks, in order."""
        _, part_index, _ = self._locate(keys)
        first: dict[str, int] = {}
        for index in np.flatnonzero(part_index < 0):
            first.setdefault(keys[index], int(index))
        return list(first.values())

    def read(self, keys: Sequence[str]) -> np.ndarray:
        """Reads the vectors of keys that are in the store, in key order.

        Returns:
            np.ndarray: float32, shape ``[n, d]``.

        Raises:
            UserError: A key is missing or a part is damaged.
        """
        parts, part_index, row = self._locate(keys)
        if not len(keys) or (part_index < 0).any():
            found = (part_index >= 0).sum()
            raise UserError(f"{self.folder}: holds {found} of the {len(keys)} requested embeddings")
        vectors = None
        for index in np.unique(part_index):
            in_part = part_index == index
            values = self._read_tensor(parts[index], "vectors")
            if vectors is None:
                vectors = np.empty((len(keys), values.shape[1]), np.float32)
            vectors[in_part] = values[row[in_part]]
        return vectors

    def write(self, keys: Sequence[str], vectors: np.ndarray) -> None:
        """Writes a part file; the same keys written by another process give the same file name."""
        if not self.folder.exists():
            write_json(self.folder / "encoder.json", self.metadata)
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:24]
        path = self.folder / f"part-{name}.safetensors"
        tensors = {
            "keys": _to_bytes(keys).view(np.uint8).reshape(len(keys), -1),
            "vectors": np.ascontiguousarray(vectors, np.float32),
        }
        part = part_path(path)
        try:
            with naming_path(path):
                save_file(tensors, part, {tensor: _checksum(values) for tensor, values in tensors.items()})
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
