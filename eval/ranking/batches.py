"""Ranking requests cut into batches of whole images: kept as ids, and built when a batch is prepared."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import overload

import numpy as np

from data_prep.core.files import fingerprint
from eval.ranking.request import RankingMode, RankingRequest


class LazyGroups(Sequence[Sequence[RankingRequest]]):
    """Groups of requests, built when they are read, so that those of a large evaluation are never all in memory.

    Args:
        build: Returns a group by its index; picklable, since other processes build groups too.
        count: Number of groups.
    """

    def __init__(self, build: Callable[[int], Sequence[RankingRequest]], count: int):
        self.build, self.count = build, count

    def __len__(self) -> int:
        return self.count

    @overload
    def __getitem__(self, index: int) -> Sequence[RankingRequest]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sequence[RankingRequest]]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self.build(i) for i in range(self.count)[index]]
        return self.build(range(self.count)[index])


class RequestTable:
    """The distinct requests about many images, ordered by image; each is built when it is read.

    Args:
        groups: Groups of requests, such as an image's in several orders. Groups about one image, which have the same
            key, may be apart, and a request may occur in several.

    Attributes:
        ids: The requests' ids as integers, uint64 of shape ``[n]``. Images are in the order of their first group.
        starts: Row of each image's first request, then n; shape ``[images + 1]``.
    """

    def __init__(self, groups: Sequence[Sequence[RankingRequest]]):
        self.groups = groups
        image_by_key: dict[str, int] = {}
        columns = ids, images, owners, positions = array("Q"), array("q"), array("q"), array("q")
        for owner in range(len(groups)):
            for position, request in enumerate(groups[owner]):
                ids.append(int(request.id, 16))
                images.append(image_by_key.setdefault(request.key, len(image_by_key)))
                owners.append(owner)
                positions.append(position)
        order = np.argsort(np.array(images), kind="stable")
        _, first = np.unique(np.array(ids, np.uint64)[order], return_index=True)
        distinct = order[np.sort(first)]
        self.ids, image, self._owners, self._positions = (np.array(column)[distinct] for column in columns)
        self.starts = np.append(np.flatnonzero(np.diff(image, prepend=-1)), len(image))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.starts) - 1

    def hex_ids(self, rows: range) -> list[str]:
        """Returns the ids of some requests, as ``RankingRequest.id`` writes them."""
        return [f"{value:016x}" for value in self.ids[rows.start : rows.stop].tolist()]

    def read(self, rows: range) -> list[RankingRequest]:
        """Builds some requests."""
        requests, last, group = [], None, ()
        for row in rows:
            owner = int(self._owners[row])
            if owner != last:
                last, group = owner, self.groups[owner]
            requests.append(group[int(self._positions[row])])
        return requests


@dataclass(frozen=True)
class InferenceJob:
    """Requests for one model in one mode.

    Attributes:
        name: Name of its file, ``answers-NAME.jsonl``.
        tuned: Whether to load the adapter; False for the base model alone.
        mode: How to prompt the model.
        requests: Its requests.
        batch_size: Images per batch; all requests about an image are in the same batch.
        timed: Whether the model's time is stored; see ``eval.ranking.answers.read_speed``.
    """

    name: str
    tuned: bool
    mode: RankingMode
    requests: RequestTable
    batch_size: int
    timed: bool = False

    def batches(self) -> list[Batch]:
        """Cuts all requests into batches of whole images."""
        starts = np.append(self.requests.starts[: -1 : self.batch_size], len(self.requests)).tolist()
        rows = [range(start, stop) for start, stop in pairwise(starts)]
        return [Batch(self, fingerprint([self.tuned, asdict(self.mode), self.requests.hex_ids(r)]), r) for r in rows]


@dataclass(frozen=True)
class Batch:
    """The requests that a model answers together.

    Attributes:
        job: The job that it belongs to.
        key: Hash of everything but the models that its answers depend on.
        rows: Rows of its requests in the job's table.
        answered: Ids of the requests whose answers are on disk already.
    """

    job: InferenceJob
    key: str
    rows: range
    answered: frozenset[str] = frozenset()

    @property
    def ids(self) -> list[str]:
        """Ids of its requests."""
        return self.job.requests.hex_ids(self.rows)

    def read(self) -> list[RankingRequest]:
        """Builds its requests."""
        return self.job.requests.read(self.rows)
