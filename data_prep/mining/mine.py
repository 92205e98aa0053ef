"""Ranking examples: what the retriever proposes for images whose class is known."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint, write_folder, write_text
from data_prep.core.progress import progress_bar
from data_prep.core.records import Candidate, RankingExample, Sample
from data_prep.datasets import Dataset
from data_prep.distributed.blockwise import search_blockwise
from data_prep.embedding.encoder import Encoder, embed_images
from data_prep.leakage.contamination import write_mined
from data_prep.memory.memories import Memories, with_templates
from data_prep.memory.memory import Memory
from data_prep.mining.examples import build_examples
from data_prep.mining.neighbours import Copies, NearCopies, Neighbours, group_copies, replace_digests
from data_prep.mining.shards import write_shards
from data_prep.settings import MiningArgs, RetrieverArgs

log = logging.getLogger(__name__)

_VERSION = 3  # of the examples and their files: raise it when either changes
_CUTS = (1, 3, 5, 10, 20, 50)

# What decides the examples of a part beside its data, encoder and memories.
_SETTINGS = (
    "k",
    "k_max",
    "candidate_unit",
    "construction",
    "retrieved",
    "num_easy_negatives",
    "easy_negative_max_rank",
    "ground_truth",
    "none_of_these",
    "names",
    "images",
    "shard_size",
)


def _metadata(
    encoder: Encoder,
    dataset: Dataset,
    part: str,
    memories: Memories,
    leave_out: bool,
    retriever: RetrieverArgs,
    mining: MiningArgs,
) -> dict:
    """Everything that the examples depend on: the cache's key, and the head of the manifest."""
    held = [
        m and [m.encoder_id, [(e.label, e.key, e.digest) for e in m.entries]] for m in (memories.images, memories.names)
    ]
    # A setting that is not in use remakes nothing.
    unused = {"retrieved"} if mining.construction == "top_k" else set()
    unused |= set() if mining.num_easy_negatives else {"easy_negative_max_rank"}
    settings = {name: value for name, value in asdict(mining).items() if name in _SETTINGS and name not in unused}
    metadata = {
        "version": _VERSION,
        "part": part,
        "dataset": dataset.name,
        "classes": len(dataset.names),
        "encoder": encoder.id,
        "queries": fingerprint([[s.key, s.label, s.digest] for s in dataset.parts[part]]),
        "memory": fingerprint(held),
        "names": fingerprint([list(dataset.names), list(dataset.texts)]),
        "synonyms": fingerprint([[label, list(forms)] for label, forms in sorted(dataset.synonyms.items())]),
        "mining": settings,
        "sources": list(mining.sources),
        "leave_out": leave_out,
        "copies_above": mining.near_duplicate_threshold if leave_out else None,
        "templates": with_templates(retriever, dataset).templates,
        "pool": retriever.initial_fetch,
        "fusion": retriever.text_weight,
        "scores": [retriever.aggregate, retriever.top_m],
        "index": [retriever.index, asdict(retriever.hnsw), asdict(retriever.ivf)],
    }
    drawn = mining.k_max is not None or mining.num_easy_negatives or mining.names == "synonyms"
    metadata["seed"] = mining.seed if drawn else None  # without lots the seed remakes nothing
    if mining.images == "paths":
        metadata["paths"] = fingerprint([sample.path for sample in dataset.parts[part]])
    return metadata


def mine(
    encoder: Encoder,
    dataset: Dataset,
    part: str,
    memories: Memories,
    leave_out: bool,
    retriever: RetrieverArgs,
    mining: MiningArgs,
    cache: Path,
    processes: int = 1,
) -> Path:
    """Mines a part of a data set, or finds the result in the cache.

    Args:
        encoder: Embeds the queries.
        dataset: The labelled images.
        part: The queries; ``train`` or ``val``.
        memories: What candidates come from.
        leave_out: Whether a query's own picture and its copies are left out of the memory, as they
            must be where the part is its own memory.
        retriever: Search settings.
        mining: How examples are made.
        cache: Folder of caches.
        processes: That search; the result does not depend on it.

    Returns:
        Path: A folder of shards, with the mined contents and the copies that were found beside them.

    Raises:
        UserError: Nothing was kept of any image.
    """
    samples = dataset.parts[part]
    metadata = _metadata(encoder, dataset, part, memories, leave_out, retriever, mining)
    folder = cache / f"examples-{part}-{fingerprint(metadata)}"
    if folder.exists():
        log.info("mining: reusing %s", folder.name)
        return folder
    xq = embed_images(encoder, samples, retriever, cache)
    copies, exclude = None, None
    if leave_out:
        copies = _find_copies(samples, memories.images, xq, mining.near_duplicate_threshold, processes)
        memories = replace(memories, images=replace_digests(memories.images, copies.groups))
        exclude = [copies.groups[sample.digest] for sample in samples]
        log.info("mining: %s: %d equal, %d near copies left out", part, copies.equal, len(copies.near))
    counts: Counter = Counter()
    recall: dict[str, dict] = {}
    metadata |= {"skipped": dict(dataset.skipped), "counts": counts, "recall": recall}  # filled as examples are made
    search = replace(retriever, candidate_unit=mining.candidate_unit)
    searches = {
        source: Neighbours(memories, source, xq, mining.depth, search, dataset.names, exclude)
        for source in mining.sources
    }
    kept = _with_likeness(_examples(dataset, samples, searches, mining, processes, counts, recall), memories.names)
    first = next(kept, None)
    if first is None:
        raise UserError(
            f"mining {part}: no example was kept of {len(samples)} images ({dict(counts)}); "
            "raise mining.k, or set mining.ground_truth=insert"
        )
    with write_folder(folder) as place:
        metadata["mined"] = write_mined(place, (sample.digest for sample in samples))
        metadata["copies"] = _write_copies(place, copies)
        write_shards(place, chain([first], kept), mining.shard_size, metadata, mining.images)
    log.info("mining: %s: %s", part, ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())))
    return folder


def _find_copies(samples: Sequence[Sample], memory: Memory, xq: np.ndarray, above: float, processes: int) -> Copies:
    """Searches the memory for pictures of the samples; above 1 no similarity counts, equal bytes alone do."""
    near: list = [[] for _ in samples]
    if above <= 1:
        near = search_blockwise(NearCopies(memory, xq, above), len(xq), processes)
    return group_copies(samples, memory, near)


def _examples(
    dataset: Dataset,
    samples: Sequence[Sample],
    searches: dict[str, Neighbours],
    mining: MiningArgs,
    processes: int,
    counts: Counter,
    recall: dict[str, dict],
) -> Iterator[tuple[RankingExample, Sample]]:
    """Gives the examples that are kept, source by source; counts them and the dropped, and notes the recall."""
    for source, search in searches.items():
        by_query = search_blockwise(search, len(samples), processes)
        recall[source] = recall_at(samples, by_query, mining.depth)
        for sample, candidates in progress_bar("mining images", zip(samples, by_query, strict=True), len(samples)):
            key = f"{sample.key}-{source}"
            made = build_examples(key, sample.label, candidates, mining, dataset.names, dataset.synonyms)
            for example, reason in made:
                counts[reason] += 1
                if example:
                    yield example, sample


def _with_likeness(
    pairs: Iterator[tuple[RankingExample, Sample]], names: Memory
) -> Iterator[tuple[RankingExample, Sample]]:
    """Adds how like each candidate's name is to the true one, for graded targets."""
    vectors = names.vectors(np.arange(len(names.entries)))
    rows = {entry.label: place for place, entry in reversed(list(enumerate(names.entries)))}

    def likeness(candidate: Candidate, label: int) -> float | None:
        if candidate.label not in rows or label not in rows:
            return 0.0 if candidate.label < 0 else None
        return round(float(vectors[rows[candidate.label]] @ vectors[rows[label]]), 6)

    for example, sample in pairs:
        graded = tuple(replace(c, likeness=likeness(c, example.label)) for c in example.candidates)
        yield replace(example, candidates=graded), sample


def recall_at(samples: Sequence[Sample], found: Sequence[Sequence[Candidate]], depth: int) -> dict[str, float]:
    """The share of queries whose class is among the first so many neighbours, by their number."""
    places = []
    for sample, candidates in zip(samples, found, strict=True):
        labels = [candidate.label for candidate in candidates]
        places.append(labels.index(sample.label) if sample.label in labels else depth)
    cuts = sorted({cut for cut in _CUTS if cut <= depth} | {depth})
    return {str(cut): round(sum(place < cut for place in places) / len(places), 6) for cut in cuts}


def _write_copies(folder: Path, copies: Copies | None) -> dict:
    """Writes the pairs of near copies, and gives the manifest their counts."""
    if copies is None:
        return {}
    lines = [json.dumps({"key": one, "other": other, "similarity": round(s, 6)}) for one, other, s in copies.near]
    write_text(folder / "copies.jsonl", "".join(f"{line}\n" for line in lines))
    return {"equal": copies.equal, "near": len(copies.near), "conflicting_classes": copies.conflicting}
