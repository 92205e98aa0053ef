"""Image and name memories that queries are searched in, built or loaded from the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint, write_folder
from data_prep.core.records import Candidate, Sample
from data_prep.datasets import Dataset
from data_prep.datasets.shots import part_shots
from data_prep.embedding.encoder import Encoder, embed_images, embed_names
from data_prep.embedding.pair import Queries, for_images, for_names
from data_prep.memory.columns import Results
from data_prep.memory.fetching import nearest_entries
from data_prep.memory.index import kind_for
from data_prep.memory.memory import Entry, Memory
from data_prep.memory.options import SearchOptions
from data_prep.memory.search import class_scores, fused_classes, nearest_classes
from data_prep.settings import Recipe, RetrieverArgs


def _cached_memory(
    cache: Path,
    encoder: Encoder,
    entries: list[Entry],
    texts: Sequence[str],
    templates: Sequence[str],
    vectors: Callable[[], np.ndarray],
    args: RetrieverArgs,
) -> Memory:
    """Loads a memory from the cache, after building it where it is missing; ``vectors`` computes its embeddings."""
    kind = kind_for(args.index, len(entries))
    index_parameters = {"flat": None, "hnsw": [args.hnsw.M, args.hnsw.ef_construction], "ivf": args.ivf.nlist}[kind]
    dependencies = [
        encoder.id,
        list(templates),
        list(texts),
        [[e.label, e.modality, e.key, e.digest] for e in entries],
        kind,
        index_parameters,
    ]
    folder = cache / f"memory-{fingerprint(dependencies)}"
    if not (folder / "manifest.json").exists():
        metadata = {"encoder_facts": encoder.metadata, "templates": list(templates)}
        memory = Memory.build(vectors(), entries, encoder.id, args, metadata)
        with write_folder(folder) as part:  # atomic: another command may build the same memory, with another graph
            memory.save(part)
    return Memory.load(folder, encoder.id, args, encoder.processes.accelerator)


def image_memory(encoder: Encoder, samples: Sequence[Sample], args: RetrieverArgs, cache: Path) -> Memory:
    """Builds a memory of images, or loads it from the cache."""
    encoder = encoder.image_encoder
    entries = [Entry(s.label, "image", s.key, s.digest) for s in samples]
    return _cached_memory(cache, encoder, entries, (), (), lambda: embed_images(encoder, samples, args, cache), args)


def name_memory(
    encoder: Encoder,
    labels: Sequence[int],
    names: Sequence[str],
    args: RetrieverArgs,
    cache: Path,
    synonyms: Mapping[int, Sequence[str]] | None = None,
    texts: Sequence[str] | None = None,
    descriptions: Mapping[int, Sequence[str]] | None = None,
) -> Memory:
    """Builds a memory of class names and optional synonyms, or loads it from the cache.

    Args:
        encoder: Computes the embeddings.
        labels: The classes.
        names: Unique class names by label.
        args: Templates and index settings.
        cache: Cache folder.
        synonyms: Further names by label.
        texts: Texts to embed in place of the names, by label; by default the names. Where classes that share a name are
            numbered, the number is left out, since it says nothing about the class's appearance.
        descriptions: Texts averaged into a class's vector, by label; unused without ``args.descriptions``.
    """
    encoder = encoder.name_encoder
    embedded: list[tuple[Entry, str]] = []
    used = (descriptions or {}) if args.descriptions else {}
    for label in labels:
        digest = fingerprint(list(used[label])) if label in used else ""  # whatever depends on entries depends on it
        embedded.append((Entry(label, "name", names[label], digest), (texts or names)[label]))
        embedded += [(Entry(label, "name", synonym, digest), synonym) for synonym in (synonyms or {}).get(label, ())]
    entries, prompt_texts = [entry for entry, _ in embedded], [text for _, text in embedded]
    described = [used.get(entry.label, ()) for entry in entries]
    return _cached_memory(
        cache,
        encoder,
        entries,
        prompt_texts,
        args.templates,
        lambda: embed_names(encoder, prompt_texts, args, cache, described),
        args,
    )


def list_names(images: Memory, labels: Sequence[int], names: Sequence[str], args: RetrieverArgs) -> Memory:
    """Builds a memory of names that are listed and never searched, for an encoder that embeds images alone.

    Args:
        images: The classes' images.
        labels: The classes.
        names: Unique class names by label.
        args: Index settings.
    """
    entries = [Entry(label, "name", names[label]) for label in labels]
    return Memory.build(unsearched_vectors(len(entries), images.dimension), entries, images.encoder_id, args)


def unsearched_vectors(count: int, dimension: int) -> np.ndarray:
    """Returns unit vectors for names that are listed and never searched, shape ``[count, dimension]``."""
    return np.eye(1, dimension, dtype=np.float32).repeat(count, 0)


class Source(Protocol):
    """A further source of candidates, with scores of its own; arguments and results are as those of ``Memories``."""

    def search(self, memories: Memories, xq: Queries, k: int, exclude: Sequence[str] | None = None) -> Results:
        """Finds each query's k best distinct classes."""

    def scores(
        self, memories: Memories, xq: Queries, labels: np.ndarray, exclude: Sequence[str] | None = None
    ) -> np.ndarray:
        """Scores given classes."""

    def prepare(self, memories: Memories, exclude: Sequence[str] | None = None) -> None:
        """Computes what a search needs of the memories, so that processes that search find it in the cache."""


@dataclass(frozen=True)
class Memories:
    """The image and name memories that queries are searched in.

    Attributes:
        images: Memory of images, or None.
        names: Memory of names, or None.
        sources: Further sources of candidates, by name, such as classifiers fitted to the memories.

    Raises:
        UserError: One encoder embeds images and names in different dimensions.
    """

    images: Memory | None
    names: Memory | None
    sources: Mapping[str, Source] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.images or not self.names or self.images.encoder_id != self.names.encoder_id:
            return
        if self.images.dimension != self.names.dimension:
            raise UserError(
                f"encoder {self.images.encoder_id}: it embeds images in {self.images.dimension} dimensions, and texts "
                f"in {self.names.dimension}; they must be in one space"
            )

    def search(
        self, source: str, xq: Queries, k: int, args: RetrieverArgs, exclude: Sequence[str] | None = None
    ) -> Results:
        """Retrieves each query's k best distinct classes from one source.

        With ``retriever.candidate_unit=image`` they are the classes of the k nearest entries, not necessarily distinct;
        fused candidates are always distinct.

        Args:
            source: ``image``, ``name``, ``fused``, or a key of ``sources``, whose candidates are always distinct.
            xq: Unit queries of shape ``[nq, d]``, or those of each memory's encoder.
            k: Number of candidates.
            args: ``initial_fetch``, ``text_weight``, ``candidate_unit``, ``aggregate`` and ``top_m``.
            exclude: A content digest per query; images with that digest are ignored.

        Returns:
            Results: Scores and labels, each ``[nq, k]``, best first; -inf and -1 where a query has fewer.
        """
        if source in self.sources:
            return self.sources[source].search(self, xq, k, exclude)
        options = SearchOptions(args.initial_fetch, exclude, args.aggregate, args.top_m)
        if source == "fused":
            return fused_classes(self.images, self.names, xq, k, args.text_weight, options)
        search = nearest_entries if args.candidate_unit == "image" else nearest_classes
        return search(*self._side(source, xq), k, options)

    def _side(self, source: str, xq: Queries) -> tuple[Memory, np.ndarray]:
        """Returns the memory of a source, and the queries that are compared with its entries."""
        return {"image": (self.images, for_images(xq)), "name": (self.names, for_names(xq))}[source]

    def scores(
        self,
        source: str,
        xq: Queries,
        labels: np.ndarray,
        args: RetrieverArgs,
        exclude: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Scores given classes by one source, for instance by their names where they were retrieved by images.

        Args:
            source: ``image``, ``name`` or a key of ``sources``; a fused score depends on the classes that it is
                standardised over.
            xq: Unit queries of shape ``[nq, d]``, or those of each memory's encoder.
            labels: Classes to score, shape ``[nq, k]``; -1 for none, as ``search`` returns them.
            args: ``aggregate`` and ``top_m``.
            exclude: A content digest per query; images with that digest are ignored.

        Returns:
            np.ndarray: Similarities, shape ``[nq, k]``; NaN where the class has no entry that is not ignored.
        """
        if source in self.sources:
            return self.sources[source].scores(self, xq, labels, exclude)
        options = SearchOptions(args.initial_fetch, exclude, args.aggregate, args.top_m)
        return class_scores(*self._side(source, xq), labels, options)

    def candidates(
        self,
        source: str,
        xq: Queries,
        k: int,
        args: RetrieverArgs,
        names: Sequence[str],
        exclude: Sequence[str] | None = None,
    ) -> list[tuple[Candidate, ...]]:
        """Retrieves candidates as ``search`` does, with the class names by label.

        Returns:
            list[tuple[Candidate, ...]]: Per query, the candidates, best first.
        """
        return to_candidates(*self.search(source, xq, k, args, exclude), names)


def to_candidates(scores: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[tuple[Candidate, ...]]:
    """Converts scores and labels, both ``[nq, k]``, to candidates with class names; a label -1 is none.

    Scores are rounded to six decimals, about as exact as sums in float32 are, so that files of them stay small.
    """
    rounded = np.round(scores.astype(np.float64), 6)
    return [
        tuple(Candidate(label, names[label], score) for label, score in zip(*row, strict=True) if label >= 0)
        for row in zip(labels.tolist(), rounded.tolist(), strict=True)
    ]


def with_templates(args: RetrieverArgs, dataset: Dataset) -> RetrieverArgs:
    """Returns the settings with templates filled in, where they have none: the data set's, or the bare name."""
    return replace(args, templates=list(args.templates) or list(dataset.templates) or ["{}"])


def load_memories(
    recipe: Recipe, encoder: Encoder, dataset: Dataset, part: str, shots: int | None, seed: int
) -> Memories:
    """Builds the image and name memories of a data set part, or loads them from the cache.

    Args:
        recipe: Retriever settings and cache folder.
        encoder: Computes the embeddings.
        dataset: Data set with the part.
        part: ``train``, ``val_memory`` or ``test_memory``.
        shots: Images per class; None for all, 0 for names only.
        seed: Random seed for sampling the shots.

    Returns:
        Memories: Without images for 0 shots, and without names where the encoder embeds images alone.
    """
    cache = Path(recipe.cache)
    samples = dataset.parts[part]
    if shots is not None and shots > 0:
        samples = part_shots(dataset, part, shots, seed, recipe.data.draw, cache)
    args = with_templates(recipe.retriever, dataset)
    images = None if shots == 0 else image_memory(encoder, samples, recipe.retriever, cache)
    if images is not None and not encoder.reads_texts:
        return Memories(images, None)
    labels, texts, descriptions = dataset.labels(part), dataset.texts, dataset.descriptions
    names = name_memory(encoder, labels, dataset.names, args, cache, texts=texts, descriptions=descriptions)
    return Memories(images, names)
