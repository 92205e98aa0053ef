"""The classes that a recognizer knows: a memory to which classes can be added, and removed, while it is in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import RLock

import numpy as np
from PIL import Image

from data_prep.adapters.hyperparameters import Hyperparameters
from data_prep.adapters.sources import with_adapters
from data_prep.core.command import quiet_calls
from data_prep.core.files import write_json
from data_prep.core.names import normalize_name
from data_prep.core.records import Candidate
from data_prep.embedding.base import Encoder
from data_prep.embedding.encoder import embed_names
from data_prep.embedding.image_inputs import ImageInput, OpenedImage, check_is_list, open_input
from data_prep.embedding.pair import Queries
from data_prep.memory.memories import (
    Memories,
    image_memory,
    list_names,
    name_memory,
    to_candidates,
    unsearched_vectors,
)
from data_prep.memory.memory import Entry, Memory
from data_prep.memory.stored import StoredMemory, memory_lock
from data_prep.reading.descriptions import FILE as DESCRIPTIONS
from data_prep.settings import Recipe, check
from data_prep.settings.evaluation import DEFAULT_K
from data_prep.settings.modes import ADAPTERS, CLIP_LORA, SOURCES
from data_prep.settings.validate import check_whole, one_of
from eval.recognition.tasks import find_similarities, nearest_exemplar
from eval.recognizer.class_lists import (
    Classes,
    ClassTexts,
    check_name,
    is_kept_memory,
    list_class_images,
    read_texts,
)
from eval.recognizer.new_images import (
    embed_new_images,
    embed_uncached,
    make_samples,
    normalize_vectors,
    query_uncached,
)


class ClassMemory:
    """A memory of classes' images and names, in which the retriever searches.

    Args:
        encoder: Embeds images and names.
        recipe: The retriever's settings, ``eval.candidates``, and the cache.
        classes: The path of a folder per class, a folder of splits or a table (whose training images are taken), a list
            of names, or a memory that ``data_prep.memory`` keeps (changes to this one do not change it); image files by
            class name; or names alone.
        texts: What the encoder reads of the classes. None: their names, and ``descriptions.json`` in the folder.
        lock: Held while the memory is searched or changed; by default its own.

    Attributes:
        descriptions: The first description of each class that has any, by its name, for the ranker's prompts.
        stored: The kept memory that it was opened from or saved to; changes are not written by themselves.

    Raises:
        UserError: There are no classes, another encoder made the kept memory, or an image is missing or does not
            decode; with ``data.on_error=skip`` it is left out and counted in the log.
    """

    def __init__(
        self,
        encoder: Encoder,
        recipe: Recipe,
        classes: Classes,
        texts: ClassTexts | None = None,
        lock: RLock | None = None,
    ):
        self.encoder, self.recipe, self.lock = encoder, recipe, lock or RLock()
        self._retriever = recipe.retriever
        self.stored: StoredMemory | None = None
        if is_kept_memory(classes):
            self._open(Path(str(classes)))
        else:
            self._build(classes, texts)

    def _open(self, folder: Path) -> None:
        """Opens a kept memory, which has no image files, only their vectors."""
        stored = self.stored = StoredMemory.open(folder, self.encoder, self._retriever)
        check(len(stored.names) > 0, f"{folder}: a memory without classes; add some (python -m data_prep.memory add)")
        name_by_label = {entry.label: entry.key for entry in reversed(stored.names.entries)}
        self._names = tuple(name_by_label.get(label, "") for label in range(max(name_by_label) + 1))
        self.memories = Memories(stored.images or None, stored.names)
        texts = read_texts(folder, self._names)
        self.descriptions = {name: given[0] for name, given in texts.descriptions.items()}
        self._paths: dict[str, str] = {}
        # Names that are added later are embedded like those that are there.
        self._retriever = replace(self._retriever, templates=list(stored.names.metadata.get("templates", [])))

    def _build(self, classes: Classes, texts: ClassTexts | None) -> None:
        """Builds the memory of images and names, or loads it from the cache."""
        encoder, cache, retriever = self.encoder, Path(self.recipe.cache), self._retriever
        files_by_name = list_class_images(classes, self.recipe)
        self._names = tuple(files_by_name)  # by label, including classes that were removed
        samples = make_samples(
            [(i, file) for i, files in enumerate(files_by_name.values()) for file in files], self.recipe
        )
        texts = texts or read_texts(classes, self._names)
        read = [texts.names.get(name, name) for name in self._names]
        described = {i: texts.descriptions[name] for i, name in enumerate(self._names) if name in texts.descriptions}
        labels = range(len(self._names))
        images = image_memory(encoder, samples, retriever, cache) if samples else None
        if encoder.reads_texts:
            names = name_memory(encoder, labels, self._names, retriever, cache, texts=read, descriptions=described)
        else:
            without = sorted({name for name, files in files_by_name.items() if not files})
            check(images is not None and not without, f"{', '.join(without)}: no images, {self._images_alone}")
            names = list_names(images, labels, self._names, retriever)
        self.memories = Memories(images, names)
        self.descriptions = {name: given[0] for name, given in texts.descriptions.items()}
        self._paths = {sample.digest: sample.path for sample in samples}

    def save(self, folder: Path) -> None:
        """Writes the memory to a folder, which can be given as classes; images are kept as vectors alone.

        A memory that is there is replaced atomically.
        """
        with self.lock:
            folder.mkdir(parents=True, exist_ok=True)
            names = self._labels
            described = {name: text for name, text in self.descriptions.items() if name in names}
            write_json(folder / DESCRIPTIONS, described)
            recipe = replace(self.recipe, retriever=self._retriever)
            self.stored = StoredMemory.create(folder, recipe, self._stored_images(), self.memories.names)

    def save_changes(self) -> None:
        """Writes what was changed since the memory was opened or saved.

        Raises:
            UserError: Another command has changed the folder since, or it was never saved.
        """
        with self.lock:
            stored = self.stored
            check(stored is not None, "the memory has no folder yet; save it to one")
            with memory_lock(stored.folder):
                check(stored.is_current, f"{stored.folder}: was changed by another command; open it again")
                stored.images, stored.names = self._stored_images(), self.memories.names
                stored.save()

    @property
    def _images_alone(self) -> str:
        return f"and {self.encoder.origin} embeds images alone; give images of every class"

    @property
    def _searched(self) -> Memories:
        """The memories that are searched: without names where the encoder embeds images alone."""
        return self.memories if self.encoder.reads_texts else Memories(self.memories.images, None)

    def _stored_images(self) -> Memory:
        """Returns the memory of images; an empty one where there are none."""
        nothing = np.empty((0, self._image_dimension), np.float32)
        return self.memories.images or Memory.build(nothing, [], self.encoder.image_encoder.id, self._retriever)

    @property
    def _image_dimension(self) -> int:
        """The dimension of the vectors that are compared with images."""
        if self.memories.images:
            return self.memories.images.dimension
        if self.encoder.image_encoder is self.encoder.name_encoder:
            return self.memories.names.dimension
        return embed_uncached(self.encoder, [Image.new("RGB", (224, 224))], self.recipe).shape[1]

    @property
    def _labels(self) -> dict[str, int]:
        return {entry.key: entry.label for entry in self.memories.names.entries}

    @property
    def classes(self) -> dict[str, int]:
        """Number of images of each class, by its name."""
        with self.lock:
            images = self.memories.images
            return {name: len(images.ids_of(label)) if images else 0 for name, label in self._labels.items()}

    def reachable_source(self, wanted: str) -> str:
        """Returns the source of the candidates: the wanted one, where it reaches every class."""
        images = self.memories.images
        if not self.encoder.reads_texts:
            return "linear_probe" if wanted == "linear_probe" else "image"
        if images is None:
            return "name"
        # A class without images can be found by its name alone.
        all_have_images = np.isin(self.memories.names.labels, images.labels).all()
        return "fused" if wanted == "image" and not all_have_images else wanted

    @property
    def shots(self) -> float:
        """Mean number of images per class."""
        images = self.memories.images
        return len(images) / len(self.memories.names) if images else 0.0

    def candidates(
        self, xq: Queries, k: int, source: str, adapters: Mapping[str, Mapping[str, float]] | None = None
    ) -> tuple[list[tuple[Candidate, ...]], np.ndarray]:
        """Retrieves the k best classes for unit queries; never more than there are.

        Args:
            xq: Shape ``[nq, d]``, or those of each memory's encoder.
            k: Number of candidates.
            source: ``image``, ``name``, ``fused`` or an adapter, which is fitted to the memory at the first search
                after a change; ``name`` for a memory without images.
            adapters: Hyperparameters of adapters, by name; of one that is not there, those of its paper.

        Returns:
            tuple: Candidates per query, best first, and their similarities as ``find_similarities`` computes them.
        """
        args, count = self.recipe.retriever, min(k, len(self.memories.names))
        memories, source = self._searched, self.reachable_source(source)
        check(
            source != CLIP_LORA,
            "eval.candidates=clip_lora: its encoders belong to an evaluation's few-shot memories; set "
            "eval.candidates=auto, or use one as retriever.model=local-dir:RUN/draws/DRAW/model",
        )
        if source in ADAPTERS:
            settings = (adapters or {}).get(source) or Hyperparameters().of(source)
            memories = with_adapters(memories, {source: settings}, Path(self.recipe.cache))
        scores, labels = memories.search(source, xq, count, args)
        return to_candidates(scores, labels, self._names), find_similarities(memories, xq, labels, args, source)

    def search(
        self, images: Sequence[ImageInput | OpenedImage], k: int = DEFAULT_K, source: str | None = None
    ) -> list[tuple[Candidate, ...]]:
        """Finds the most similar classes by the retriever alone; no ranker is run.

        Args:
            images: As ``Recognizer.predict`` takes them.
            k: Number of classes; never more than there are.
            source: ``image``, ``name`` or ``fused``; None: ``fused`` where the classes have images, else ``name``.

        Returns:
            list[tuple[Candidate, ...]]: Candidates per image, best first, with the retriever's scores.

        Raises:
            UserError: An image is missing or does not decode, or an argument is out of range.
        """
        check_is_list(images)
        check_whole("k", k)
        one_of("source", source or "fused", SOURCES)
        opened = [open_input(image, f"image {index}").image for index, image in enumerate(images)]
        if not opened:
            return []
        with self.lock:
            return self.candidates(query_uncached(self.encoder, opened, self.recipe), k, source or "fused")[0]

    def examples(self, query: np.ndarray, candidates: Sequence[Candidate]) -> tuple[str | None, ...]:
        """Finds each candidate's image that is most similar to a unit query of shape ``[d]``; None if it has none."""
        memory = self.memories.images
        return tuple(nearest_exemplar(memory, self._paths, query, c.label) if memory else None for c in candidates)

    @quiet_calls()
    def add(self, name: str, images: Sequence[ImageInput | OpenedImage] = (), vectors: np.ndarray | None = None) -> int:
        """Adds a class, or images to an existing one; nothing is trained, and the other classes do not change.

        Args:
            name: The class's name.
            images: Files, which must not be moved or deleted later, or images in memory of any kind that ``predict``
                takes; without any a new class is found by its name alone.
            vectors: Embeddings of further images, made by the same encoder, shape ``[n, d]`` or ``[d]``; they need not
                be of unit length.

        Returns:
            int: Number of new images. Those that the class has already, byte for byte, are left out.

        Raises:
            UserError: There is no name, an image is missing or does not decode, or the vectors are not of the encoder's
                dimension, not finite or zero; nothing is added then.
        """
        name = check_name(name)
        check_is_list(images, f"class {name}: ")
        with self.lock:
            known_label, memory = self._find_label(name), self.memories.images
            label = len(self._names) if known_label is None else known_label
            known_digests: set[str] = set()
            if memory:
                known_digests = {memory.entries[row].digest for row in memory.rows(memory.ids_of(label))}
            dimension = self._image_dimension
            entries, xb, paths = embed_new_images(self.encoder, self.recipe, label, images, known_digests)
            self._paths |= paths
            if vectors is not None:
                own_entries, own = normalize_vectors(label, vectors, dimension, known_digests)
                entries, xb = entries + own_entries, np.concatenate([xb.reshape(-1, dimension), own])
            if known_label is None:
                if self.encoder.reads_texts:
                    name_vector = embed_names(self.encoder, [name], self._retriever, Path(self.recipe.cache))
                else:
                    check(bool(entries), f"class {name}: no images, {self._images_alone}")
                    name_vector = unsearched_vectors(1, dimension)
                self.memories.names.add(name_vector, [Entry(label, "name", name)])
                self._names += (name,)
            if entries and memory:
                memory.add(xb, entries)
            elif entries:
                memory = Memory.build(xb, entries, self.encoder.image_encoder.id, self._retriever)
            self.memories = Memories(memory, self.memories.names)
            return len(entries)

    def remove(self, name: str) -> int:
        """Removes a class.

        Returns:
            int: Number of its images.

        Raises:
            UserError: There is no such class, or it is the last.
        """
        with self.lock:
            label = self._find_label(name)
            check(label is not None, f"{name}: no such class")
            check(len(self.classes) > 1, f"{name} is the only class, and without any there is nothing to recognise")
            images, names = self.memories.images, self.memories.names
            removed = images.remove(images.ids_of(label)) if images else 0
            names.remove(names.ids_of(label))
            self.memories = Memories(images or None, names)
            return removed

    def find_name(self, name: str) -> str | None:
        """Finds a class's name as it is stored here, ignoring case, white space and Unicode form; None if unknown."""
        return next((known for known in self._labels if normalize_name(known) == normalize_name(name)), None)

    def _find_label(self, name: str) -> int | None:
        return self._labels.get(self.find_name(name))
