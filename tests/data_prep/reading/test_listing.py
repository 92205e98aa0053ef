"""Held-out validation images of a benchmark that has none: copies go with an image, and no class is left empty."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.records import Sample
from data_prep.reading.listing import _hold_out

SHARES = st.sampled_from([0.1, 0.25, 0.5, 0.9])


def make_samples(images: list[tuple[int, int]]) -> list[Sample]:
    """Images of a label and a content each."""
    return [Sample(str(index), str(index), label, str(content)) for index, (label, content) in enumerate(images)]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=30), SHARES, st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_copies_stay_together_and_every_class_keeps_training_images(images, share, seed):
    samples = make_samples(images)
    train, val = _hold_out(samples, share, seed)
    assert sorted([*train, *val], key=lambda s: int(s.key)) == samples
    assert not {s.digest for s in train} & {s.digest for s in val}
    assert {s.label for s in train} == {s.label for s in samples}


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), SHARES, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_without_copies_each_class_gives_its_share(labels, share, seed):
    samples = make_samples([(label, content) for content, label in enumerate(labels)])
    rng, expected = random.Random(seed), set()
    for label in dict.fromkeys(labels):
        items = [sample for sample in samples if sample.label == label]
        expected |= {s.key for s in rng.sample(items, min(max(1, round(share * len(items))), len(items) - 1))}
    assert {sample.key for sample in _hold_out(samples, share, seed)[1]} == expected
