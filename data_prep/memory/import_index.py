"""Imports a memory of RAR's released code: a FAISS index, a list of labels, and a list of class names.

RAR's notebooks (``build_memory.ipynb`` in Few_shot and in Fine-Grained_Visual_Recognition) write an ``IndexHNSWFlat``
of vectors rounded to float16 and, in the same order, lines of ``PATH LABEL``; the list of its aircraft data set has
``PATH {'label': LABEL}``. ``classnames.txt`` has one class name per line. The images themselves are not needed.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.core.names import disambiguate, tidy
from data_prep.embedding.encoder import embed_names, load_encoder
from data_prep.memory.faiss_vectors import stored_vectors
from data_prep.memory.files import Entry
from data_prep.memory.memory import Memory
from data_prep.memory.stored import StoredMemory
from data_prep.reading.dataset import sample_key
from data_prep.reading.listing import underscores_to_spaces
from data_prep.settings import Recipe, check

log = logging.getLogger(__name__)

FLOAT16 = 2**-10
"""Tolerance of a unit vector's length in float16: half of it for the rounded norm, half for the rounded quotients."""

_NUMBER = r"\d{1,9}"
_LABELLED = re.compile(
    rf"(?P<path>.+?)\s+(?:(?P<label>{_NUMBER})|\{{\s*['\"]label['\"]\s*:\s*(?P<named>{_NUMBER})\s*(?:,.*)?\}})"
)


def unit_vectors(path: Path) -> np.ndarray:
    """Reads the vectors of an index and normalises them again in float32.

    Raises:
        UserError: The index cannot be read, or a vector is further from unit length than float16 rounding explains.
    """
    vectors = stored_vectors(path)
    check(len(vectors) > 0, f"{path}: contains no vectors")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    off = ~(np.abs(norms[:, 0] - 1) <= FLOAT16)
    if off.any():
        first = int(np.flatnonzero(off)[0])
        raise UserError(
            f"{path}: {off.sum()} of {len(vectors)} vectors are not of unit length (vector {first}: "
            f"{norms[first, 0]:.4f}), so it is not a memory of CLIP's unit vectors, or it is damaged"
        )
    return vectors / norms


def _read_lines(path: Path, content: str) -> list[str]:
    """Reads the lines of a text file, without trailing empty ones; ``content`` describes them for the error."""
    check(path.is_file(), f"{path}: no such file")
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError:
        raise UserError(
            f"{path}: not a text file; give the .txt with {content}. Pickles (.pth, .pkl) are not loaded, since they "
            "can execute code: write their lines to a text file if you trust them"
        ) from None
    return [line.strip() for line in lines]


def read_labels(path: Path) -> tuple[list[str], list[int]]:
    """Reads the image paths and labels, in the index's order.

    Raises:
        UserError: A line has none of the known forms.
    """
    paths, labels = [], []
    for number, line in enumerate(_read_lines(path, "a line of PATH LABEL for each vector"), 1):
        match = _LABELLED.fullmatch(line)
        check(match is not None, f"{path}, line {number}: {line[:80]!r} is not PATH LABEL")
        paths.append(match["path"])
        labels.append(int(match["label"] or match["named"]))
    return paths, labels


def read_names(path: Path) -> list[str]:
    """Reads the class names by label.

    Raises:
        UserError: A line is empty.
    """
    names = [tidy(underscores_to_spaces(line)) for line in _read_lines(path, "a class name for each label")]
    for number, name in enumerate(names, 1):
        check(bool(name), f"{path}, line {number}: empty; the class name of label {number - 1} is missing")
    return names


def names_by_folder(paths: list[str], labels: list[int]) -> list[str]:
    """Returns the class names by label, from one folder of images per class, such as ``003.Basset_Hound``.

    Args:
        paths: Paths of the images.
        labels: Their labels.

    Raises:
        UserError: Classes and folders do not correspond, or a label has no images.
    """
    folders: dict[int, set[str]] = defaultdict(set)
    for path, label in zip(paths, labels, strict=True):
        folders[label].add(PurePosixPath(path).parent.name)
    is_complete = max(labels) + 1 == len(folders)
    is_one_to_one = len(set().union(*folders.values()) - {""}) == len(folders) == sum(map(len, folders.values()))
    check(
        is_complete and is_one_to_one,
        "the images' folders do not name the classes; give classnames=FILE with one class name per line",
    )
    return [underscores_to_spaces(re.sub(r"^\d+\.", "", next(iter(folders[label])))) for label in range(len(folders))]


def import_memory(
    folder: Path, recipe: Recipe, index: Path, labels: Path, classnames: Path | None = None
) -> StoredMemory:
    """Imports a memory into a folder that the memory's commands read.

    Args:
        folder: Folder to write.
        recipe: Its retriever is the encoder that made the vectors; only their dimension is checked against it.
        index: The FAISS file.
        labels: The list of paths and labels.
        classnames: The list of class names; without one, the images' folders name the classes.

    Raises:
        UserError: A file is unreadable, the files do not belong together, or the encoder's dimension differs.
    """
    paths, class_labels = read_labels(labels)
    names = read_names(classnames) if classnames else names_by_folder(paths, class_labels)
    beyond = next((n for n, label in enumerate(class_labels, 1) if label >= len(names)), None)
    check(beyond is None, f"{labels}, line {beyond}: a label beyond the {len(names)} class names of {classnames}")
    vectors = unit_vectors(index)
    check(len(paths) == len(vectors), f"{labels}: {len(paths)} lines for the {len(vectors)} vectors of {index}")
    recipe.retriever.templates = recipe.retriever.templates or ["{}"]
    encoder = load_encoder(recipe.retriever, recipe.trainer)
    is_single = encoder.image_encoder is encoder.name_encoder
    check(is_single, "retriever.name_model: an imported memory's images and names are of one encoder; leave it out")
    name_vectors = embed_names(encoder, names, recipe.retriever, Path(recipe.cache))
    if name_vectors.shape[1] != vectors.shape[1]:
        raise UserError(
            f"{index}: its vectors have {vectors.shape[1]} dimensions, but those of {encoder.id} have "
            f"{name_vectors.shape[1]}; give the encoder that made it (for RAR's released ones: "
            "retriever.model=ViT-B-16 retriever.pretrained=openai)"
        )
    accuracy = np.mean(np.argmax(vectors @ name_vectors.T, axis=1) == np.array(class_labels))
    log.info(
        "memory: %.1f %% of the images are nearest to their own class's name (chance level %.1f %%); a value near "
        "chance level means that another encoder made %s", 100 * accuracy, 100 / len(names), index,
    )  # fmt: skip
    source = {
        "index": index.name,
        "sha256": file_hash(index),
        "labels": labels.name,
        "labels_sha256": file_hash(labels),
    }
    metadata = {"encoder_facts": encoder.metadata, "imported": source}
    entries = [Entry(label, "image", sample_key(path)) for path, label in zip(paths, class_labels, strict=True)]
    name_entries = [Entry(label, "name", name) for label, name in enumerate(disambiguate(names))]
    images = Memory.build(vectors, entries, encoder.id, recipe.retriever, metadata)
    name_memory = Memory.build(
        name_vectors,
        name_entries,
        encoder.id,
        recipe.retriever,
        {"encoder_facts": encoder.metadata, "templates": recipe.retriever.templates},
    )
    return StoredMemory.create(folder, recipe, images, name_memory)
