"""FAISS indexes of a memory: exact, HNSW graph or inverted file; all by inner product on unit vectors.

=====  ==========================  =======================================  ==============================
kind   search                      ``add``                                  ``remove``
=====  ==========================  =======================================  ==============================
flat   exact                       appends                                  deletes
hnsw   approximate, graph          inserts into the graph                   hides; rebuilt when more than a
                                                                            fifth is hidden
ivf    approximate, inverted file  appends to lists; rebuilt when it holds  deletes
                                   over four times the entries that its
                                   centroids were trained on
=====  ==========================  =======================================  ==============================
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.progress import progress_bar
from data_prep.memory.exact import search_device, search_vectors
from data_prep.settings import RetrieverArgs

log = logging.getLogger(__name__)

KINDS = ("flat", "hnsw", "ivf")

FLAT_MOST = 250_000
"""Entries up to which ``auto`` uses the exact index; above, an HNSW graph (``benchmarks/memory_scale.py``)."""

_HIDDEN_SHARE = 0.2
_GROWTH = 4
_POINTS_PER_LIST = 39  # FAISS warns of fewer: too little data to train the centroids
_BLOCK = 65_536  # vectors that are converted and added at once, so that a memory map is never loaded completely


def kind_for(setting: str, entries: int) -> str:
    """Returns the kind of index for a value of ``retriever.index`` and a number of entries."""
    if setting != "auto":
        return setting
    return "flat" if entries <= FLAT_MOST else "hnsw"


def unit_block(vectors: np.ndarray) -> np.ndarray:
    """Converts vectors to contiguous float32, as FAISS needs them, and checks their length.

    Raises:
        ValueError: A vector is not of unit length, so its inner product would not be the cosine.
    """
    block = np.ascontiguousarray(vectors, np.float32)
    if not np.allclose(np.linalg.norm(block, axis=1), 1, atol=1e-4):
        raise ValueError("the vectors are not of unit length")
    return block


def _choose_nlist(args: RetrieverArgs, entries: int) -> int:
    """Returns ``ivf.nlist``, or by default 4 √entries, limited by the number of entries."""
    nlist = args.ivf.nlist or int(4 * entries**0.5)
    return max(1, min(nlist, entries // _POINTS_PER_LIST))


def _make_empty(kind: str, vectors: np.ndarray, args: RetrieverArgs) -> faiss.Index:
    """Makes an empty index of a kind; an ``ivf`` is trained on a subset of the vectors."""
    d = vectors.shape[1]
    if kind == "flat":
        return faiss.IndexIDMap2(faiss.IndexFlatIP(d))
    if kind == "hnsw":
        graph = faiss.IndexHNSWFlat(d, args.hnsw.M, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = args.hnsw.ef_construction
        return faiss.IndexIDMap2(graph)
    nlist = _choose_nlist(args, len(vectors))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, nlist, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical = True
    training_rows = np.linspace(0, len(vectors) - 1, min(len(vectors), 128 * nlist)).astype(int)
    index.train(unit_block(vectors[training_rows]) if len(vectors) else np.eye(1, d, dtype=np.float32))
    index.set_direct_map_type(faiss.DirectMap.Hashtable)
    return index


@dataclass
class VectorIndex:
    """A FAISS index of vectors by id, with deletion for every kind.

    Attributes:
        kind: ``flat``, ``hnsw`` or ``ivf``.
        index: The FAISS index.
        args: ``hnsw`` (M, ef_construction, ef_search) and ``ivf`` (nlist, nprobe) settings.
        trained_on: Number of entries when the centroids of an ``ivf`` were trained.
        hidden: Removed ids that a graph still contains.
        on_disk: Whether it is memory-mapped, and so cannot be changed.
        accelerator: ``trainer.accelerator``: where an exact search may run.
    """

    kind: str
    index: faiss.Index
    args: RetrieverArgs
    trained_on: int
    hidden: np.ndarray
    on_disk: bool = False
    accelerator: str = "auto"

    @classmethod
    def build(cls, ids: np.ndarray, vectors: np.ndarray, args: RetrieverArgs, accelerator: str = "auto") -> VectorIndex:
        """Builds an index of the kind that the settings specify.

        Args:
            ids: int64, shape ``[nb]``.
            vectors: Unit vectors, float32, shape ``[nb, d]``; may be a memory map.
            args: Kind of index and its parameters.
            accelerator: ``trainer.accelerator``.
        """
        kind = kind_for(args.index, len(vectors))
        empty, nothing = _make_empty(kind, vectors, args), np.empty(0, np.int64)
        result = cls(kind, empty, args, len(vectors), nothing, accelerator=accelerator)
        result._append(ids, vectors)
        return result

    def _append(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        for start in progress_bar("building the index", range(0, len(ids), _BLOCK)):
            block = slice(start, start + _BLOCK)
            self.index.add_with_ids(unit_block(vectors[block]), np.ascontiguousarray(ids[block], np.int64))

    def _rebuild(self, ids: np.ndarray, reason: str) -> None:
        log.info("memory: rebuilding the %s index of %d entries: %s", self.kind, len(ids), reason)
        vectors = self.vectors(ids)
        self.index = _make_empty(self.kind, vectors, self.args)
        self.trained_on, self.hidden = len(ids), np.empty(0, np.int64)
        self._append(ids, vectors)

    def _check_writable(self) -> None:
        if self.on_disk:
            raise UserError("this memory is memory-mapped (retriever.mmap=true); to change it, load it without mmap")

    def add(self, ids: np.ndarray, vectors: np.ndarray, all_ids: np.ndarray) -> None:
        """Adds vectors; ``all_ids`` are the ids after the change."""
        self._check_writable()
        self._append(ids, vectors)
        if self.kind == "ivf" and len(all_ids) > _GROWTH * self.trained_on:
            self._rebuild(all_ids, f"its centroids were trained on {self.trained_on}")

    def remove(self, ids: np.ndarray, remaining: np.ndarray) -> None:
        """Removes vectors; ``remaining`` are the ids after the change."""
        self._check_writable()
        if self.kind != "hnsw":
            self.index.remove_ids(np.ascontiguousarray(ids, np.int64))
            return
        self.hidden = np.union1d(self.hidden, ids)
        if len(self.hidden) > _HIDDEN_SHARE * self.index.ntotal:
            self._rebuild(remaining, f"{len(self.hidden)} removed entries were only hidden in it")
        else:
            log.info("memory: hid %d entries of a graph, which cannot delete; %d in total", len(ids), len(self.hidden))

    def search(self, xq: np.ndarray, k: int, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        """Finds the nearest vectors.

        Args:
            xq: Unit queries, float32, shape ``[nq, d]``.
            k: Number of neighbours, at most the number of vectors.
            exact: Whether to compare with every vector, whatever the kind.

        Returns:
            tuple: Similarities and ids, each ``[nq, k]``, best first; id -1 where an approximate search found fewer.
        """
        xq = np.ascontiguousarray(xq, np.float32)
        if self.kind == "flat":
            device = search_device(len(xq), self.index.ntotal, self.index.d, self.accelerator)
            if device.type == "cpu":
                return self.index.search(xq, k)
            similarities, rows = search_vectors(self.matrix(), xq, k, device)
            return similarities, faiss.vector_to_array(self.index.id_map)[rows]
        if self.kind == "ivf":
            nprobe = self.index.nlist if exact else min(self.args.ivf.nprobe, self.index.nlist)
            return self.index.search(xq, k, params=faiss.SearchParametersIVF(nprobe=nprobe))
        if exact:
            return self._search_storage(xq, k)
        selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(self.hidden)) if len(self.hidden) else None
        ef_search = max(self.args.hnsw.ef_search, k)
        return self.index.search(xq, k, params=faiss.SearchParametersHNSW(sel=selector, efSearch=ef_search))

    def _search_storage(self, xq: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Searches the stored vectors of a graph exactly."""
        ids = faiss.vector_to_array(self.index.id_map)
        hidden_rows = np.flatnonzero(np.isin(ids, self.hidden))
        selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(hidden_rows)) if len(hidden_rows) else None
        storage = faiss.downcast_index(faiss.downcast_index(self.index.index).storage)
        similarities, rows = storage.search(xq, k, params=faiss.SearchParameters(sel=selector))
        return similarities, ids[rows]

    def matrix(self) -> np.ndarray:
        """Returns a ``flat`` index's vectors without a copy, float32, shape ``[nb, d]``, in the order of their ids.

        It is a view of the index's own memory: valid until the index changes.
        """
        storage = faiss.downcast_index(self.index.index)
        if not storage.ntotal:
            return np.empty((0, storage.d), np.float32)
        return faiss.rev_swig_ptr(storage.get_xb(), storage.ntotal * storage.d).reshape(-1, storage.d)

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """Returns the stored vectors of some ids, float32, shape ``[n, d]``."""
        if not len(ids):
            return np.empty((0, self.index.d), np.float32)
        return self.index.reconstruct_batch(np.ascontiguousarray(ids, np.int64))

    def write(self, path: Path) -> None:
        """Writes the FAISS file.

        Raises:
            UserError: The file cannot be written.
        """
        try:
            with open(path, "wb") as file:  # Python's file: FAISS's own does not report a full disk on close
                faiss.write_index(self.index, faiss.PyCallbackIOWriter(file.write))
        except OSError as error:
            raise UserError(f"{path}: not written: {error.strerror}; fix that and run the command again") from None

    @classmethod
    def read(
        cls, path: Path, kind: str, trained_on: int, ids: np.ndarray, args: RetrieverArgs, accelerator: str = "auto"
    ) -> VectorIndex:
        """Reads the FAISS file, or with ``retriever.mmap`` maps it and leaves the vectors on disk.

        Args:
            path: File that ``write`` wrote.
            kind: Kind of the index that was written.
            trained_on: Its ``trained_on``.
            ids: Ids of the current entries; a graph's other ids are hidden.
            args: Search settings, and whether to use mmap.
            accelerator: ``trainer.accelerator``.
        """
        flags = 0
        if args.mmap:
            flags = faiss.IO_FLAG_MMAP if kind == "ivf" else faiss.IO_FLAG_MMAP_IFC
        index = faiss.read_index(str(path), flags)
        hidden = np.empty(0, np.int64)
        if kind == "hnsw":
            hidden = np.setdiff1d(faiss.vector_to_array(index.id_map), ids)
        return cls(kind, index, args, trained_on, hidden, args.mmap, accelerator)
