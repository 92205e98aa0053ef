"""Ranking examples: what the retriever proposes for images whose class is known."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from data_prep.datasets import Dataset
from data_prep.encoder import Encoder, embed_images
from data_prep.errors import UserError
from data_prep.files import fingerprint, write_folder
from data_prep.memories import Memories
from data_prep.records import Candidate, RankingExample
from data_prep.settings import MiningArgs, RetrieverArgs
from data_prep.shards import write_shards

log = logging.getLogger(__name__)


def to_example(key: str, label: int, found: tuple[Candidate, ...], policy: str, names: Sequence[str]):
    """Applies the ground-truth policy.

    Returns:
        tuple[RankingExample | None, str]: The example or None, and the reason for the count.
    """
    example = RankingExample(key, label, found)
    if example.truth is not None:
        return example, "truth retrieved"
    if policy == "insert":
        inserted = (*found[:-1], Candidate(label, names[label], found[-1].score))
        return RankingExample(key, label, inserted), "truth inserted"
    return None, "dropped: truth not retrieved"


def mine(
    encoder: Encoder,
    dataset: Dataset,
    part: str,
    memories: Memories,
    leave_out: bool,
    retriever: RetrieverArgs,
    mining: MiningArgs,
    cache: Path,
) -> Path:
    """Mines a part of a data set, or finds the result in the cache.

    Args:
        encoder: Embeds the queries.
        dataset: The labelled images.
        part: The queries; ``tuning`` or ``development``.
        memories: What candidates come from.
        leave_out: Whether a query's own content is left out of the memory, as it must be where
            the part is its own memory.
        retriever: Search settings.
        mining: How examples are made.
        cache: Folder of caches.

    Returns:
        Path: A folder of shards.

    Raises:
        UserError: Nothing was retrieved for any image.
    """
    samples = dataset.parts[part]
    held = [
        m and [m.encoder_id, [(e.label, e.key, e.digest) for e in m.entries]] for m in (memories.images, memories.names)
    ]
    facts = {
        "part": part,
        "encoder": encoder.id,
        "queries": fingerprint([[s.key, s.label, s.digest] for s in samples]),
        "memory": fingerprint(held),
        "names": fingerprint(list(dataset.names)),
        "k": mining.k,
        "sources": list(mining.memories),
        "ground_truth": mining.ground_truth,
        "shard_size": mining.shard_size,
        "leave_out": leave_out,
        "templates": list(retriever.templates),
        "pool": retriever.pool,
        "fusion": retriever.fusion,
        "scores": [retriever.aggregate, retriever.top_m, retriever.unit],
        "index": [retriever.index, asdict(retriever.hnsw), asdict(retriever.ivf)],
    }
    folder = cache / f"examples-{part}-{fingerprint(facts)}"
    if folder.exists():
        log.info("mining: reusing %s", folder.name)
        return folder
    xq = embed_images(encoder, samples, retriever, cache)
    exclude = [s.digest for s in samples] if leave_out else None
    counts: Counter = Counter()
    kept: list[tuple[RankingExample, Path]] = []
    for source in mining.memories:
        found = memories.candidates(source, xq, mining.k, retriever, dataset.names, exclude)
        for sample, candidates in zip(samples, found, strict=True):
            if len(candidates) < 2:
                counts["dropped: fewer than two candidates"] += 1
                continue
            key = f"{sample.key}-{source}"
            example, reason = to_example(key, sample.label, candidates, mining.ground_truth, dataset.names)
            counts[reason] += 1
            if example:
                kept.append((example, Path(sample.path)))
    log.info("mining: %s: %s", part, ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())))
    if not kept:
        raise UserError(
            f"mining {part}: no example was kept of {len(samples)} images ({dict(counts)}); "
            "raise mining.k, or set mining.ground_truth=insert"
        )
    with write_folder(folder) as place:
        write_shards(place, kept, mining.shard_size, facts | {"counts": dict(counts)})
    return folder
