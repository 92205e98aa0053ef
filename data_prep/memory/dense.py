"""Similarities of queries to every class of a memory, exact, by blocked matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from data_prep.memory.exact import block_size, full_precision, report_full_gpu, search_device
from data_prep.memory.layout import ClassLayout, Exclusions
from data_prep.memory.memory import Memory
from data_prep.memory.options import SearchOptions
from data_prep.memory.pairs import normalize

_CHUNK = {"cpu": 2048, "cuda": 2**16}  # entries per product; on a CPU their similarities stay in the cache
_MOST_QUERIES = {"cpu": 1024, "cuda": 4096}
_SUMMED = 65_536  # vectors that are read at once for the prototypes

Index = slice | torch.Tensor


@dataclass(frozen=True)
class _Chunk:
    """Classes with the same number of entries, which are compared in one product.

    Attributes:
        classes: Their indices.
        rows: Rows of their entries, class by class.
        size: Entries of each class.
    """

    classes: Index
    rows: Index
    size: int


def _to_index(numbers: np.ndarray, device: torch.device) -> Index:
    """Returns consecutive numbers as a slice, which indexes without a copy, and others as a tensor."""
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first + 1 == len(numbers) and bool((np.diff(numbers) == 1).all()):
        return slice(first, last + 1)
    return torch.from_numpy(numbers).to(device)


def _split_classes(layout: ClassLayout, chunk: int) -> Iterator[np.ndarray]:
    """Yields indices of classes of one size, with about ``chunk`` entries together."""
    for size in np.unique(layout.counts):
        classes = np.flatnonzero(layout.counts == size)
        yield from np.split(classes, range(max(1, chunk // size), len(classes), max(1, chunk // size)))


def sum_classes(memory: Memory) -> np.ndarray:
    """Returns the sums of the classes' vectors, float64, shape ``[c, d]``: differences of them are exact enough."""
    layout = memory.layout
    sums = np.zeros((len(layout.labels), memory.dimension))
    classes, _ = layout.entry_classes()
    for start in range(0, len(memory), _SUMMED):
        rows = layout.rows[start : start + _SUMMED]
        firsts = np.flatnonzero(np.diff(classes[rows], prepend=-1))
        sums[classes[rows[firsts]]] += np.add.reduceat(memory.vectors(memory.ids[rows]).astype(np.float64), firsts)
    return sums


def _mean_of_best(similarities: torch.Tensor, m: int) -> torch.Tensor:
    """Averages the m best of each class, or all where it has fewer; -inf where it has none.

    Args:
        similarities: Shape ``[classes, entries, queries]``, -inf for excluded entries; it is overwritten.
        m: Number to average.
    """
    if similarities.shape[1] <= m:
        count = (similarities > -torch.inf).sum(1)
        total = similarities.masked_fill_(similarities == -torch.inf, 0).sum(1)
    else:
        total = count = torch.zeros_like(similarities[:, 0])
        for _ in range(m):
            best, position = similarities.max(1, keepdim=True)
            similarities.scatter_(1, position, -torch.inf)
            is_entry = best[:, 0] > -torch.inf
            total, count = total + best[:, 0].where(is_entry, 0), count + is_entry
    return (total / count).where(count > 0, -torch.inf)


class DenseBlock:
    """The similarities of some queries to all classes.

    Args:
        layout: The memory's classes.
        similarities: Shape ``[queries, classes]``; -inf for a class without entries.
    """

    def __init__(self, layout: ClassLayout, similarities: torch.Tensor):
        self.layout, self.similarities = layout, similarities

    def best(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores and labels of each query's k best classes, in no order, ``[queries, k]`` or with fewer columns
        where there are fewer classes; -inf and -1 where a query has fewer."""
        if k >= len(self.layout.labels):
            scores = self.similarities.cpu().numpy()
            labels = np.broadcast_to(self.layout.labels, scores.shape)
        elif self.similarities.is_cuda:
            top = self.similarities.topk(k, dim=1, sorted=False)
            scores, labels = top.values.cpu().numpy(), self.layout.labels[top.indices.cpu().numpy()]
        else:  # NumPy partitions rows faster than torch on a CPU
            classes = np.argpartition(self.similarities.numpy(), -k, axis=1)[:, -k:]
            scores, labels = np.take_along_axis(self.similarities.numpy(), classes, 1), self.layout.labels[classes]
        return scores, np.where(scores > -np.inf, labels, -1)

    def of(self, labels: np.ndarray) -> np.ndarray:
        """Returns the scores of given classes, in the shape of ``labels``, ``[queries, m]``; -inf without entries."""
        classes = self.layout.find(labels)
        if not len(self.layout.labels):
            return np.full(labels.shape, -np.inf, np.float32)
        indices = torch.from_numpy(classes.clip(min=0)).to(self.similarities.device)
        return np.where(classes >= 0, self.similarities.gather(1, indices).cpu().numpy(), np.float32(-np.inf))


class _Compared:
    """What queries are compared with: the vectors of a memory's entries or prototypes, in chunks, on a device.

    Args:
        memory: With a matrix of vectors, unless classes are scored by prototypes.
        by_prototype: Whether they are.
        device: Where products are computed.
    """

    def __init__(self, memory: Memory, by_prototype: bool, device: torch.device):
        classes = memory.layout
        if by_prototype:
            self.sums = memory.derive("sums", lambda: sum_classes(memory))
            vectors = normalize(self.sums).astype(np.float32)
            classes = ClassLayout.make(np.arange(len(vectors)))
        else:
            vectors = memory.index.matrix()
        self.vectors = torch.from_numpy(vectors).to(device)
        self._split(classes, device)
        widest = max(len(classes.labels), int(classes.counts.max(initial=1)))
        self.block_size = block_size(device, widest, _MOST_QUERIES[device.type])

    def _split(self, compared: ClassLayout, device: torch.device) -> None:
        """Splits the classes into chunks, and notes where each class is: its chunk, and its position in it."""
        self.chunks: list[_Chunk] = []
        self.chunk_of = np.empty(len(compared.labels), np.int64)
        self.position_of = np.empty(len(compared.labels), np.int64)
        for classes in _split_classes(compared, _CHUNK[device.type]):
            self.chunk_of[classes], self.position_of[classes] = len(self.chunks), np.arange(len(classes))
            rows, size = compared.expand(classes), int(compared.counts[classes[0]])
            self.chunks.append(_Chunk(_to_index(classes, device), _to_index(rows, device), size))


class DenseScorer:
    """Compares queries with all classes, on the CPU too where a GPU's memory is full.

    Args:
        memory: With a matrix of vectors, unless classes are scored by prototypes.
        options: Excluded digests and aggregation.
        queries: Number of queries, which decides on the device.
    """

    def __init__(self, memory: Memory, options: SearchOptions, queries: int):
        self.memory, self.options, self.layout = memory, options, memory.layout
        self.by_prototype = options.aggregate == "prototype"
        self.exclusions = Exclusions.make(memory.rows_by_digest, options.exclude)
        entries = len(self.layout.labels) if self.by_prototype else len(memory)
        device = search_device(queries, entries, memory.dimension, memory.index.accelerator)
        try:
            self._place(device)
        except torch.OutOfMemoryError:
            self._leave_gpu()
        self.block_size = self.compared.block_size

    def _place(self, device: torch.device) -> None:
        """Prepares the comparison; on the CPU it is kept with the memory, on a GPU it would take the models' space."""

        def make() -> _Compared:
            return _Compared(self.memory, self.by_prototype, device)

        self.device = device
        self.compared = self.memory.derive(("compared", self.by_prototype), make) if device.type == "cpu" else make()

    def _leave_gpu(self) -> None:
        report_full_gpu()
        self._place(torch.device("cpu"))

    def score(self, xq: np.ndarray, start: int) -> DenseBlock:
        """Scores all classes for a block of queries.

        Args:
            xq: Unit queries of the block, shape ``[b, d]``.
            start: Index of the first of them among all queries.
        """
        try:
            return self._score(xq, start)
        except torch.OutOfMemoryError:
            self._leave_gpu()
            return self._score(xq, start)

    @torch.inference_mode()
    def _score(self, xq: np.ndarray, start: int) -> DenseBlock:
        queries = torch.tensor(xq, dtype=torch.float32, device=self.device).T
        exclusions = self.exclusions.of_block(start, len(xq))
        hidden = {} if self.by_prototype else self._hidden_by_chunk(exclusions)
        scores = torch.empty(len(self.layout.labels), len(xq), device=self.device)
        with full_precision(self.device):
            for number, chunk in enumerate(self.compared.chunks):
                similarities = (self.compared.vectors[chunk.rows] @ queries).view(-1, chunk.size, len(xq))
                if number in hidden:
                    similarities[hidden[number]] = -torch.inf
                scores[chunk.classes] = self._aggregate(similarities)
        if self.by_prototype and len(exclusions.rows):
            self._correct_prototypes(scores, xq, exclusions)
        return DenseBlock(self.layout, scores.T.contiguous())

    def _aggregate(self, similarities: torch.Tensor) -> torch.Tensor:
        if self.options.aggregate == "mean":
            return _mean_of_best(similarities, self.options.top_m)
        return similarities.amax(1)

    def _hidden_by_chunk(self, exclusions: Exclusions) -> dict[int, tuple[torch.Tensor, ...]]:
        """Returns the indices of excluded similarities, ``(class, entry, query)``, by number of the chunk."""
        if not len(exclusions.rows):
            return {}
        entry_classes, entry_positions = self.memory.layout.entry_classes()
        classes = entry_classes[exclusions.rows]
        indices = np.stack([self.compared.position_of[classes], entry_positions[exclusions.rows], exclusions.queries])
        order = np.argsort(self.compared.chunk_of[classes], kind="stable")
        numbers, firsts = np.unique(self.compared.chunk_of[classes][order], return_index=True)
        parts = np.split(indices[:, order], firsts[1:], axis=1)
        return {
            number: tuple(torch.from_numpy(part).to(self.device))
            for number, part in zip(numbers.tolist(), parts, strict=True)
        }

    def _correct_prototypes(self, scores: torch.Tensor, xq: np.ndarray, exclusions: Exclusions) -> None:
        """Scores the classes with excluded entries by the prototypes of their other entries."""
        classes = self.layout.entry_classes()[0][exclusions.rows]
        order = np.lexsort((classes, exclusions.queries))
        pairs = np.stack([classes, exclusions.queries])[:, order]
        firsts = np.flatnonzero((np.diff(pairs, prepend=-1) != 0).any(0))
        vectors = self.memory.vectors(self.memory.ids[exclusions.rows[order]]).astype(np.float64)
        (classes, queries), excluded = pairs[:, firsts], np.add.reduceat(vectors, firsts)
        left = self.layout.counts[classes] - np.diff(firsts, append=len(order))
        corrected = np.einsum("pd,pd->p", normalize(self.compared.sums[classes] - excluded), xq[queries])
        corrected = torch.from_numpy(np.where(left > 0, corrected, -np.inf).astype(np.float32))
        scores[torch.from_numpy(classes), torch.from_numpy(queries)] = corrected.to(self.device)
