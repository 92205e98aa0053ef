"""Reads the vectors of an untrusted FAISS file in a separate process: older FAISS releases crash on damaged files."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import faiss
import numpy as np

from data_prep.core.errors import UserError

_MEMORY = 8 << 30  # bytes for the process that reads the file, in addition to four times the file's size


def _with_limits(path: Path) -> np.ndarray | str:
    """Runs ``vectors_or_fault`` under a memory limit: a damaged count in the file can request terabytes."""
    if sys.platform == "linux":  # other systems do not enforce it
        import resource

        limit = _MEMORY + 4 * path.stat().st_size
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    return vectors_or_fault(path)


def vectors_or_fault(path: Path) -> np.ndarray | str:
    """Returns the vectors of a file, or a description of what is wrong with it."""
    try:
        index = faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        reason = str(error).rpartition("failed: ")[2].rpartition(" at /")[2]  # without FAISS's source location
        return f"damaged, or not a FAISS index ({reason or 'too large'})"
    if not isinstance(index, faiss.IndexHNSWFlat | faiss.IndexFlat):
        return f"a FAISS index of type {type(index).__name__}; an HNSW graph (IndexHNSWFlat) or a flat index is needed"
    flat = faiss.downcast_index(index.storage) if isinstance(index, faiss.IndexHNSWFlat) else index
    if not isinstance(flat, faiss.IndexFlat) or flat.codes.size() != 4 * index.ntotal * index.d:
        return "a damaged FAISS index (its number of vectors does not match its header)"
    return faiss.vector_to_array(flat.codes).view(np.float32).reshape(index.ntotal, index.d)


def stored_vectors(path: Path) -> np.ndarray:
    """Reads the vectors stored in a FAISS index, unchanged and in its order.

    Args:
        path: An ``IndexHNSWFlat`` or flat index that ``faiss.write_index`` wrote.

    Returns:
        np.ndarray: float32, shape ``[n, d]``.

    Raises:
        UserError: The file is missing, damaged, or of another type.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            result = pool.submit(_with_limits, path).result()
    except BrokenProcessPool:
        raise UserError(f"{path}: damaged; FAISS crashed when reading it. Download or copy it again") from None
    if isinstance(result, str):
        raise UserError(f"{path}: {result}")
    return result
