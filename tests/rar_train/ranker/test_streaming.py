"""Resampled streaming depends on seed, rank and position but not on workers, and reads only the examples it yields."""

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
    root = tmp_path_factory.mktemp("stream")
    pictures[0].save(root / "a.png")
    (root / "shards").mkdir()
    candidates = (Candidate(0, "a", 1.0), Candidate(1, "b", 0.5))
    sample = Sample("a", str(root / "a.png"), 0, "d")
    write_shards(root / "shards", [(RankingExample(f"key{n}", 0, candidates), sample) for n in range(30)], 6, {})
    return root / "shards"


def keys(batch) -> list[tuple[str, int]]:
    return [(example.key, draw) for (example, _), draw in batch]


def take(folder, count, rank=0, seed=0, start=0, workers=0) -> list[list[tuple[str, int]]]:
    batches = ResampledBatches(ShardStream(folder), 4, rank, seed, DataPosition(start))
    return list(islice(DataLoader(batches, batch_size=None, collate_fn=keys, num_workers=workers), count))


def test_the_stream_is_the_same_for_any_number_of_workers_and_resumes_from_a_position(folder):
    complete = take(folder, 20)
    assert take(folder, 20, workers=2) == complete
    assert take(folder, 13, start=7) == complete[7:]
    assert take(folder, 13, start=7, workers=2) == complete[7:]


def test_ranks_and_seeds_give_different_streams(folder):
    streams = [take(folder, 5), take(folder, 5, rank=1), take(folder, 5, seed=1)]
    assert all(streams[i] != streams[j] for i in range(3) for j in range(i))


def test_examples_come_about_equally_often_and_a_sampled_shard_is_read_completely(folder):
    rows = [row for batch in take(folder, 450) for row in batch]
    counts = Counter(key for key, _ in rows)
    assert len(counts) == 30 and max(counts.values()) < 3 * min(counts.values())
    assert max(Counter(rows).values()) == 1  # once in each draw of its shard
    by_draw = Counter(draw for _, draw in rows)
    assert sum(count == 6 for count in by_draw.values()) >= len(by_draw) - 4


def test_a_missing_file_next_to_the_shards_is_reported_at_once(tmp_path, pictures):
    pictures[0].save(tmp_path / "a.png")
    (tmp_path / "shards").mkdir()
    write_mined(tmp_path / "shards", ["d"])
    example = RankingExample("key", 0, (Candidate(0, "a", 1.0),))
    write_shards(tmp_path / "shards", [(example, Sample("a", str(tmp_path / "a.png"), 0, "d"))], 6, {})
    assert len(ShardStream(tmp_path / "shards")) == 1
    (tmp_path / "shards" / "mined.txt").unlink()
    with pytest.raises(UserError, match=r"mined\.txt: missing; delete .*shards to have it made again"):
        ShardStream(tmp_path / "shards")


def test_a_damaged_shard_is_reported_when_it_is_sampled(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "damaged")
    shard = tmp_path / "damaged" / "examples-000002.tar"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"examples-000002\.tar: damaged"):
        take(tmp_path / "damaged", 60)
