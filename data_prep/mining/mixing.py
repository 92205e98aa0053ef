"""Mixes several mined data sets: each example is repeated, or sampled, by the weight of its data set."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.core.files import fingerprint, write_folder
from data_prep.core.records import RankingExample
from data_prep.core.rng import rng_for
from data_prep.leakage.contamination import read_mined, write_mined
from data_prep.mining.shards import ShardedExamples, read_example, read_image_bytes, write_parts
from data_prep.settings import MiningArgs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """A mined data set in a mix.

    Attributes:
        folder: Folder of its shards.
        weight: How often each example occurs in the mix, on average.
    """

    folder: Path
    weight: float


def count_repetitions(weight: float, seed: int, key: str) -> int:
    """Returns how often an example occurs: the weight rounded down or, with its fraction as probability, up."""
    floor = int(weight)
    return floor + bool(rng_for(seed, "mix", key).random() < weight - floor)


def mix(shares: Sequence[Share], mining: MiningArgs, cache: Path) -> Path:
    """Mixes mined data sets, or returns the mix from the cache.

    Labels of each data set continue those of the one before, and keys start with its index and name.

    Args:
        shares: The data sets; the folder of a single one with weight 1 is returned as it is.
        mining: Gives the seed and the size of shards.
        cache: Folder of caches.

    Returns:
        Path: A folder of shards.
    """
    if len(shares) == 1 and shares[0].weight == 1:
        return shares[0].folder
    parts = [[share.folder.name, share.weight] for share in shares]
    folder = cache / f"examples-mix-{fingerprint([parts, mining.seed, mining.shard_size])}"
    if folder.exists():
        log.info("mining: reusing %s", folder.name)
        return folder
    datasets = [ShardedExamples(share.folder) for share in shares]
    counts: dict[str, int] = {}
    metadata = {
        "part": "train",
        "dataset": "mix",
        "encoder": datasets[0].manifest["encoder"],
        "classes": sum(examples.manifest["classes"] for examples in datasets),
        "mix": [
            {"folder": share.folder.name, "dataset": examples.manifest["dataset"], "weight": share.weight}
            for share, examples in zip(shares, datasets, strict=True)
        ],
        "counts": counts,  # filled while the examples are written
    }
    with write_folder(folder) as unfinished:
        mined = set().union(*(read_mined(share.folder) for share in shares))
        metadata["mined"] = write_mined(unfinished, mined)
        write_parts(unfinished, _mix_examples(shares, datasets, mining.seed, counts), mining.shard_size, metadata)
    log.info("mining: mixed %s", ", ".join(f"{count} {name}" for name, count in counts.items()))
    return folder


def _mix_examples(
    shares: Sequence[Share], datasets: Sequence[ShardedExamples], seed: int, counts: dict[str, int]
) -> Iterator[tuple[RankingExample, str, bytes]]:
    """Yields each example as often as it occurs, with its image as suffix and bytes, and counts by data set."""
    offset = 0
    for index, (share, examples) in enumerate(zip(shares, datasets, strict=True)):
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", examples.manifest["dataset"])
        counts[f"from {name}"] = 0
        for line in examples.lines:
            example = read_example(examples.folder, line)
            shifted = tuple(replace(c, label=c.label + offset if c.label >= 0 else c.label) for c in example.candidates)
            for repetition in range(count_repetitions(share.weight, seed, f"{index}/{example.key}")):
                key = f"{index}-{name}-{example.key}" + (f"-again{repetition}" if repetition else "")
                counts[f"from {name}"] += 1
                suffix, data = _read_stored_image(examples.folder, line)
                yield RankingExample(key, example.label + offset, shifted), suffix, data
        offset += examples.manifest["classes"]


def _read_stored_image(folder: Path, line: dict) -> tuple[str, bytes]:
    """Reads the image as its shard stores it: the image's bytes, or its path and hash."""
    if line["suffix"] == "path":
        with open(folder / line["shard"], "rb") as file:
            offset, size = line["image"]
            file.seek(offset)
            return "path", file.read(size)
    return read_image_bytes(folder, line)
