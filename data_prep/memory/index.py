"""The FAISS indexes behind a memory: exact, a graph, or lists; all by inner product on unit vectors.

=====  =======================  ==========================================  ===========================
kind   search                   ``add``                                     ``remove``
=====  =======================  ==========================================  ===========================
flat   exact                    appends                                     takes out
hnsw   approximate, a graph     links in                                    hides; rebuilt when a fifth
                                                                            is hidden
ivf    approximate, by regions  appends to lists; rebuilt when four times   takes out
                                as large as what the regions were made for
=====  =======================  ==========================================  ===========================
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.progress import progress_bar
from data_prep.settings import RetrieverArgs

log = logging.getLogger(__name__)

KINDS = ("flat", "hnsw", "ivf")

FLAT_MOST = 250_000
"""Entries up to which ``auto`` takes the exact index; above, a graph (``benchmarks/memory_scale.py``)."""

_HIDDEN_SHARE = 0.2
_GROWTH = 4
_POINTS_PER_LIST = 39  # FAISS warns of fewer: the regions would be made of too little
_BLOCK = 65_536  # vectors that are converted and added at once, so that a memory map never stands in memory whole


def kind_for(setting: str, entries: int) -> str:
    """The kind of index for ``retriever.index`` and a number of entries."""
    if setting != "auto":
        return setting
    return "flat" if entries <= FLAT_MOST else "hnsw"


def unit_block(vectors: np.ndarray) -> np.ndarray:
    """Vectors as FAISS takes them.

    Raises:
        ValueError: One is not of unit length; inner product would not be the cosine then.
    """
    block = np.ascontiguousarray(vectors, np.float32)
    if not np.allclose(np.linalg.norm(block, axis=1), 1, atol=1e-4):
        raise ValueError("the vectors are not of unit length")
    return block


def _lists_for(args: RetrieverArgs, entries: int) -> int:
    wanted = args.ivf.nlist or int(4 * entries**0.5)
    return max(1, min(wanted, entries // _POINTS_PER_LIST))


def _empty(kind: str, vectors: np.ndarray, args: RetrieverArgs) -> faiss.Index:
    """An index of a kind, trained where the kind needs it, with nothing in it."""
    d = vectors.shape[1]
    if kind == "flat":
        return faiss.IndexIDMap2(faiss.IndexFlatIP(d))
    if kind == "hnsw":
        graph = faiss.IndexHNSWFlat(d, args.hnsw.M, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = args.hnsw.ef_construction
        return faiss.IndexIDMap2(graph)
    lists = _lists_for(args, len(vectors))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical = True
    chosen = np.linspace(0, len(vectors) - 1, min(len(vectors), 128 * lists)).astype(int)
    index.train(unit_block(vectors[chosen]) if len(vectors) else np.eye(1, d, dtype=np.float32))
    index.set_direct_map_type(faiss.DirectMap.Hashtable)
    return index


@dataclass
class VectorIndex:
    """Vectors by id.

    Attributes:
        kind: ``flat``, ``hnsw`` or ``ivf``.
        index: FAISS's own.
        args: Widths, lists and probes.
        trained_on: Entries that the regions of an ``ivf`` were made for.
        hidden: Ids that a graph still holds though they were removed.
        on_disk: Whether it is read from disk as it is searched, and cannot change.
    """

    kind: str
    index: faiss.Index
    args: RetrieverArgs
    trained_on: int
    hidden: np.ndarray
    on_disk: bool = False

    @classmethod
    def build(cls, ids: np.ndarray, vectors: np.ndarray, args: RetrieverArgs) -> VectorIndex:
        """Builds the kind that the settings ask for.

        Args:
            ids: int64, shape ``[nb]``.
            vectors: Unit vectors, float32, shape ``[nb, d]``; may be a memory map.
            args: Kind and its numbers.
        """
        kind = kind_for(args.index, len(vectors))
        made = cls(kind, _empty(kind, vectors, args), args, len(vectors), np.empty(0, np.int64))
        made._append(ids, vectors)
        return made

    def _append(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        for start in progress_bar("building the index", range(0, len(ids), _BLOCK)):
            own = slice(start, start + _BLOCK)
            self.index.add_with_ids(unit_block(vectors[own]), np.ascontiguousarray(ids[own], np.int64))

    def _rebuild(self, ids: np.ndarray, why: str) -> None:
        log.info("memory: building the %s index of %d entries anew, %s", self.kind, len(ids), why)
        vectors = self.vectors(ids)
        self.index = _empty(self.kind, vectors, self.args)
        self.trained_on, self.hidden = len(ids), np.empty(0, np.int64)
        self._append(ids, vectors)

    def _changeable(self) -> None:
        if self.on_disk:
            raise UserError("this memory is read from disk (retriever.mmap=true); load it without, to change it")

    def add(self, ids: np.ndarray, vectors: np.ndarray, everything: np.ndarray) -> None:
        """Adds vectors; ``everything`` holds the ids that there are afterwards."""
        self._changeable()
        self._append(ids, vectors)
        if self.kind == "ivf" and len(everything) > _GROWTH * self.trained_on:
            self._rebuild(everything, f"since its regions were made for {self.trained_on}")

    def remove(self, ids: np.ndarray, remaining: np.ndarray) -> None:
        """Removes vectors; ``remaining`` holds the ids that there are afterwards."""
        self._changeable()
        if self.kind != "hnsw":
            self.index.remove_ids(np.ascontiguousarray(ids, np.int64))
            return
        self.hidden = np.union1d(self.hidden, ids)
        if len(self.hidden) > _HIDDEN_SHARE * self.index.ntotal:
            self._rebuild(remaining, f"since {len(self.hidden)} removed entries were only hidden in it")
        else:
            log.info("memory: hid %d entries of a graph, which cannot remove; %d in all", len(ids), len(self.hidden))

    def search(self, xq: np.ndarray, k: int, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        """The nearest vectors.

        Args:
            xq: Unit queries, float32, shape ``[nq, d]``.
            k: How many, at most as there are.
            exact: Whether to compare with every vector, whatever the kind.

        Returns:
            tuple: Similarities and ids, each ``[nq, k]``, best first; id -1 where an approximate search found fewer.
        """
        xq = np.ascontiguousarray(xq, np.float32)
        if self.kind == "flat":
            return self.index.search(xq, k)
        if self.kind == "ivf":
            probes = self.index.nlist if exact else min(self.args.ivf.nprobe, self.index.nlist)
            return self.index.search(xq, k, params=faiss.SearchParametersIVF(nprobe=probes))
        if exact:
            return self._search_storage(xq, k)
        shown = faiss.IDSelectorNot(faiss.IDSelectorBatch(self.hidden)) if len(self.hidden) else None
        width = max(self.args.hnsw.ef_search, k)
        return self.index.search(xq, k, params=faiss.SearchParametersHNSW(sel=shown, efSearch=width))

    def _search_storage(self, xq: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Exact search over the vectors that a graph links."""
        ids = faiss.vector_to_array(self.index.id_map)
        places = np.flatnonzero(np.isin(ids, self.hidden))
        shown = faiss.IDSelectorNot(faiss.IDSelectorBatch(places)) if len(places) else None
        storage = faiss.downcast_index(faiss.downcast_index(self.index.index).storage)
        similarities, found = storage.search(xq, k, params=faiss.SearchParameters(sel=shown))
        return similarities, ids[found]

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """The stored vectors of some ids, float32, shape ``[n, d]``."""
        if not len(ids):
            return np.empty((0, self.index.d), np.float32)
        return self.index.reconstruct_batch(np.ascontiguousarray(ids, np.int64))

    def write(self, path: Path) -> None:
        """Writes FAISS's file.

        Raises:
            UserError: The disk refuses.
        """
        try:
            with open(path, "wb") as file:  # Python's: FAISS's own says nothing of a disk that is full on closing
                faiss.write_index(self.index, faiss.PyCallbackIOWriter(file.write))
        except OSError as error:
            raise UserError(f"{path}: not written: {error.strerror}; give the command again when it can be") from None

    @classmethod
    def read(cls, path: Path, kind: str, trained_on: int, ids: np.ndarray, args: RetrieverArgs) -> VectorIndex:
        """Reads FAISS's file, or with ``retriever.mmap`` leaves the vectors on disk until a search needs them.

        Args:
            path: What ``write`` made.
            kind: As it was built.
            trained_on: As it was.
            ids: The ids that count; a graph's others are hidden.
            args: For searches.
        """
        flags = 0
        if args.mmap:
            flags = faiss.IO_FLAG_MMAP if kind == "ivf" else faiss.IO_FLAG_MMAP_IFC
        index = faiss.read_index(str(path), flags)
        hidden = np.empty(0, np.int64)
        if kind == "hnsw":
            hidden = np.setdiff1d(faiss.vector_to_array(index.id_map), ids)
        return cls(kind, index, args, trained_on, hidden, args.mmap)
