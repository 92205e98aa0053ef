"""Subcommands of ``python -m data_prep.memory``: build, import, change, list, search and check memories on disk."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np

from data_prep.core.names import tidy
from data_prep.core.records import Sample, SpecialLabel
from data_prep.datasets import read_dataset
from data_prep.embedding.encoder import Encoder, embed_images, embed_names, embed_queries, load_encoder
from data_prep.memory.compare import main as compare
from data_prep.memory.import_index import import_memory
from data_prep.memory.memories import (
    Memories,
    image_memory,
    list_names,
    name_memory,
    unsearched_vectors,
    with_templates,
)
from data_prep.memory.memory import Entry, Memory
from data_prep.memory.recall import recall_against_exact
from data_prep.memory.stored import StoredMemory, count_classes, memory_lock
from data_prep.reading.dataset import PARTS, hash_images, sample_key
from data_prep.reading.finding import IMAGE_SUFFIXES, find_images, report_skipped
from data_prep.settings import RetrieverArgs, check
from data_prep.settings.loading import load_recipe
from data_prep.settings.modes import SOURCES
from data_prep.settings.validate import one_of

log = logging.getLogger(__name__)

_OPTIONS = {
    "build": {"part": "test_memory"},
    "import": {"index": "", "labels": "", "classnames": ""},
    "add": {"name": ""},
    "remove": {"name": ""},
    "list": {},
    "search": {"k": "5", "source": ""},
    "check": {"k": "5", "sample": "1000"},
    "compare": {},
}


def _build(folder: Path, options: dict[str, str], settings: list[str]) -> None:
    """Embeds a part of the recipe's data set into a new memory."""
    recipe = load_recipe(settings)
    one_of("part", options["part"], PARTS)
    encoder = load_encoder(recipe.retriever, recipe.trainer)
    dataset = read_dataset(recipe.data, Path(recipe.cache), (options["part"],))
    recipe.retriever = with_templates(recipe.retriever, dataset)  # saved in the memory's recipe, for later additions
    args, cache = recipe.retriever, Path(recipe.cache)
    images = image_memory(encoder, dataset.parts[options["part"]], args, cache)
    labels, texts, descriptions = dataset.labels(options["part"]), dataset.texts, dataset.descriptions
    if encoder.reads_texts:
        names = name_memory(encoder, labels, dataset.names, args, cache, texts=texts, descriptions=descriptions)
    else:
        names = list_names(images, labels, dataset.names, args)
        log.warning("memory: names are listed and not embedded, as %s embeds images alone", encoder.origin)
    _log_sizes(StoredMemory.create(folder, recipe, images, names))


def _log_sizes(stored: StoredMemory) -> None:
    for modality, memory in (("images", stored.images), ("names", stored.names)):
        log.info("memory: %d %s in %s (%s)", len(memory), modality, stored.folder / modality, memory.index.kind)


def _import(folder: Path, options: dict[str, str], settings: list[str]) -> None:
    """Imports a memory of RAR's released code."""
    for key in ("index", "labels"):
        check(bool(options[key]), f"give {key}=FILE")
    check(not folder.exists() or not any(folder.iterdir()), f"{folder}: exists; choose another folder")
    classnames = Path(options["classnames"]) if options["classnames"] else None
    index, labels = Path(options["index"]), Path(options["labels"])
    _log_sizes(import_memory(folder, load_recipe(settings), index, labels, classnames))


def _list_images(paths: list[str], cache: Path) -> list[Path]:
    """Returns the image files among some files and folders."""
    files: list[Path] = []
    for path in map(Path, paths):
        check(path.exists(), f"{path}: no such image or folder")
        if path.is_dir():
            listing = find_images(path)
            check(bool(listing.files), f"{path}: contains no images")
            report_skipped(listing.passed, cache)
            files += listing.files
        else:
            files.append(path)
    return files


def is_path(argument: str) -> bool:
    """Returns whether an argument is a file or folder, not a setting: it exists, or does not look like a setting."""
    key, equals, _ = argument.partition("=")
    looks_like_setting = equals and re.fullmatch(r"[a-z_0-9]+(\.[a-z_0-9]+)*", key)
    return not looks_like_setting or Path(argument).exists() or Path(argument).suffix.lower() in IMAGE_SUFFIXES


def _add(folder: Path, options: dict[str, str], arguments: list[str]) -> None:
    """Adds a class, or images to an existing class."""
    name = tidy(options["name"])
    check(bool(name), "give name=CLASS")
    with memory_lock(folder):
        recipe, encoder, stored = StoredMemory.load(folder, [a for a in arguments if not is_path(a)])
        args, cache = recipe.retriever, Path(recipe.cache)
        files = _list_images([argument for argument in arguments if is_path(argument)], cache)
        images, label = stored.images, stored.label_of(name)
        is_new_class = label is None
        if is_new_class:
            label = stored.new_label()
        known_digests = {images.entries[row].digest for row in images.rows(images.ids_of(label))}
        samples = []
        for path, digest in zip(files, hash_images(files, cache, recipe.data.on_error), strict=True):
            if digest is not None and digest not in known_digests:
                known_digests.add(digest)
                samples.append(Sample(sample_key(str(path)), str(path), label, digest))
        if is_new_class:
            check(encoder.reads_texts or bool(samples), f"give images of {name}: {encoder.origin} embeds images alone")
            stored.names.add(_name_vector(encoder, name, args, cache, images), [Entry(label, "name", name)])
        if samples:
            entries = [Entry(label, "image", s.key, s.digest) for s in samples]
            images.add(embed_images(encoder, samples, args, cache), entries)
        stored.save()
    skipped = len(files) - len(samples)
    if is_new_class:
        log.info("memory: new class %s", name)
    note = f"; {skipped} skipped or already in it" if skipped else ""
    log.info("memory: added %d images of %s%s", len(samples), name, note)


def _name_vector(encoder: Encoder, name: str, args: RetrieverArgs, cache: Path, images: Memory) -> np.ndarray:
    """Embeds a name, ``[1, d]``; a placeholder where the encoder embeds images alone."""
    return embed_names(encoder, [name], args, cache) if encoder.reads_texts else unsearched_vectors(1, images.dimension)


def _remove(folder: Path, options: dict[str, str], settings: list[str]) -> None:
    """Removes a class."""
    name = tidy(options["name"])
    check(bool(name), "give name=CLASS")
    with memory_lock(folder):
        _, _, stored = StoredMemory.load(folder, settings)
        label = stored.label_of(name)
        check(label is not None, f"{folder}: contains no class {name}")
        count = stored.images.remove(stored.images.ids_of(label))
        stored.names.remove(stored.names.ids_of(label))
        stored.save()
    log.info("memory: removed %s with %d images", name, count)


def _parse_count(options: dict[str, str], key: str) -> int:
    """Returns an option that is a whole number above 0."""
    value = options[key]
    check(value.isdecimal() and int(value) > 0, f"{key}={value}: give a whole number above 0")
    return int(value)


def _list(folder: Path, options: dict[str, str], settings: list[str]) -> None:
    """Prints the classes with their numbers of images, by name."""
    check(not settings, f"{' '.join(settings)}: list takes the folder alone")
    counts = count_classes(folder)
    for name, images in sorted(counts.items()):
        print(f"{images}\t{name}")
    log.info("memory: %d classes with %d images in %s", len(counts), sum(counts.values()), folder)


def _search(folder: Path, options: dict[str, str], arguments: list[str]) -> None:
    """Prints each image's most similar classes, with the retriever's scores."""
    k = _parse_count(options, "k")
    paths = [argument for argument in arguments if is_path(argument)]
    check(bool(paths), "give images, or folders of them, to search for")
    recipe, encoder, stored = StoredMemory.load(folder, [a for a in arguments if not is_path(a)])
    args, cache = recipe.retriever, Path(recipe.cache)
    check(len(stored.names) > 0, f"{folder}: a memory without classes; add some (python -m data_prep.memory add)")
    usual = ("fused" if encoder.reads_texts else "image") if len(stored.images) else "name"
    source = options["source"] or usual
    one_of("source", source, SOURCES)
    check(source == "image" or encoder.reads_texts, f"source={source}: {encoder.origin} embeds images alone")
    check(source == "name" or len(stored.images) > 0, f"source={source}: {folder} has no images; give source=name")
    files = _list_images(paths, cache)
    digests = hash_images(files, cache, recipe.data.on_error)
    samples = [
        Sample(sample_key(str(file)), str(file), SpecialLabel.UNLABELLED, digest)
        for file, digest in zip(files, digests, strict=True)
        if digest is not None
    ]
    check(bool(samples), "none of these can be shown as an image")
    xq = embed_queries(encoder, samples, args, cache)
    memories = Memories(stored.images or None, stored.names)
    scores, labels = memories.search(source, xq, min(k, len(stored.names)), args)
    names = {entry.label: entry.key for entry in reversed(stored.names.entries)}
    for sample, row_scores, row_labels in zip(samples, scores, labels, strict=True):
        found = [
            f"{names[label]} {score:.3f}"
            for label, score in zip(row_labels.tolist(), row_scores.tolist(), strict=True)
            if label in names
        ]
        print(f"{sample.path}: {', '.join(found)}")


def _check(folder: Path, options: dict[str, str], settings: list[str]) -> None:
    """Verifies checksums, and prints the recall of each index against exact search."""
    _, encoder, stored = StoredMemory.load(folder, settings)
    k, sample = _parse_count(options, "k"), _parse_count(options, "sample")
    searched = {"images": stored.images} | ({"names": stored.names} if encoder.reads_texts else {})
    for modality, memory in searched.items():
        metrics = recall_against_exact(memory, k, sample)
        print(
            f"{modality}: {len(memory)} entries, {memory.index.kind}: "
            f"recall@{k} {metrics['recall']:.4f} against exact, "
            f"{metrics['queries_per_s']:.0f} queries/s, exact {metrics['exact_queries_per_s']:.0f} queries/s"
        )


COMMANDS = {
    "build": _build,
    "import": _import,
    "add": _add,
    "remove": _remove,
    "list": _list,
    "search": _search,
    "check": _check,
    "compare": lambda model, options, words: compare([model.as_posix(), *words]),
}


def main(arguments: list[str]) -> None:
    """Parses the command line and runs the subcommand.

    Raises:
        UserError: The subcommand or folder is missing or wrong, or the subcommand fails.
    """
    is_known = len(arguments) >= 2 and arguments[0] in COMMANDS
    check(is_known, f"give {', '.join(COMMANDS)}, and a FOLDER, or compare and MODELS; see --help")
    check(not Path(arguments[1]).is_file(), f"{arguments[1]}: is a file; give the memory's folder")
    options = dict(_OPTIONS[arguments[0]])
    rest = []
    for argument in arguments[2:]:
        key, equals, value = argument.partition("=")
        if equals and key in options:
            options[key] = value
        else:
            rest.append(argument)
    COMMANDS[arguments[0]](Path(arguments[1]), options, rest)
