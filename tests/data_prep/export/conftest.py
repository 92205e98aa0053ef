"""Shards whose class names are difficult for parsers."""

from __future__ import annotations

import pytest

from data_prep.core.files import file_hash
from data_prep.core.names import disambiguate
from data_prep.core.records import Candidate, RankingExample, Sample
from data_prep.mining.shards import write_shards

DIFFICULT_NAMES = disambiguate(
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


def make_example(number: int) -> RankingExample:
    labels = [(number + i) % len(DIFFICULT_NAMES) for i in range(5)]
    candidates = tuple(
        Candidate(label, DIFFICULT_NAMES[label], 1 - i / 10, 1 - i / 7) for i, label in enumerate(labels)
    )
    return RankingExample(f"key{number}-image", labels[number % 5], candidates)


@pytest.fixture
def shards(tmp_path, draw_picture):
    """Nine examples with every class at every position; the first two have the same image."""
    folder = tmp_path / "shards"
    folder.mkdir()
    pairs = []
    for n in range(9):
        path = draw_picture(tmp_path / "images" / f"{n}.png", max(n, 1))
        pairs.append((make_example(n), Sample(f"key{n}", str(path), 0, file_hash(path))))
    metadata = {"part": "train", "dataset": "pets", "classes": len(DIFFICULT_NAMES), "encoder": "", "counts": {}}
    write_shards(folder, pairs, 4, metadata)
    return folder
