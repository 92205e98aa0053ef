"""The classes that a recognizer knows: a memory to which classes can be added, and removed, while it is in use."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data_prep.core.errors import UserError
from data_prep.core.names import normalize_name, tidy
from data_prep.core.records import Candidate, Sample
from data_prep.datasets import read_dataset
from data_prep.datasets.folder import find_splits
from data_prep.datasets.shots import load_shots
from data_prep.distributed.devices import resolve_accelerator
from data_prep.embedding.encoder import Encoder, embed_names
from data_prep.memory.memories import Memories, image_memory, name_memory, with_templates
from data_prep.memory.memory import Entry, Memory
from data_prep.reading.dataset import hash_images, sample_key
from data_prep.reading.finding import class_folders, find_images, report_skipped
from data_prep.reading.tables import label_text
from data_prep.settings import Recipe, RetrieverArgs, check
from eval.ranking.ranker import ImageInput
from eval.ranking.request import open_request_image
from eval.recognition.tasks import nearest_exemplar

log = logging.getLogger(__name__)

Classes = str | Path | Sequence[str] | Mapping[str, Sequence[str | Path]]


def list_class_images(classes: Classes, cache: Path) -> dict[str, list[Path]]:
    """Lists image files by class name; spellings of a name that look the same are one class.

    Args:
        classes: A folder with a folder of images per class; names alone; or files by name.
        cache: Folder of caches, where the files and folders that were passed over are listed.

    Raises:
        UserError: There is no folder, or it holds no classes; a name is not text, or its files are not a list.
    """
    files_by_name: dict[str, list[Path]] = defaultdict(list)
    if isinstance(classes, Mapping):
        for name, files in classes.items():
            is_list = files is not None and not isinstance(files, str | Path)
            check(is_list, f"class {name}: give its image files as a list, [] for none")
            files_by_name[_check_name(name)] += [Path(file) for file in files]
    elif isinstance(classes, str | Path):
        root = Path(classes)
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; give one with a folder of images per class")
        top = class_folders(root)
        splits, _ = find_splits(root, top.files)
        if splits:
            names = ", ".join(folder.name for folder in splits)
            raise UserError(f"{root}: holds splits ({names}), not classes; give one of them, such as {min(splits)}")
        passed = list(top.passed)
        for folder in top.files:
            images = find_images(folder)
            if not images.files:
                log.warning("%s: a class without images, which is found by its name alone", folder)
            files_by_name[tidy(label_text(folder.name, str(folder)))] += images.files
            passed += images.passed
        report_skipped(passed, cache)
    else:
        for name in classes:
            files_by_name[_check_name(name)] += []
    if not files_by_name:
        raise UserError(f"{classes}: no classes; give names, or a folder with a folder of images per class")
    return _merge_equal_names(files_by_name)


def _check_name(name: str) -> str:
    """Checks a class's name, and returns it without surplus white space and invisible characters.

    Raises:
        UserError: It is not a text, or has no visible character.
    """
    check(
        isinstance(name, str) and bool(normalize_name(name)), f"class {name!r}: a name is text with a visible character"
    )
    return tidy(name)


def _merge_equal_names(files_by_name: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Merges classes whose names differ in case, white space or Unicode form alone: a reply cannot tell them apart."""
    first_spellings: dict[str, str] = {}
    merged: dict[str, list[Path]] = {}
    for name, files in files_by_name.items():
        first = first_spellings.setdefault(normalize_name(name), name)
        if first != name:
            log.warning("classes: %r looks like %r: one class", name, first)
        merged.setdefault(first, []).extend(files)
    return merged


def read_test_classes(recipe: Recipe) -> tuple[RetrieverArgs, dict[str, list[str]], dict[str, str]]:
    """Reads the classes of a recipe's own test split, with the images of its evaluation's first shots and seed.

    Returns:
        tuple[RetrieverArgs, dict[str, list[str]], dict[str, str]]: The retriever's settings with the data set's
        templates; image files by class name, none where the evaluation has names alone; and what the encoder reads for
        each name.
    """
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("test_memory",))
    files: dict[str, list[str]] = {dataset.names[label]: [] for label in dataset.labels("test_memory")}
    args = recipe.eval
    if args.shots:
        pool, draw = dataset.parts["test_memory"], recipe.data.draw
        for sample in load_shots(pool, args.shots[0], args.seeds[0], draw, Path(recipe.cache)):
            files[dataset.names[sample.label]].append(sample.path)
    return with_templates(recipe.retriever, dataset), files, dict(zip(dataset.names, dataset.texts, strict=True))


@torch.inference_mode()
def embed_uncached(encoder: Encoder, images: Sequence[ImageInput], recipe: Recipe) -> np.ndarray:
    """Embeds images in this process, without a cache.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``.

    Raises:
        UserError: An image is missing or does not decode.
    """
    device = torch.device(resolve_accelerator(recipe.trainer))
    model = encoder.model.to(device)
    embeddings = []
    for start in range(0, len(images), recipe.retriever.batch_size):
        batch = images[start : start + recipe.retriever.batch_size]
        pixels = [encoder.preprocess(open_request_image(image)) for image in batch]
        vectors = model.encode_image(torch.stack(pixels).to(device, encoder.dtype))
        embeddings.append(F.normalize(vectors.float(), dim=-1).cpu())
    return torch.cat(embeddings).numpy()


class ClassMemory:
    """A memory of classes' images and names, in which the retriever searches.

    Args:
        encoder: Embeds images and names.
        recipe: The retriever's settings, ``eval.candidates``, and the cache.
        classes: A folder with a folder of images per class, image files by class name, or names alone.
        texts: What the encoder encodes in place of a name, by name; see ``Dataset.texts``.

    Raises:
        UserError: There are no classes, or an image is missing or does not decode; with ``data.on_error=skip`` it is
            left out and counted in the log.
    """

    def __init__(self, encoder: Encoder, recipe: Recipe, classes: Classes, texts: Mapping[str, str] | None = None):
        self.encoder, self.recipe = encoder, recipe
        files_by_name = list_class_images(classes, Path(recipe.cache))
        cache, retriever = Path(recipe.cache), recipe.retriever
        self._names = tuple(files_by_name)  # by label, including classes that were removed
        samples = self._make_samples([(i, file) for i, files in enumerate(files_by_name.values()) for file in files])
        name_texts = [(texts or {}).get(name, name) for name in self._names]
        names = name_memory(encoder, range(len(self._names)), self._names, retriever, cache, texts=name_texts)
        self.memories = Memories(image_memory(encoder, samples, retriever, cache) if samples else None, names)
        self._paths = {sample.digest: sample.path for sample in samples}

    @property
    def _labels(self) -> dict[str, int]:
        return {entry.key: entry.label for entry in self.memories.names.entries}

    @property
    def classes(self) -> dict[str, int]:
        """Number of images of each class, by its name."""
        images = self.memories.images
        return {name: len(images.ids_of(label)) if images else 0 for name, label in self._labels.items()}

    @property
    def source(self) -> str:
        """Source of the candidates: ``image``, ``name`` or ``fused``."""
        images, source = self.memories.images, self.recipe.eval.candidates
        if images is None:
            return "name"
        # A class without images can be found by its name alone.
        all_have_images = np.isin(self.memories.names.labels, images.labels).all()
        return "fused" if source == "image" and not all_have_images else source

    @property
    def shots(self) -> float:
        """Mean number of images per class."""
        images = self.memories.images
        return len(images) / len(self.memories.names) if images else 0.0

    def candidates(self, xq: np.ndarray, k: int) -> list[tuple[Candidate, ...]]:
        """Retrieves the k best classes for unit queries of shape ``[nq, d]``; never more than there are."""
        count = min(k, len(self.memories.names))
        return self.memories.candidates(self.source, xq, count, self.recipe.retriever, self._names)

    def examples(self, query: np.ndarray, candidates: Sequence[Candidate]) -> tuple[str | None, ...]:
        """Finds each candidate's image that is most similar to a unit query of shape ``[d]``; None if it has none."""
        memory = self.memories.images
        return tuple(nearest_exemplar(memory, self._paths, query, c.label) if memory else None for c in candidates)

    def add(self, name: str, images: Sequence[str | Path] = ()) -> int:
        """Adds a class, or images to an existing one; nothing is trained, and the other classes do not change.

        Args:
            name: The class's name.
            images: Files, which must not be moved or deleted later; without any a new class is found by its name alone.

        Returns:
            int: Number of new images. Those that the class has already, byte for byte, are left out.

        Raises:
            UserError: There is no name, or an image is missing or does not decode; nothing is added then.
        """
        name = _check_name(name)
        known_label = self._find_label(name)
        label = len(self._names) if known_label is None else known_label
        known_digests, memory = set(), self.memories.images
        if memory:
            known_digests = {memory.entries[row].digest for row in memory.rows(memory.ids_of(label))}
        by_digest = {sample.digest: sample for sample in self._make_samples([(label, Path(file)) for file in images])}
        samples = [sample for digest, sample in by_digest.items() if digest not in known_digests]
        vectors = embed_uncached(self.encoder, [s.path for s in samples], self.recipe) if samples else None
        if known_label is None:
            name_vector = embed_names(self.encoder, [name], self.recipe.retriever, Path(self.recipe.cache))
            self.memories.names.add(name_vector, [Entry(label, "name", name)])
            self._names += (name,)
        if samples:
            entries = [Entry(label, "image", sample.key, sample.digest) for sample in samples]
            if memory:
                memory.add(vectors, entries)
            else:
                memory = Memory.build(vectors, entries, self.encoder.id, self.recipe.retriever)
            self._paths |= {sample.digest: sample.path for sample in samples}
        self.memories = Memories(memory, self.memories.names)
        return len(samples)

    def remove(self, name: str) -> int:
        """Removes a class.

        Returns:
            int: Number of its images.

        Raises:
            UserError: There is no such class, or it is the last.
        """
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

    def _make_samples(self, files: Sequence[tuple[int, Path]]) -> list[Sample]:
        """Makes samples of image files and their labels; files that are skipped are left out."""
        if not files:
            return []
        file_digests = hash_images([file for _, file in files], Path(self.recipe.cache), self.recipe.data.on_error)
        return [
            Sample(sample_key(str(file)), str(file), label, digest)
            for (label, file), digest in zip(files, file_digests, strict=True)
            if digest
        ]
