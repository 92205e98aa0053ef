"""The sub-commands of ``python -m data_prep.memory``: build, change and check memories kept as files."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from data_prep.core.names import tidy
from data_prep.core.records import Sample
from data_prep.datasets import read_dataset
from data_prep.embedding.encoder import embed_images, embed_names, load_encoder
from data_prep.memory.import_index import import_memory
from data_prep.memory.kept import KeptMemory, memory_lock
from data_prep.memory.memories import image_memory, name_memory, with_templates
from data_prep.memory.memory import Entry
from data_prep.memory.recall import recall_against_exact
from data_prep.reading.dataset import PARTS, digests, sample_key
from data_prep.reading.finding import IMAGE_SUFFIXES, find_pictures, report_passed
from data_prep.settings import check
from data_prep.settings.loading import load_recipe
from data_prep.settings.validate import one_of

log = logging.getLogger(__name__)

_OWN_KEYS = {
    "build": {"part": "test_memory"},
    "import": {"index": "", "labels": "", "classnames": ""},
    "add": {"name": ""},
    "remove": {"name": ""},
    "check": {"k": "5", "sample": "1000"},
}


def _build(folder: Path, own: dict[str, str], settings: list[str]) -> None:
    recipe = load_recipe(settings)
    one_of("part", own["part"], PARTS)
    encoder = load_encoder(recipe.retriever, recipe.trainer)
    dataset = read_dataset(recipe.data, Path(recipe.cache), (own["part"],))
    recipe.retriever = with_templates(recipe.retriever, dataset)  # kept in the memory's recipe, for what is added later
    args, cache = recipe.retriever, Path(recipe.cache)
    images = image_memory(encoder, dataset.parts[own["part"]], args, cache)
    names = name_memory(encoder, dataset.labels(own["part"]), dataset.names, args, cache, texts=dataset.texts)
    _say(KeptMemory.create(folder, recipe, images, names))


def _say(kept: KeptMemory) -> None:
    for what, memory in (("images", kept.images), ("names", kept.names)):
        log.info("memory: %d %s in %s (%s)", len(memory), what, kept.folder / what, memory.index.kind)


def _import(folder: Path, own: dict[str, str], settings: list[str]) -> None:
    for key in ("index", "labels"):
        check(bool(own[key]), f"give {key}=FILE")
    check(not folder.exists() or not any(folder.iterdir()), f"{folder}: exists; choose another folder")
    classnames = Path(own["classnames"]) if own["classnames"] else None
    _say(import_memory(folder, load_recipe(settings), Path(own["index"]), Path(own["labels"]), classnames))


def _files(places: list[str], cache: Path) -> list[Path]:
    """Image files, from files and folders."""
    files: list[Path] = []
    for place in map(Path, places):
        check(place.exists(), f"{place}: no such image or folder")
        if place.is_dir():
            found = find_pictures(place)
            check(bool(found.files), f"{place}: holds no images")
            report_passed(found.passed, cache)
            files += found.files
        else:
            files.append(place)
    return files


def _is_place(argument: str) -> bool:
    """Whether an argument is a file or folder rather than a setting: it is there, or looks like no setting."""
    key, equals, _ = argument.partition("=")
    setting = equals and re.fullmatch(r"[a-z_0-9]+(\.[a-z_0-9]+)*", key)
    return not setting or Path(argument).exists() or Path(argument).suffix.lower() in IMAGE_SUFFIXES


def _add(folder: Path, own: dict[str, str], arguments: list[str]) -> None:
    name = tidy(own["name"])
    check(bool(name), "give name=CLASS")
    with memory_lock(folder):
        recipe, encoder, kept = KeptMemory.load(folder, [a for a in arguments if not _is_place(a)])
        args, cache = recipe.retriever, Path(recipe.cache)
        files = _files([argument for argument in arguments if _is_place(argument)], cache)
        images, label = kept.images, kept.label_of(name)
        new = label is None
        if new:
            label = kept.new_label()
            kept.names.add(embed_names(encoder, [name], args, cache), [Entry(label, "name", name)])
        held = {images.entries[row].digest for row in images.rows(images.ids_of(label))}
        samples = []
        for path, digest in zip(files, digests(files, cache, recipe.data.on_error), strict=True):
            if digest is not None and digest not in held:
                held.add(digest)
                samples.append(Sample(sample_key(str(path)), str(path), label, digest))
        if samples:
            entries = [Entry(label, "image", s.key, s.digest) for s in samples]
            images.add(embed_images(encoder, samples, args, cache), entries)
        kept.save()
    left = len(files) - len(samples)
    if new:
        log.info("memory: new class %s", name)
    log.info("memory: added %d images of %s%s", len(samples), name, f"; {left} skipped or there already" * bool(left))


def _remove(folder: Path, own: dict[str, str], settings: list[str]) -> None:
    name = tidy(own["name"])
    check(bool(name), "give name=CLASS")
    with memory_lock(folder):
        _, _, kept = KeptMemory.load(folder, settings)
        label = kept.label_of(name)
        check(label is not None, f"{folder}: holds no class {name}")
        count = kept.images.remove(kept.images.ids_of(label))
        kept.names.remove(kept.names.ids_of(label))
        kept.save()
    log.info("memory: removed %s with %d images", name, count)


def _check(folder: Path, own: dict[str, str], settings: list[str]) -> None:
    _, _, kept = KeptMemory.load(folder, settings)
    k, sample = (int(own[key]) if own[key].isdecimal() and int(own[key]) else 0 for key in ("k", "sample"))
    check(k > 0 and sample > 0, f"k={own['k']} sample={own['sample']}: give whole numbers above 0")
    for what, memory in (("images", kept.images), ("names", kept.names)):
        metrics = recall_against_exact(memory, k, sample)
        print(
            f"{what}: {len(memory)} entries, {memory.index.kind}: recall@{k} {metrics['recall']:.4f} against exact, "
            f"{metrics['queries_per_s']:.0f} queries/s, exact {metrics['exact_queries_per_s']:.0f} queries/s"
        )


COMMANDS = {"build": _build, "import": _import, "add": _add, "remove": _remove, "check": _check}


def main(arguments: list[str]) -> None:
    """Reads the command line and does what it says."""
    known = len(arguments) >= 2 and arguments[0] in COMMANDS
    check(known, "give build, import, add, remove or check, and a FOLDER; see --help")
    check(not Path(arguments[1]).is_file(), f"{arguments[1]}: is a file; give the memory's folder")
    own = dict(_OWN_KEYS[arguments[0]])
    rest = []
    for argument in arguments[2:]:
        key, equals, value = argument.partition("=")
        if equals and key in own:
            own[key] = value
        else:
            rest.append(argument)
    COMMANDS[arguments[0]](Path(arguments[1]), own, rest)
