"""Resampled streaming: a function of seed, rank and position, whatever the workers, and it reads only what it gives."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
from torch.utils.data import DataLoader

from data_prep.core.errors import UserError
from data_prep.core.records import Candidate, RankingExample, Sample
from data_prep.leakage.contamination import write_mined
from data_prep.mining.shards import write_shards
from rar_train.engine.sampler import DataPosition
from rar_train.ranker.streaming import ResampledBatches, ShardStream


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures):
    """Thirty examples in shards of six."""
    place = tmp_path_factory.mktemp("stream")
    pictures[0].save(place / "a.png")
    (place / "shards").mkdir()
    found = (Candidate(0, "a", 1.0), Candidate(1, "b", 0.5))
    sample = Sample("a", str(place / "a.png"), 0, "d")
    write_shards(place / "shards", [(RankingExample(f"key{n}", 0, found), sample) for n in range(30)], 6, {})
    return place / "shards"


def keys(batch) -> list[tuple[str, int]]:
    return [(example.key, draw) for (example, _), draw in batch]


def taken(folder, count, rank=0, seed=0, start=0, workers=0) -> list[list[tuple[str, int]]]:
    batches = ResampledBatches(ShardStream(folder), 4, rank, seed, DataPosition(start))
    return list(islice(DataLoader(batches, batch_size=None, collate_fn=keys, num_workers=workers), count))


def test_the_stream_is_the_same_for_any_number_of_workers_and_goes_on_from_a_position(folder):
    whole = taken(folder, 20)
    assert taken(folder, 20, workers=2) == whole
    assert taken(folder, 13, start=7) == whole[7:]
    assert taken(folder, 13, start=7, workers=2) == whole[7:]


def test_ranks_and_seeds_draw_differently(folder):
    streams = [taken(folder, 5), taken(folder, 5, rank=1), taken(folder, 5, seed=1)]
    assert all(streams[i] != streams[j] for i in range(3) for j in range(i))


def test_every_example_comes_about_equally_often_and_a_drawn_shard_is_read_whole(folder):
    rows = [row for batch in taken(folder, 450) for row in batch]
    often = Counter(key for key, _ in rows)
    assert len(often) == 30 and max(often.values()) < 3 * min(often.values())
    assert max(Counter(rows).values()) == 1  # once in each draw of its shard
    by_draw = Counter(draw for _, draw in rows)
    assert sum(count == 6 for count in by_draw.values()) >= len(by_draw) - 4


def test_a_missing_file_beside_the_shards_is_named_at_once(tmp_path, pictures):
    pictures[0].save(tmp_path / "a.png")
    (tmp_path / "shards").mkdir()
    write_mined(tmp_path / "shards", ["d"])
    example = RankingExample("key", 0, (Candidate(0, "a", 1.0),))
    write_shards(tmp_path / "shards", [(example, Sample("a", str(tmp_path / "a.png"), 0, "d"))], 6, {})
    assert len(ShardStream(tmp_path / "shards")) == 1
    (tmp_path / "shards" / "mined.txt").unlink()
    with pytest.raises(UserError, match=r"mined\.txt: missing; delete .*shards to have it made again"):
        ShardStream(tmp_path / "shards")


def test_a_damaged_shard_is_named_when_it_is_drawn(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "damaged")
    shard = tmp_path / "damaged" / "examples-000002.tar"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"examples-000002\.tar: damaged"):
        taken(tmp_path / "damaged", 60)
