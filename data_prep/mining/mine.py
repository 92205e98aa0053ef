"""Mines ranking examples: retrieves candidates for labelled images and writes them into shards."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np

from data_prep.adapters.sources import with_adapters
from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint, write_folder, write_text
from data_prep.core.progress import progress_bar
from data_prep.core.recall import recall_at, true_ranks
from data_prep.core.records import Candidate, RankingExample, Sample
from data_prep.datasets import Dataset
from data_prep.distributed.blockwise import search_blockwise
from data_prep.embedding.encoder import Encoder, embed_queries
from data_prep.embedding.pair import for_images
from data_prep.leakage.contamination import write_mined
from data_prep.leakage.near_copies import Copies, NearCopies, group_copies
from data_prep.memory.memories import Memories, with_templates
from data_prep.memory.memory import Memory
from data_prep.mining.examples import build_examples
from data_prep.mining.neighbours import Neighbours
from data_prep.mining.shards import write_shards
from data_prep.settings import MiningArgs, RetrieverArgs

log = logging.getLogger(__name__)

_VERSION = 5  # of the examples and their files: raise it when either changes
_CUTOFFS = (1, 3, 5, 10, 20, 50)  # of recall

# Mining settings that the examples of a part depend on, in addition to its data, encoder and memories.
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


@dataclass(frozen=True)
class CandidatePool:
    """The memories that a part's candidates are retrieved from.

    Attributes:
        memories: Images and names.
        leave_out: Whether to exclude a query's own image and its copies from the search, as is necessary where the
            part is its own memory.
        adapters: Hyperparameters of the adapters that are sources, by name.
    """

    memories: Memories
    leave_out: bool
    adapters: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def _collect_metadata(
    encoder: Encoder,
    dataset: Dataset,
    part: str,
    pool: CandidatePool,
    retriever: RetrieverArgs,
    mining: MiningArgs,
) -> dict:
    """Collects everything that the examples depend on: the cache key, and the first keys of the manifest."""
    memories = (pool.memories.images, pool.memories.names)
    entries = [m and [m.encoder_id, [(e.label, e.key, e.digest) for e in m.entries]] for m in memories]
    # A change of a setting that has no effect must not change the cache key.
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
        "memory": fingerprint(entries),
        "names": fingerprint([list(dataset.names), list(dataset.texts)]),
        "synonyms": fingerprint([[label, list(forms)] for label, forms in sorted(dataset.synonyms.items())]),
        "mining": settings,
        "sources": list(mining.sources),
        "leave_out": pool.leave_out,
        "copies_above": mining.near_duplicate_threshold if pool.leave_out else None,
        "templates": with_templates(retriever, dataset).templates,
        "pool": retriever.initial_fetch,
        "fusion": retriever.text_weight,
        "scores": [retriever.aggregate, retriever.top_m],
        "index": [retriever.index, asdict(retriever.hnsw), asdict(retriever.ivf)],
    }
    uses_seed = mining.k_max is not None or mining.num_easy_negatives or mining.names == "synonyms"
    metadata["seed"] = mining.seed if uses_seed else None
    if pool.adapters:
        metadata["adapters"] = {name: dict(values) for name, values in sorted(pool.adapters.items())}
    if dataset.descriptions:
        first = [(label, texts[0]) for label, texts in sorted(dataset.descriptions.items())]  # prompts show no others
        metadata["descriptions"] = fingerprint(first)
    if mining.images == "paths":
        metadata["paths"] = fingerprint([sample.path for sample in dataset.parts[part]])
    return metadata


def mine(
    encoder: Encoder,
    dataset: Dataset,
    part: str,
    pool: CandidatePool,
    retriever: RetrieverArgs,
    mining: MiningArgs,
    cache: Path,
    processes: int = 1,
) -> Path:
    """Mines a part of a data set, or returns the result from the cache.

    Args:
        encoder: Embeds the queries.
        dataset: The labelled images.
        part: The queries; ``train`` or ``val``.
        pool: The memories to search.
        retriever: Search settings.
        mining: How examples are built.
        cache: Folder of caches.
        processes: Number of processes that search; the result does not depend on it.

    Returns:
        Path: A folder of shards, with the list of mined digests and the near-duplicates found.

    Raises:
        UserError: No example was kept.
    """
    samples = dataset.parts[part]
    metadata = _collect_metadata(encoder, dataset, part, pool, retriever, mining)
    folder = cache / f"examples-{part}-{fingerprint(metadata)}"
    if folder.exists():
        log.info("mining: reusing %s", folder.name)
        return folder
    xq = embed_queries(encoder, samples, retriever, cache)
    memories, copies, exclude = pool.memories, None, None
    if pool.leave_out:
        copies = _find_copies(samples, memories.images, for_images(xq), mining.near_duplicate_threshold, processes)
        memories = replace(memories, images=memories.images.with_digests(copies.groups))
        exclude = [copies.groups[sample.digest] for sample in samples]
        if copies.equal or copies.near:
            log.info(
                "mining: %s: an image's copies are not among its neighbours (of equal bytes: %d, pairs of "
                "near-duplicates: %d)", part, copies.equal, len(copies.near),
            )  # fmt: skip
    memories = with_adapters(memories, pool.adapters, cache)
    for adapter in memories.sources.values():
        adapter.prepare(memories, exclude)  # once, before several processes search
    counts: Counter = Counter()
    recall: dict[str, dict] = {}
    # Counts and recall are filled while the examples are built.
    metadata |= {"skipped": dict(dataset.skipped), "counts": counts, "recall": recall}
    search = replace(retriever, candidate_unit=mining.candidate_unit)
    searches = {
        source: Neighbours(memories, source, xq, mining.depth, search, dataset.names, exclude)
        for source in mining.sources
    }
    pairs = _mine_examples(dataset, samples, searches, mining, processes, counts, recall)
    pairs = _add_name_similarities(pairs, memories.names) if memories.names else pairs
    pairs = _add_descriptions(pairs, dataset.descriptions) if dataset.descriptions else pairs
    first = next(pairs, None)
    if first is None:
        raise UserError(
            f"mining {part}: no example was kept of {len(samples)} images ({dict(counts)}); "
            "raise mining.k, or set mining.ground_truth=insert"
        )
    with write_folder(folder) as unfinished:
        metadata["mined"] = write_mined(unfinished, (sample.digest for sample in samples))
        metadata["copies"] = _write_copies(unfinished, copies)
        write_shards(unfinished, chain([first], pairs), mining.shard_size, metadata, mining.images)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items(), key=_kept_first))
    log.info("mining: %s: of %d examples with %s candidates: %s", part, counts.total(), mining.k, reasons)
    return folder


def _kept_first(counted: tuple[str, int]) -> tuple[bool, str]:
    reason, _ = counted
    return reason.startswith("dropped"), reason


def _find_copies(samples: Sequence[Sample], memory: Memory, xq: np.ndarray, threshold: float, processes: int) -> Copies:
    """Searches the memory for copies of the samples; with a threshold above 1 only byte-identical images count."""
    near: list = [[] for _ in samples]
    if threshold <= 1:
        near = search_blockwise(NearCopies(memory, xq, threshold), len(xq), processes)
    return group_copies(samples, memory, near)


def _mine_examples(
    dataset: Dataset,
    samples: Sequence[Sample],
    searches: dict[str, Neighbours],
    mining: MiningArgs,
    processes: int,
    counts: Counter,
    recall: dict[str, dict],
) -> Iterator[tuple[RankingExample, Sample]]:
    """Yields the examples kept, source by source; counts kept and dropped ones, and records the recall."""
    for source, search in searches.items():
        by_query = search_blockwise(search, len(samples), processes)
        recall[source] = recall_by_k(samples, by_query, mining.depth)
        for sample, candidates in progress_bar("mining images", zip(samples, by_query, strict=True), len(samples)):
            key = f"{sample.key}-{source}"
            outcomes = build_examples(key, sample.label, candidates, mining, dataset.names, dataset.synonyms)
            for example, reason in outcomes:
                counts[reason] += 1
                if example:
                    yield example, sample


def _add_name_similarities(
    pairs: Iterator[tuple[RankingExample, Sample]], names: Memory
) -> Iterator[tuple[RankingExample, Sample]]:
    """Adds to each candidate the cosine similarity of its name to the true name, for graded targets."""
    vectors = names.vectors(np.arange(len(names.entries)))
    rows = {entry.label: row for row, entry in reversed(list(enumerate(names.entries)))}

    def similarity(candidate: Candidate, label: int) -> float | None:
        if candidate.label not in rows or label not in rows:
            return 0.0 if candidate.label < 0 else None
        return round(float(vectors[rows[candidate.label]] @ vectors[rows[label]]), 6)

    for example, sample in pairs:
        graded = tuple(replace(c, name_similarity=similarity(c, example.label)) for c in example.candidates)
        yield replace(example, candidates=graded), sample


def _add_descriptions(
    pairs: Iterator[tuple[RankingExample, Sample]], descriptions: Mapping[int, Sequence[str]]
) -> Iterator[tuple[RankingExample, Sample]]:
    """Adds to each candidate the first description of its class."""
    for example, sample in pairs:
        described = (replace(c, description=descriptions.get(c.label, ("",))[0]) for c in example.candidates)
        yield replace(example, candidates=tuple(described)), sample


def recall_by_k(samples: Sequence[Sample], retrieved: Sequence[Sequence[Candidate]], depth: int) -> dict[str, float]:
    """Computes recall at k: the share of queries whose class is among the first k candidates, 0 to 1, by k."""
    labels = [[candidate.label for candidate in candidates] for candidates in retrieved]
    ranks = true_ranks(labels, [sample.label for sample in samples], depth)
    cutoffs = sorted({cutoff for cutoff in _CUTOFFS if cutoff <= depth} | {depth})
    return {str(k): round(recall_at(ranks, k), 6) for k in cutoffs}


def _write_copies(folder: Path, copies: Copies | None) -> dict:
    """Writes the pairs of near-duplicates, and returns the counts for the manifest."""
    if copies is None:
        return {}
    lines = [json.dumps({"key": key, "other": other, "similarity": round(s, 6)}) for key, other, s in copies.near]
    write_text(folder / "copies.jsonl", "".join(f"{line}\n" for line in lines))
    return {"equal": copies.equal, "near": len(copies.near), "conflicting_classes": copies.conflicting}
