"""The classes that a recognizer knows: a memory that grows and shrinks while it is in use."""

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
from data_prep.reading.dataset import digests, sample_key
from data_prep.reading.finding import class_folders, find_pictures, report_passed
from data_prep.reading.tables import label_text
from data_prep.settings import Recipe, RetrieverArgs, check
from eval.ranking.ranker import Picture
from eval.ranking.request import open_request_image
from eval.recognition.tasks import nearest_exemplar

log = logging.getLogger(__name__)

Classes = str | Path | Sequence[str] | Mapping[str, Sequence[str | Path]]


def example_images(classes: Classes, cache: Path) -> dict[str, list[Path]]:
    """Image files by class name; spellings of a name that look the same are one class.

    Args:
        classes: A folder with a folder of images per class; names alone; or files by name.
        cache: Folder of caches, where what a folder holds besides is listed.

    Raises:
        UserError: There is no folder, or it holds no classes; a name is none, or its files are no list.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    if isinstance(classes, Mapping):
        for name, files in classes.items():
            listed = files is not None and not isinstance(files, str | Path)
            check(listed, f"class {name}: give its image files as a list, [] for none")
            found[_named(name)] += [Path(file) for file in files]
    elif isinstance(classes, str | Path):
        root = Path(classes)
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; give one with a folder of images per class")
        top = class_folders(root)
        splits, _ = find_splits(root, top.files)
        if splits:
            listed = ", ".join(folder.name for folder in splits)
            raise UserError(f"{root}: holds splits ({listed}), not classes; give one of them, such as {min(splits)}")
        passed = list(top.passed)
        for folder in top.files:
            inside = find_pictures(folder)
            if not inside.files:
                log.warning("%s: a class without images, which is found by its name alone", folder)
            found[tidy(label_text(folder.name, str(folder)))] += inside.files
            passed += inside.passed
        report_passed(passed, cache)
    else:
        for name in classes:
            found[_named(name)] += []
    if not found:
        raise UserError(f"{classes}: no classes; give names, or a folder with a folder of images per class")
    return _one_of_each_name(found)


def _named(name: str) -> str:
    """A class's name as it is held.

    Raises:
        UserError: It is no text, or shows nothing.
    """
    check(isinstance(name, str) and bool(normalize_name(name)), f"class {name!r}: a name is text, and shows something")
    return tidy(name)


def _one_of_each_name(found: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Joins classes whose names look alike (case, white space, Unicode form): no reply says which of them is meant."""
    shown: dict[str, str] = {}
    joined: dict[str, list[Path]] = {}
    for name, files in found.items():
        first = shown.setdefault(normalize_name(name), name)
        if first != name:
            log.warning("classes: %r looks like %r: one class", name, first)
        joined.setdefault(first, []).extend(files)
    return joined


def own_classes(recipe: Recipe) -> tuple[RetrieverArgs, dict[str, list[str]], dict[str, str]]:
    """The classes of a recipe's own test split, with the images that its evaluation draws first.

    Returns:
        tuple[RetrieverArgs, dict[str, list[str]], dict[str, str]]: The retriever's settings with the data set's
        templates; image files by class name, none where the evaluation has names alone; and what the encoder reads for
        each name.
    """
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("test_memory",))
    found: dict[str, list[str]] = {dataset.names[label]: [] for label in dataset.labels("test_memory")}
    args = recipe.eval
    if args.shots:
        pool, draw = dataset.parts["test_memory"], recipe.data.draw
        for sample in load_shots(pool, args.shots[0], args.seeds[0], draw, Path(recipe.cache)):
            found[dataset.names[sample.label]].append(sample.path)
    return with_templates(recipe.retriever, dataset), found, dict(zip(dataset.names, dataset.texts, strict=True))


@torch.inference_mode()
def embed_pictures(encoder: Encoder, images: Sequence[Picture], recipe: Recipe) -> np.ndarray:
    """Embeds images at once, without processes or a cache.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``.

    Raises:
        UserError: An image is missing or does not decode.
    """
    device = torch.device(resolve_accelerator(recipe.trainer))
    model = encoder.model.to(device)
    parts = []
    for start in range(0, len(images), recipe.retriever.batch_size):
        some = images[start : start + recipe.retriever.batch_size]
        pixels = [encoder.preprocess(open_request_image(image)) for image in some]
        vectors = model.encode_image(torch.stack(pixels).to(device, encoder.dtype))
        parts.append(F.normalize(vectors.float(), dim=-1).cpu())
    return torch.cat(parts).numpy()


class ClassMemory:
    """Images and names of classes, and what the retriever finds among them.

    Args:
        encoder: Embeds images and names.
        recipe: The retriever's settings, ``eval.candidates``, and the cache.
        classes: A folder with a folder of images per class, image files by class name, or names alone.
        texts: What the encoder reads for a name that is not listed as it is; see ``Dataset.texts``.

    Raises:
        UserError: There are no classes, or an image is missing or does not decode; with ``data.on_error=skip`` it is
            left out and counted in the log.
    """

    def __init__(self, encoder: Encoder, recipe: Recipe, classes: Classes, texts: Mapping[str, str] | None = None):
        self.encoder, self.recipe = encoder, recipe
        by_name = example_images(classes, Path(recipe.cache))
        cache, retriever = Path(recipe.cache), recipe.retriever
        self._names = tuple(by_name)  # by label, also of classes that were removed
        samples = self._samples([(label, file) for label, own in enumerate(by_name.values()) for file in own])
        shown = [(texts or {}).get(name, name) for name in self._names]
        names = name_memory(encoder, range(len(self._names)), self._names, retriever, cache, texts=shown)
        self.memories = Memories(image_memory(encoder, samples, retriever, cache) if samples else None, names)
        self._paths = {sample.digest: sample.path for sample in samples}

    @property
    def _labels(self) -> dict[str, int]:
        return {entry.key: entry.label for entry in self.memories.names.entries}

    @property
    def classes(self) -> dict[str, int]:
        """How many images each class has, by its name."""
        images = self.memories.images
        return {name: len(images.ids_of(label)) if images else 0 for name, label in self._labels.items()}

    @property
    def source(self) -> str:
        """What candidates come from: ``image``, ``name`` or ``fused``."""
        images, wanted = self.memories.images, self.recipe.eval.candidates
        if images is None:
            return "name"
        # A class without images can be found by its name alone.
        covered = np.isin(self.memories.names.labels, images.labels).all()
        return "fused" if wanted == "image" and not covered else wanted

    @property
    def shots(self) -> float:
        """Images per class."""
        images = self.memories.images
        return len(images) / len(self.memories.names) if images else 0.0

    def candidates(self, xq: np.ndarray, k: int) -> list[tuple[Candidate, ...]]:
        """The k best classes for unit queries of shape ``[nq, d]``; never more than there are."""
        count = min(k, len(self.memories.names))
        return self.memories.candidates(self.source, xq, count, self.recipe.retriever, self._names)

    def examples(self, query: np.ndarray, candidates: Sequence[Candidate]) -> tuple[str | None, ...]:
        """The image of each candidate that is most similar to a unit query of shape ``[d]``; None where it has none."""
        memory = self.memories.images
        return tuple(nearest_exemplar(memory, self._paths, query, c.label) if memory else None for c in candidates)

    def add(self, name: str, images: Sequence[str | Path] = ()) -> int:
        """Adds a class, or images to one that is there; nothing is trained, and the other classes stay as they are.

        Args:
            name: The class's.
            images: Files, which must stay where they are; without any a new class is found by its name alone.

        Returns:
            int: How many images are new. Those that the class has already, byte for byte, are left out.

        Raises:
            UserError: There is no name, or an image is missing or does not decode; nothing is added then.
        """
        name = _named(name)
        known = self._label_of(name)
        label = len(self._names) if known is None else known
        held, memory = set(), self.memories.images
        if memory:
            held = {memory.entries[row].digest for row in memory.rows(memory.ids_of(label))}
        read = {sample.digest: sample for sample in self._samples([(label, Path(file)) for file in images])}
        samples = [sample for digest, sample in read.items() if digest not in held]
        vectors = embed_pictures(self.encoder, [s.path for s in samples], self.recipe) if samples else None
        if known is None:
            unit = embed_names(self.encoder, [name], self.recipe.retriever, Path(self.recipe.cache))
            self.memories.names.add(unit, [Entry(label, "name", name)])
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
            int: How many images it had.

        Raises:
            UserError: There is no such class, or it is the last.
        """
        label = self._label_of(name)
        check(label is not None, f"{name}: no such class")
        check(len(self.classes) > 1, f"{name} is the only class, and without any there is nothing to recognise")
        images, names = self.memories.images, self.memories.names
        removed = images.remove(images.ids_of(label)) if images else 0
        names.remove(names.ids_of(label))
        self.memories = Memories(images or None, names)
        return removed

    def known_as(self, name: str) -> str | None:
        """The name that a class has here, however it is spelled in case, white space and Unicode form."""
        return next((held for held in self._labels if normalize_name(held) == normalize_name(name)), None)

    def _label_of(self, name: str) -> int | None:
        return self._labels.get(self.known_as(name))

    def _samples(self, files: Sequence[tuple[int, Path]]) -> list[Sample]:
        """Image files with their labels, as samples."""
        if not files:
            return []
        found = digests([file for _, file in files], Path(self.recipe.cache), self.recipe.data.on_error)
        return [
            Sample(sample_key(str(file)), str(file), label, digest)
            for (label, file), digest in zip(files, found, strict=True)
            if digest
        ]
