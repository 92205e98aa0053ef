"""Exact search by blocked matrix products, in torch: on the GPU where there is one and the search is large."""

from __future__ import annotations

import logging

import numpy as np
import torch

from data_prep.distributed.devices import local_gpu_index

log = logging.getLogger(__name__)

_GPU_WORK = 10**10  # multiplications below which moving the vectors costs more than a GPU saves
_HELD = {"cpu": 2**25, "cuda": 2**28}  # similarities held at once: 128 MB and 1 GB


def search_device(queries: int, entries: int, dimension: int, accelerator: str) -> torch.device:
    """Returns the device of an exact search: the GPU if its free memory holds the vectors twice and it pays off.

    Args:
        queries: Number of queries.
        entries: Number of vectors.
        dimension: Their dimension.
        accelerator: ``trainer.accelerator``; ``cpu`` and ``mps`` search on the CPU.
    """
    may_use_gpu = accelerator not in ("cpu", "mps")
    if may_use_gpu and queries * entries * dimension >= _GPU_WORK and torch.cuda.is_available():
        device = torch.device("cuda", local_gpu_index())
        if 2 * 4 * entries * dimension + 8 * _HELD["cuda"] < torch.cuda.mem_get_info(device)[0]:
            return device
    return torch.device("cpu")


def block_size(device: torch.device, width: int, most: int) -> int:
    """Returns how many queries to compare at once with ``width`` entries or classes, at least 16."""
    return max(16, min(most, _HELD[device.type] // max(width, 1)))


def report_full_gpu() -> None:
    """Logs that a search goes on without the GPU."""
    log.warning("retrieval: the GPU's memory is full, so the search goes on on the CPU")


def full_precision(device: torch.device) -> torch.autocast:
    """Returns a context without automatic mixed precision, in which similarities would be rounded."""
    return torch.autocast(device.type, enabled=False)


@torch.inference_mode()
def search_vectors(vectors: np.ndarray, xq: np.ndarray, k: int, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest vectors by inner product.

    Args:
        vectors: float32, shape ``[nb, d]``.
        xq: Queries, float32, shape ``[nq, d]``.
        k: Number of neighbours, at most ``nb``.
        device: Computes the products; the CPU does where a GPU's memory is full.

    Returns:
        tuple: Similarities and rows of ``vectors``, each ``[nq, k]``, best first.
    """
    try:
        return _search(vectors, xq, k, device)
    except torch.OutOfMemoryError:
        report_full_gpu()
        return _search(vectors, xq, k, torch.device("cpu"))


def _search(vectors: np.ndarray, xq: np.ndarray, k: int, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    entries = torch.from_numpy(vectors).to(device)
    similarities, rows = np.empty((len(xq), k), np.float32), np.empty((len(xq), k), np.int64)
    step = block_size(device, len(vectors), 4096)
    with full_precision(device):
        for start in range(0, len(xq), step):
            block = slice(start, start + step)
            best = (torch.tensor(xq[block], device=device) @ entries.T).topk(k, dim=1)
            similarities[block], rows[block] = best.values.cpu().numpy(), best.indices.cpu().numpy()
    return similarities, rows
