"""Several mined data sets in one: each example stands as often as its data set's weight says."""

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
        folder: Its shards.
        weight: How often each example stands in the mix, on average.
    """

    folder: Path
    weight: float


def repetitions(weight: float, seed: int, key: str) -> int:
    """How often an example stands: the weight's whole part, and once more by lot for the rest."""
    whole = int(weight)
    return whole + bool(rng_for(seed, "mix", key).random() < weight - whole)


def mix(shares: Sequence[Share], mining: MiningArgs, cache: Path) -> Path:
    """Mixes mined data sets, or finds the mix in the cache.

    Labels of each data set follow those of the one before, and keys carry its place and name.

    Args:
        shares: The data sets; one alone with weight 1 is given back as it is.
        mining: Seed and size of shards.
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
    opened = [ShardedExamples(share.folder) for share in shares]
    counts: dict[str, int] = {}
    metadata = {
        "part": "train",
        "dataset": "mix",
        "encoder": opened[0].manifest["encoder"],
        "classes": sum(one.manifest["classes"] for one in opened),
        "mix": [
            {"folder": share.folder.name, "dataset": one.manifest["dataset"], "weight": share.weight}
            for share, one in zip(shares, opened, strict=True)
        ],
        "counts": counts,  # filled as the examples are taken
    }
    with write_folder(folder) as place:
        mined = set().union(*(read_mined(share.folder) for share in shares))
        metadata["mined"] = write_mined(place, mined)
        write_parts(place, _mixed(shares, opened, mining.seed, counts), mining.shard_size, metadata)
    log.info("mining: mixed %s", ", ".join(f"{count} {name}" for name, count in counts.items()))
    return folder


def _mixed(
    shares: Sequence[Share], opened: Sequence[ShardedExamples], seed: int, counts: dict[str, int]
) -> Iterator[tuple[RankingExample, str, bytes]]:
    offset = 0
    for number, (share, one) in enumerate(zip(shares, opened, strict=True)):
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", one.manifest["dataset"])
        counts[f"from {name}"] = 0
        for line in one.lines:
            example = read_example(one.folder, line)
            moved = tuple(replace(c, label=c.label + offset if c.label >= 0 else c.label) for c in example.candidates)
            for again in range(repetitions(share.weight, seed, f"{number}/{example.key}")):
                key = f"{number}-{name}-{example.key}" + (f"-again{again}" if again else "")
                counts[f"from {name}"] += 1
                suffix, data = _image(one.folder, line)
                yield RankingExample(key, example.label + offset, moved), suffix, data
        offset += one.manifest["classes"]


def _image(folder: Path, line: dict) -> tuple[str, bytes]:
    """The image as its shard holds it: bytes, or path and hash."""
    if line["suffix"] == "path":
        with open(folder / line["shard"], "rb") as file:
            offset, size = line["image"]
            file.seek(offset)
            return "path", file.read(size)
    return read_image_bytes(folder, line)
