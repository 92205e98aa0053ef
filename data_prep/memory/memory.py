"""The class memory: entries and their vectors, searched by inner product, written and read as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.files import read_manifest, write_manifest
from data_prep.memory.files import Entry, check_kept, drop_others, keep, read_entries, write_entries
from data_prep.memory.index import VectorIndex, unit_block
from data_prep.settings import RetrieverArgs

KINDS_OF_FILES = {"index": ".faiss", "entries": ".jsonl"}
"""What ``Memory.write`` writes: suffixes by stem."""

_OWN = ("encoder", "dimension", "entries", "next_id", "index", "trained_on", "metric", "parts", "files")
_EXACT_SHARE = 0.25  # of the entries: who asks for so many gets them all, also of an approximate index


class Memory:
    """Entries and their vectors, searched by inner product.

    An entry keeps its id as long as the memory lives, and no other entry ever gets it. A memory
    that is freshly built numbers its entries from 0.

    Attributes:
        ids: Ids of the entries, int64, ascending, shape ``[n]``.
        entries: The entries, in the order of their ids.
        labels: Their classes, int64, shape ``[n]``.
        encoder_id: The encoder that made the vectors.
        metadata: What else the manifest says, such as templates and the hash of the weights.
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
        self._hold(ids, entries)

    def _hold(self, ids: np.ndarray, entries: Sequence[Entry]) -> None:
        self.ids, self.entries = ids, tuple(entries)
        self.labels = np.fromiter((entry.label for entry in entries), np.int64, len(entries))
        # Entries by class: rows in the order of classes, and where each class begins.
        self._by_label = np.argsort(self.labels, kind="stable")
        self._sorted_labels = self.labels[self._by_label]

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        entries: Sequence[Entry],
        encoder_id: str,
        args: RetrieverArgs | None = None,
        metadata: dict | None = None,
    ) -> Memory:
        """Builds a memory.

        Args:
            vectors: Unit vectors of shape ``[nb, d]``, float32.
            entries: One for each vector.
            encoder_id: The encoder that made the vectors.
            args: Kind of index; by default exact, for as many as ``auto`` allows.
            metadata: For the manifest.

        Raises:
            ValueError: Counts differ or a vector is not of unit length.
        """
        if len(vectors) != len(entries):
            raise ValueError(f"{len(vectors)} vectors for {len(entries)} entries")
        ids = np.arange(len(entries), dtype=np.int64)
        index = VectorIndex.build(ids, vectors, args or RetrieverArgs())
        return cls(index, ids, entries, encoder_id, len(entries), metadata)

    def __len__(self) -> int:
        return len(self.entries)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Places of ids in ``entries``; the ids must be there."""
        return np.searchsorted(self.ids, ids)

    def ids_of(self, label: int) -> np.ndarray:
        """Ids of a class's entries, ascending."""
        first, last = np.searchsorted(self._sorted_labels, [label, label + 1])
        return self.ids[self._by_label[first:last]]

    def add(self, vectors: np.ndarray, entries: Sequence[Entry]) -> np.ndarray:
        """Adds entries; those that are there keep their ids.

        Returns:
            np.ndarray: The new ids, int64.

        Raises:
            ValueError: Counts or dimensions differ, or a vector is not of unit length.
        """
        if len(vectors) != len(entries) or vectors.shape[1] != self.index.index.d:
            raise ValueError(f"vectors of shape {vectors.shape} for {len(entries)} entries of {self.index.index.d}")
        unit_block(vectors)
        ids = np.arange(self.next_id, self.next_id + len(entries), dtype=np.int64)
        everything = np.concatenate([self.ids, ids])
        self.index.add(ids, vectors, everything)
        self.next_id += len(entries)
        self._hold(everything, (*self.entries, *entries))
        return ids

    def remove(self, ids: np.ndarray) -> int:
        """Removes entries.

        Returns:
            int: How many there were of these.
        """
        gone = np.isin(self.ids, ids)
        kept = self.ids[~gone]
        if gone.any():
            self.index.remove(self.ids[gone], kept)
            self._hold(kept, [entry for entry, out in zip(self.entries, gone, strict=True) if not out])
        return int(gone.sum())

    def search(self, xq: np.ndarray, k: int, exact: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Finds the nearest entries.

        Args:
            xq: Unit queries of shape ``[nq, d]``.
            k: How many; no more come back than there are entries.
            exact: Whether to compare with every entry where the index is an approximate one. Searches for a large
                part of all entries always do.

        Returns:
            tuple: Similarities ``D`` and entry ids ``I``, each ``[nq, min(k, entries)]``, best first. Where an
            approximate index finds fewer, the last ids are -1.
        """
        k = min(k, len(self.entries))
        if k == 0 or len(xq) == 0:
            return np.empty((len(xq), k), np.float32), np.empty((len(xq), k), np.int64)
        return self.index.search(xq, k, exact or k > _EXACT_SHARE * len(self.entries))

    def vectors(self, ids: Sequence[int]) -> np.ndarray:
        """The stored vectors of some entries, shape ``[len(ids), d]``."""
        return self.index.vectors(np.asarray(ids, np.int64))

    def write(self, folder: Path) -> dict:
        """Writes index and entries beside those that are there, under names of their own.

        Returns:
            dict: What a manifest says of the memory; ``read`` takes it.
        """
        index = keep(folder, "index", ".faiss", self.index.write)
        entries = keep(folder, "entries", ".jsonl", lambda part: write_entries(part, self.ids, self.entries))
        return self.metadata | {
            "encoder": self.encoder_id,
            "dimension": self.index.index.d,
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

        The manifest is renamed into place last and names the other files by their content, so a
        kill at any moment leaves the memory that was there before, or this one.
        """
        manifest = self.write(folder)
        write_manifest(folder / "manifest.json", manifest)
        drop_others(folder, KINDS_OF_FILES, manifest["files"])

    @classmethod
    def read(
        cls, folder: Path, manifest: dict, encoder_id: str, args: RetrieverArgs | None = None, remedy: str = ""
    ) -> Memory:
        """Reads a memory that was made with the given encoder.

        Args:
            folder: Where ``write`` wrote.
            manifest: What it returned.
            encoder_id: The encoder that queries come from.
            args: For searches. With ``mmap`` the index stays on disk.
            remedy: What to do about a damaged file; by default to delete the folder, as of a cache.

        Raises:
            UserError: A file is missing or damaged, or another encoder made the memory.
        """
        if manifest["encoder"] != encoder_id:
            raise UserError(
                f"{folder}: this memory was made with encoder {manifest['encoder']}, but {encoder_id} is loaded; "
                "its vectors do not compare. Load the first, or build the memory again."
            )
        check_kept(folder, manifest["files"], remedy or _remake(folder))
        ids, entries = read_entries(folder / manifest["parts"]["entries"])
        path = folder / manifest["parts"]["index"]
        index = VectorIndex.read(path, manifest["index"], manifest["trained_on"], ids, args or RetrieverArgs())
        metadata = {key: value for key, value in manifest.items() if key not in _OWN}
        return cls(index, ids, entries, encoder_id, manifest["next_id"], metadata)

    @classmethod
    def load(cls, folder: Path, encoder_id: str, args: RetrieverArgs | None = None) -> Memory:
        """Reads what ``save`` wrote, as ``read`` does.

        Raises:
            UserError: The memory is missing or damaged, or another encoder made it.
        """
        manifest = read_manifest(folder / "manifest.json", _remake(folder))
        return cls.read(folder, manifest, encoder_id, args)


def _remake(folder: Path) -> str:
    return f"delete {folder} to have it built again"
