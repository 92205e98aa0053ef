"""The vectors of a FAISS file from elsewhere, read in a process of its own: older releases crash on a damaged one."""

from __future__ import annotations

import resource
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import faiss
import numpy as np

from data_prep.core.errors import UserError

_MEMORY = 8 << 30  # beside a few times the file, for the process that reads it


def _with_limits(path: Path) -> np.ndarray | str:
    """``vectors_or_fault`` in memory that a damaged count, which can ask for terabytes, does not exceed."""
    most = _MEMORY + 4 * path.stat().st_size
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    return vectors_or_fault(path)


def vectors_or_fault(path: Path) -> np.ndarray | str:
    """The vectors of a file, or what is wrong with it."""
    try:
        index = faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        reason = str(error).rpartition("failed: ")[2].rpartition(" at /")[2]  # without its source lines
        return f"damaged, or no FAISS index ({reason or 'too large'})"
    if not isinstance(index, faiss.IndexHNSWFlat | faiss.IndexFlat):
        return f"a FAISS index of the kind {type(index).__name__}; a graph (IndexHNSWFlat) or a flat one is needed"
    flat = faiss.downcast_index(index.storage) if isinstance(index, faiss.IndexHNSWFlat) else index
    if not isinstance(flat, faiss.IndexFlat) or flat.codes.size() != 4 * index.ntotal * index.d:
        return "a damaged FAISS index (its vectors are not as many as it says)"
    return faiss.vector_to_array(flat.codes).view(np.float32).reshape(index.ntotal, index.d)


def stored_vectors(path: Path) -> np.ndarray:
    """The vectors that a FAISS index holds, in its order, as they are.

    Args:
        path: An ``IndexHNSWFlat`` or flat index that ``faiss.write_index`` wrote.

    Returns:
        np.ndarray: float32, shape ``[n, d]``.

    Raises:
        UserError: There is no such file, or it is another or a damaged one.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found = pool.submit(_with_limits, path).result()
    except BrokenProcessPool:
        raise UserError(f"{path}: damaged; FAISS crashed on reading it. Get it again") from None
    if isinstance(found, str):
        raise UserError(f"{path}: {found}")
    return found
