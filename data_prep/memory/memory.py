"""The class memory: entries and their unit vectors, searched by inner product, saved to and loaded from files."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.files import read_manifest, write_manifest
from data_prep.memory.files import (
    Entry,
    read_entries,
    remove_unreferenced,
    verify_files,
    write_content_addressed,
    write_entries,
)
from data_prep.memory.index import VectorIndex, unit_block
from data_prep.memory.layout import ClassLayout, rows_by_digest
from data_prep.settings import RetrieverArgs

FILE_SUFFIXES = {"index": ".faiss", "entries": ".jsonl"}
"""The files that ``Memory.write`` writes: suffixes by stem."""

_MANIFEST_KEYS = ("encoder", "dimension", "entries", "next_id", "index", "trained_on", "metric", "parts", "files")
T = TypeVar("T")

_EXACT_SHARE = 0.25  # a search for more than this share of the entries is exact, even with an approximate index


class Memory:
    """Entries and their vectors, searched by inner product.

    An entry keeps its id for the lifetime of the memory, and ids are never reused. A newly built memory numbers its
    entries from 0.

    Attributes:
        ids: Ids of the entries, int64, ascending, shape ``[n]``.
        entries: The entries, in the order of their ids.
        labels: Their classes, int64, shape ``[n]``.
        layout: Their rows, class by class.
        encoder_id: The encoder that made the vectors.
        metadata: Further values of the manifest, such as templates and the hash of the encoder's weights.

    Example:
        >>> import numpy as np
        >>> from data_prep import Memory
        >>> from data_prep.memory.files import Entry
        >>> entries = [Entry(label, "name", f"class {label}") for label in range(3)]
        >>> memory = Memory.build(np.eye(3, dtype=np.float32), entries, encoder_id="example")
        >>> scores, ids = memory.search(np.eye(3, dtype=np.float32)[1:2], k=1)
        >>> memory.entries[ids[0, 0]].key
        'class 1'
    """

    def __init__(
        self,
        index: VectorIndex,
        ids: np.ndarray,
        entries: Sequence[Entry],
        encoder_id: str,
        next_id: int,
        metadata: dict | None = None,
    ):
        self.index, self.encoder_id, self.next_id, self.metadata = index, encoder_id, next_id, metadata or {}
        self._set_entries(ids, entries)

    def _set_entries(self, ids: np.ndarray, entries: Sequence[Entry]) -> None:
        self.ids, self.entries = ids, tuple(entries)
        self.labels = np.fromiter((entry.label for entry in entries), np.int64, len(entries))
        self.layout = ClassLayout.make(self.labels)
        self._derived: dict[Hashable, Any] = {}

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_derived": {}}  # another process derives its own

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        entries: Sequence[Entry],
        encoder_id: str,
        args: RetrieverArgs | None = None,
        metadata: dict | None = None,
        accelerator: str = "auto",
    ) -> Memory:
        """Builds a memory.

        Args:
            vectors: Unit vectors of shape ``[nb, d]``, float32.
            entries: One for each vector.
            encoder_id: The encoder that made the vectors.
            args: Index settings; by default ``auto``, which is exact up to ``FLAT_MOST`` entries.
            metadata: Further values for the manifest.
            accelerator: ``trainer.accelerator``: where an exact search may run.

        Raises:
            ValueError: Counts differ or a vector is not of unit length.
        """
        if len(vectors) != len(entries):
            raise ValueError(f"{len(vectors)} vectors for {len(entries)} entries")
        ids = np.arange(len(entries), dtype=np.int64)
        index = VectorIndex.build(ids, vectors, args or RetrieverArgs(), accelerator)
        return cls(index, ids, entries, encoder_id, len(entries), metadata)

    def __len__(self) -> int:
        return len(self.entries)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Returns the positions of ids in ``entries``; the ids must exist."""
        return np.searchsorted(self.ids, ids)

    def ids_of(self, label: int) -> np.ndarray:
        """Returns the ids of a class's entries, ascending."""
        classes = self.layout.find(np.array([label]))
        return self.ids[self.layout.expand(classes[classes >= 0])]

    def label_at(self, rows: np.ndarray) -> np.ndarray:
        """Returns the labels of entries by row, in the shape of ``rows``; -1 where a row is -1."""
        return np.where(rows >= 0, self.labels[rows], -1)

    @property
    def dimension(self) -> int:
        """Dimension of the vectors."""
        return self.index.index.d

    @property
    def rows_by_digest(self) -> dict[str, list[int]]:
        """Rows of the entries by digest; without those that have none."""
        return self.derive("rows_by_digest", lambda: rows_by_digest([entry.digest for entry in self.entries]))

    def derive(self, key: Hashable, make: Callable[[], T]) -> T:
        """Returns what ``make`` computes from the entries, which is kept under a key until they change."""
        if key not in self._derived:
            self._derived[key] = make()
        return self._derived[key]

    def with_digests(self, digests: Mapping[str, str]) -> Memory:
        """Returns a memory of the same vectors whose entries have other digests, by their present ones."""
        entries = [replace(entry, digest=digests[entry.digest]) for entry in self.entries]
        return Memory(self.index, self.ids, entries, self.encoder_id, self.next_id, self.metadata)

    def add(self, vectors: np.ndarray, entries: Sequence[Entry]) -> np.ndarray:
        """Adds entries; existing entries keep their ids.

        Returns:
            np.ndarray: The new ids, int64.

        Raises:
            ValueError: Counts or dimensions differ, or a vector is not of unit length.
        """
        if len(vectors) != len(entries) or vectors.shape[1] != self.dimension:
            raise ValueError(f"vectors of shape {vectors.shape} for {len(entries)} entries of {self.dimension}")
        unit_block(vectors)
        ids = np.arange(self.next_id, self.next_id + len(entries), dtype=np.int64)
        all_ids = np.concatenate([self.ids, ids])
        self.index.add(ids, vectors, all_ids)
        self.next_id += len(entries)
        self._set_entries(all_ids, (*self.entries, *entries))
        return ids

    def remove(self, ids: np.ndarray) -> int:
        """Removes entries.

        Returns:
            int: The number of entries that were removed; ids that do not exist are ignored.
        """
        removed = np.isin(self.ids, ids)
        remaining = self.ids[~removed]
        if removed.any():
            self.index.remove(self.ids[removed], remaining)
            self._set_entries(remaining, [e for e, out in zip(self.entries, removed, strict=True) if not out])
        return int(removed.sum())

    def search(self, xq: np.ndarray, k: int, exact: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Finds the nearest entries.

        Args:
            xq: Unit queries of shape ``[nq, d]``.
            k: Number of neighbours; at most the number of entries is returned.
            exact: Whether to compare with every entry even if the index is approximate. Searches for a large share of
                all entries always do.

        Returns:
            tuple: Similarities ``D`` and entry ids ``I``, each ``[nq, min(k, entries)]``, best first. Where an
            approximate index finds fewer, the last ids are -1.
        """
        k = min(k, len(self.entries))
        if k == 0 or len(xq) == 0:
            return np.empty((len(xq), k), np.float32), np.empty((len(xq), k), np.int64)
        return self.index.search(xq, k, exact or k > _EXACT_SHARE * len(self.entries))

    def vectors(self, ids: Sequence[int]) -> np.ndarray:
        """Returns the stored vectors of some entries, shape ``[len(ids), d]``."""
        wanted = np.asarray(ids, np.int64)
        if self.index.kind == "flat":
            return self.index.matrix()[self.rows(wanted)]
        return self.index.vectors(wanted)

    def write(self, folder: Path) -> dict:
        """Writes index and entries under content-addressed names; existing files are left alone.

        Returns:
            dict: The memory's manifest, for ``read``.
        """
        index = write_content_addressed(folder, "index", ".faiss", self.index.write)
        entries = write_content_addressed(
            folder, "entries", ".jsonl", lambda part: write_entries(part, self.ids, self.entries)
        )
        return self.metadata | {
            "encoder": self.encoder_id,
            "dimension": self.dimension,
            "entries": len(self.entries),
            "next_id": self.next_id,
            "index": self.index.kind,
            "trained_on": self.index.trained_on,
            "metric": "inner product of unit vectors",
            "parts": {"index": next(iter(index)), "entries": next(iter(entries))},
            "files": index | entries,
        }

    def save(self, folder: Path) -> None:
        """Writes index, entries and manifest.

        The manifest is renamed into place last and refers to the other files by their content, so a kill at any moment
        leaves either the previous memory or this one.
        """
        manifest = self.write(folder)
        write_manifest(folder / "manifest.json", manifest)
        remove_unreferenced(folder, FILE_SUFFIXES, manifest["files"])

    @classmethod
    def read(
        cls,
        folder: Path,
        manifest: dict,
        encoder_id: str,
        args: RetrieverArgs | None = None,
        remedy: str = "",
        accelerator: str = "auto",
    ) -> Memory:
        """Reads a memory that was made with the given encoder.

        Args:
            folder: Folder that ``write`` wrote to.
            manifest: The manifest that it returned.
            encoder_id: The encoder of the queries.
            args: Search settings. With ``mmap`` the index stays on disk.
            remedy: What to do about a damaged file, for the error; by default to delete the folder, as for a cache.
            accelerator: ``trainer.accelerator``: where an exact search may run.

        Raises:
            UserError: A file is missing or damaged, or another encoder made the memory.
        """
        if manifest["encoder"] != encoder_id:
            raise UserError(
                f"{folder}: this memory was made with encoder {manifest['encoder']}, but {encoder_id} is loaded; "
                "their vectors are not comparable. Load the first, or build the memory again."
            )
        verify_files(folder, manifest["files"], remedy or _cache_remedy(folder))
        ids, entries = read_entries(folder / manifest["parts"]["entries"])
        path = folder / manifest["parts"]["index"]
        kind, trained_on = manifest["index"], manifest["trained_on"]
        index = VectorIndex.read(path, kind, trained_on, ids, args or RetrieverArgs(), accelerator)
        metadata = {key: value for key, value in manifest.items() if key not in _MANIFEST_KEYS}
        return cls(index, ids, entries, encoder_id, manifest["next_id"], metadata)

    @classmethod
    def load(
        cls, folder: Path, encoder_id: str, args: RetrieverArgs | None = None, accelerator: str = "auto"
    ) -> Memory:
        """Loads a memory that ``save`` wrote, as ``read`` does.

        Raises:
            UserError: The memory is missing or damaged, or another encoder made it.
        """
        manifest = read_manifest(folder / "manifest.json", _cache_remedy(folder))
        return cls.read(folder, manifest, encoder_id, args, accelerator=accelerator)


def _cache_remedy(folder: Path) -> str:
    return f"delete {folder} to have it built again"
