"""Requests in batches of whole images: distinct, in the order of the images, and built only when they are read."""

from __future__ import annotations

import pickle
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from eval.ranking.batches import InferenceJob, LazyGroups, RequestTable
from eval.ranking.request import RankingMode, RankingRequest, shuffled_requests

NAMES = ("a", "b", "c")


def build_group(memories: list[tuple[int, int]], orders: int, index: int) -> list[RankingRequest]:
    """Builds the requests of an image and the first names that a memory proposes."""
    image, names = memories[index]
    return shuffled_requests(RankingRequest(f"image-{image}", f"{image}.png", NAMES[:names]), orders)


def make_groups(memories: list[tuple[int, int]], orders: int) -> LazyGroups:
    return LazyGroups(partial(build_group, memories, orders), len(memories))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3)), max_size=20), st.integers(1, 3), st.integers(1, 4))
def test_batches_hold_all_distinct_requests_of_whole_images_in_order(memories, orders, batch_size):
    groups = make_groups(memories, orders)
    requests = [request for group in groups for request in group]
    table = RequestTable(groups)
    images = list(dict.fromkeys(request.key for request in requests))
    assert table.images == len(images)
    batches = InferenceJob("one", False, RankingMode("letters"), table, batch_size).batches()
    read = [batch.read() for batch in batches]
    # Every image is in one batch, and batches take the images in the order in which they first occur.
    assert [list(dict.fromkeys(request.key for request in batch)) for batch in read] == [
        images[start : start + batch_size] for start in range(0, len(images), batch_size)
    ]
    by_image = {key: {r.id: r for r in requests if r.key == key} for key in images}
    assert [request for batch in read for request in batch] == [r for key in images for r in by_image[key].values()]
    assert [request.id for batch in read for request in batch] == [i for batch in batches for i in batch.ids]
    assert len({batch.key for batch in batches}) == len(batches)


def test_a_batch_has_the_same_key_and_requests_in_another_process():
    table = RequestTable(make_groups([(0, 2), (1, 3), (0, 3)], 2))
    job = InferenceJob("one", True, RankingMode("letters"), table, 2)
    copies = pickle.loads(pickle.dumps(job)).batches()
    assert [(batch.key, batch.read()) for batch in copies] == [(batch.key, batch.read()) for batch in job.batches()]


def test_only_the_requests_of_the_batch_that_is_read_are_built():
    built: list[int] = []

    def build(index: int) -> list[RankingRequest]:
        built.append(index)
        return build_group([(0, 2), (1, 3), (0, 3)], 3, index)

    table = RequestTable(LazyGroups(build, 3))
    first, _ = InferenceJob("one", True, RankingMode("letters"), table, 1).batches()
    built.clear()
    assert len(first.read()) == 6
    assert built == [0, 2]  # each group once
