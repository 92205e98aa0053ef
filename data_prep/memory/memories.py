"""The memories of images and of class names that queries are compared with, built or found in the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_prep.core.files import fingerprint, write_folder
from data_prep.core.records import Candidate, Sample
from data_prep.datasets import Dataset
from data_prep.datasets.shots import load_shots
from data_prep.embedding.encoder import Encoder, embed_images, embed_names
from data_prep.memory.index import kind_for
from data_prep.memory.memory import Entry, Memory
from data_prep.memory.search import fused_classes, nearest_classes, nearest_entries, to_candidates
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
    kind = kind_for(args.index, len(entries))
    how = {"flat": None, "hnsw": [args.hnsw.M, args.hnsw.ef_construction], "ivf": args.ivf.nlist}[kind]
    depends = [
        encoder.id,
        list(templates),
        list(texts),
        [[e.label, e.modality, e.key, e.digest] for e in entries],
        kind,
        how,
    ]
    folder = cache / f"memory-{fingerprint(depends)}"
    if not (folder / "manifest.json").exists():
        metadata = {"encoder_facts": encoder.metadata, "templates": list(templates)}
        made = Memory.build(vectors(), entries, encoder.id, args, metadata)
        with write_folder(folder) as part:  # whole: another command may build the same, with another graph
            made.save(part)
    return Memory.load(folder, encoder.id, args)


def image_memory(encoder: Encoder, samples: Sequence[Sample], args: RetrieverArgs, cache: Path) -> Memory:
    """A memory of images, built or found in the cache."""
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
) -> Memory:
    """A memory of class names, and of their synonyms where some are given, built or found in the cache.

    Args:
        encoder: Makes the vectors.
        labels: The classes.
        names: Class names by label, each class's own.
        args: Templates and index.
        cache: Folder of caches.
        synonyms: Other names by label.
        texts: What is embedded in place of each name; by default the name. Where names are numbered because several
            classes have one, the number says nothing of what is seen.
    """
    embedded: list[tuple[Entry, str]] = []
    for label in labels:
        embedded.append((Entry(label, "name", names[label]), (texts or names)[label]))
        embedded += [(Entry(label, "name", other), other) for other in (synonyms or {}).get(label, ())]
    entries, shown = [entry for entry, _ in embedded], [text for _, text in embedded]
    return _cached_memory(
        cache, encoder, entries, shown, args.templates, lambda: embed_names(encoder, shown, args, cache), args
    )


@dataclass(frozen=True)
class Memories:
    """What a query is compared with; an absent modality is None.

    Attributes:
        images: Memory of images.
        names: Memory of names.
    """

    images: Memory | None
    names: Memory | None

    def candidates(
        self,
        source: str,
        xq: np.ndarray,
        k: int,
        args: RetrieverArgs,
        names: Sequence[str],
        exclude: Sequence[str] | None = None,
    ) -> list[tuple[Candidate, ...]]:
        """The k best distinct classes by one source; with ``retriever.candidate_unit=image`` the classes of the k best entries.

        Args:
            source: ``image``, ``name``, or ``fused``.
            xq: Unit queries of shape ``[nq, d]``.
            k: Distinct classes.
            args: Pool, fusion weight, unit and aggregation.
            names: Class names by label.
            exclude: Content digests whose images do not count, one per query.
        """
        if source == "fused":
            found = fused_classes(
                self.images,
                self.names,
                xq,
                k,
                args.initial_fetch,
                args.text_weight,
                exclude,
                args.aggregate,
                args.top_m,
            )
            return [to_candidates(scores, names) for scores in found]
        memory = self.images if source == "image" else self.names
        if args.candidate_unit == "image":
            nearest = nearest_entries(memory, xq, k, args.initial_fetch, exclude)
            return [tuple(Candidate(label, names[label], score) for label, score in row) for row in nearest]
        found = nearest_classes(memory, xq, k, args.initial_fetch, exclude, args.aggregate, args.top_m)
        return [to_candidates(scores, names) for scores in found]


def with_templates(args: RetrieverArgs, dataset: Dataset) -> RetrieverArgs:
    """The settings with the data set's own templates where they name none, or with the bare name."""
    return replace(args, templates=list(args.templates) or list(dataset.templates) or ["{}"])


def load_memories(
    recipe: Recipe, encoder: Encoder, dataset: Dataset, part: str, shots: int | None, seed: int
) -> Memories:
    """The image and name memories of a part.

    Args:
        recipe: Retriever settings and cache.
        encoder: Makes the vectors.
        dataset: Holds the part.
        part: ``train``, ``val_memory`` or ``test_memory``.
        shots: Images per class; None for all, 0 for names alone.
        seed: Of the draw.
    """
    cache = Path(recipe.cache)
    samples = dataset.parts[part]
    if shots is not None and shots > 0:
        samples = load_shots(samples, shots, seed, recipe.data.draw, cache)
    args = with_templates(recipe.retriever, dataset)
    names = name_memory(encoder, dataset.labels(part), dataset.names, args, cache, texts=dataset.texts)
    images = None if shots == 0 else image_memory(encoder, samples, recipe.retriever, cache)
    return Memories(images, names)
