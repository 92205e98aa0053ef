"""Takes a memory of RAR's released code: a FAISS index, a list of labels, and a list of class names.

RAR's notebooks (``build_memory.ipynb`` in Few_shot and in Fine-Grained_Visual_Recognition) write an ``IndexHNSWFlat``
of vectors that were float16 and, in its order, lines of ``PATH LABEL``; the list of its aircraft has ``PATH {'label':
LABEL}``. ``classnames.txt`` names the classes by line. The pictures themselves are not needed.
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
from data_prep.memory.kept import KeptMemory
from data_prep.memory.memory import Memory
from data_prep.reading.dataset import sample_key
from data_prep.reading.listing import underscores_to_spaces
from data_prep.settings import Recipe, check

log = logging.getLogger(__name__)

FLOAT16 = 2**-10
"""How far float16 moves the length of a unit vector: half of it by the rounded norm, half by the rounded quotients."""

_NUMBER = r"\d{1,9}"
_LABELLED = re.compile(
    rf"(?P<path>.+?)\s+(?:(?P<label>{_NUMBER})|\{{\s*['\"]label['\"]\s*:\s*(?P<named>{_NUMBER})\s*(?:,.*)?\}})"
)


def unit_vectors(path: Path) -> np.ndarray:
    """The vectors of an index, normalised again in float32.

    Raises:
        UserError: The index cannot be read, or a vector is further from unit length than float16 leaves one.
    """
    vectors = stored_vectors(path)
    check(len(vectors) > 0, f"{path}: holds no vectors")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    off = ~(np.abs(norms[:, 0] - 1) <= FLOAT16)
    if off.any():
        place = int(np.flatnonzero(off)[0])
        raise UserError(
            f"{path}: {off.sum()} of {len(vectors)} vectors are not of unit length (vector {place}: "
            f"{norms[place, 0]:.4f}), so it is no memory of CLIP's unit vectors, or damaged"
        )
    return vectors / norms


def _lines(path: Path, what: str) -> list[str]:
    """The lines of a text file, without the empty ones at its end."""
    check(path.is_file(), f"{path}: no such file")
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError:
        raise UserError(
            f"{path}: no text; give the .txt with {what}. Pickles (.pth, .pkl) are not loaded, since they can run "
            "commands: write their lines to a text file where you trust them"
        ) from None
    return [line.strip() for line in lines]


def read_labels(path: Path) -> tuple[list[str], list[int]]:
    """The pictures' paths and labels, in the index's order.

    Raises:
        UserError: A line is none of the forms.
    """
    paths, labels = [], []
    for number, line in enumerate(_lines(path, "a line of PATH LABEL for each vector"), 1):
        found = _LABELLED.fullmatch(line)
        check(found is not None, f"{path}, line {number}: {line[:80]!r} is no PATH LABEL")
        paths.append(found["path"])
        labels.append(int(found["label"] or found["named"]))
    return paths, labels


def read_names(path: Path) -> list[str]:
    """The class names by label.

    Raises:
        UserError: A line is empty.
    """
    names = [tidy(underscores_to_spaces(line)) for line in _lines(path, "a class name for each label")]
    for number, name in enumerate(names, 1):
        check(bool(name), f"{path}, line {number}: empty; the class name of label {number - 1} is missing")
    return names


def names_by_folder(paths: list[str], labels: list[int]) -> list[str]:
    """The class names by label where the pictures of each class have a folder, such as ``003.Basset_Hound``.

    Raises:
        UserError: They have not, or a label is left out.
    """
    folders: dict[int, set[str]] = defaultdict(set)
    for path, label in zip(paths, labels, strict=True):
        folders[label].add(PurePosixPath(path).parent.name)
    every = max(labels) + 1 == len(folders)
    distinct = len(set().union(*folders.values()) - {""}) == len(folders) == sum(map(len, folders.values()))
    check(
        every and distinct, "the pictures' folders do not name the classes; give classnames=FILE, a class name a line"
    )
    return [underscores_to_spaces(re.sub(r"^\d+\.", "", next(iter(folders[label])))) for label in range(len(folders))]


def import_memory(
    folder: Path, recipe: Recipe, index: Path, labels: Path, classnames: Path | None = None
) -> KeptMemory:
    """Imports a memory into a folder that the memory's commands read.

    Args:
        folder: To write.
        recipe: Its retriever is the encoder that made the vectors, which only their dimension can confirm.
        index: FAISS's file.
        labels: The list of paths and labels.
        classnames: The list of class names; without one, the pictures' folders name the classes.

    Raises:
        UserError: A file is unreadable, they do not belong together, or the encoder makes vectors of another dimension.
    """
    paths, given = read_labels(labels)
    names = read_names(classnames) if classnames else names_by_folder(paths, given)
    beyond = next((n for n, label in enumerate(given, 1) if label >= len(names)), None)
    check(beyond is None, f"{labels}, line {beyond}: a label beyond the {len(names)} class names of {classnames}")
    vectors = unit_vectors(index)
    check(len(paths) == len(vectors), f"{labels}: {len(paths)} lines for the {len(vectors)} vectors of {index}")
    recipe.retriever.templates = recipe.retriever.templates or ["{}"]
    encoder = load_encoder(recipe.retriever, recipe.trainer)
    of_names = embed_names(encoder, names, recipe.retriever, Path(recipe.cache))
    if of_names.shape[1] != vectors.shape[1]:
        raise UserError(
            f"{index}: holds vectors of {vectors.shape[1]} numbers, but {encoder.id} makes {of_names.shape[1]}; "
            "give the one that made it (RAR's released ones: retriever.model=ViT-B-16 retriever.pretrained=openai)"
        )
    hits = np.mean(np.argmax(vectors @ of_names.T, axis=1) == np.array(given))
    log.info(
        "memory: %.1f %% of the images are nearest to their own class's name, %.1f %% would be by chance; about as few "
        "mean that another encoder made %s", 100 * hits, 100 / len(names), index,
    )  # fmt: skip
    source = {
        "index": index.name,
        "sha256": file_hash(index),
        "labels": labels.name,
        "labels_sha256": file_hash(labels),
    }
    metadata = {"encoder_facts": encoder.metadata, "imported": source}
    entries = [Entry(label, "image", sample_key(path)) for path, label in zip(paths, given, strict=True)]
    shown = [Entry(label, "name", name) for label, name in enumerate(disambiguate(names))]
    images = Memory.build(vectors, entries, encoder.id, recipe.retriever, metadata)
    named = Memory.build(
        of_names,
        shown,
        encoder.id,
        recipe.retriever,
        {"encoder_facts": encoder.metadata, "templates": recipe.retriever.templates},
    )
    return KeptMemory.create(folder, recipe, images, named)
