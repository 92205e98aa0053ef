"""Shards with the names that break other readers."""

from __future__ import annotations

import pytest

from data_prep.core.files import file_hash
from data_prep.core.names import disambiguate
from data_prep.core.records import Candidate, RankingExample, Sample
from data_prep.mining.shards import write_shards

HARD = disambiguate(
    [
        "St. Mary's cross",
        "fess, azure",
        'the "Rock" [old]',
        "ツル目 (鶴)",
        "👩‍🔬 scientist",
        "x" * 300,
        "crane",
        "Crane",
        "it's a \\ {brace}",
    ]
)


def example_of(number: int) -> RankingExample:
    labels = [(number + i) % len(HARD) for i in range(5)]
    found = tuple(Candidate(label, HARD[label], 1 - i / 10, 1 - i / 7) for i, label in enumerate(labels))
    return RankingExample(f"key{number}-image", labels[number % 5], found)


@pytest.fixture
def shards(tmp_path, draw_picture):
    """Nine examples, every class at every place; the first two show the same picture."""
    folder = tmp_path / "shards"
    folder.mkdir()
    pairs = []
    for n in range(9):
        path = draw_picture(tmp_path / "images" / f"{n}.png", max(n, 1))
        pairs.append((example_of(n), Sample(f"key{n}", str(path), 0, file_hash(path))))
    metadata = {"part": "train", "dataset": "pets", "classes": len(HARD), "encoder": "", "counts": {}}
    write_shards(folder, pairs, 4, metadata)
    return folder
