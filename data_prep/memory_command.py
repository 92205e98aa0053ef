"""What ``python -m data_prep.memory`` does: builds, changes and checks memories kept as files."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.datasets import read_dataset
from data_prep.datasets.dataset import PARTS, digests, key_of
from data_prep.datasets.folder import IMAGE_SUFFIXES
from data_prep.encoder import Encoder, embed_images, embed_names, load_encoder
from data_prep.errors import UserError
from data_prep.files import write_text
from data_prep.memories import image_memory, name_memory, prompted
from data_prep.memory import Entry, Memory
from data_prep.recipe import load_recipe, load_saved_recipe, recipe_yaml
from data_prep.records import Sample
from data_prep.settings import Recipe, check
from data_prep.settings.checks import one_of

log = logging.getLogger(__name__)

_OWN_KEYS = {
    "build": {"part": "test_memory"},
    "add": {"name": ""},
    "remove": {"name": ""},
    "check": {"k": "5", "sample": "1000"},
}


def recall_against_exact(memory: Memory, k: int, sample: int, seed: int = 0) -> dict[str, float]:
    """Compares an index with exact search; the queries are entries, each left out of its own result.

    Args:
        memory: What to check.
        k: Neighbours.
        sample: Entries to ask for, at most.
        seed: Draws them.

    Returns:
        dict[str, float]: ``recall``, the share of the k nearest that the index finds (of equally near ones any counts),
        and ``queries_per_s`` of the index and ``exact_queries_per_s``.
    """
    chosen = np.random.default_rng(seed).permutation(memory.ids)[:sample]
    xq = memory.vectors(chosen)
    start = time.perf_counter()
    scores, ids = memory.search(xq, k + 1)
    middle = time.perf_counter()
    exact_scores, exact_ids = memory.search(xq, k + 1, exact=True)
    end = time.perf_counter()
    hits = total = 0
    for own, found, near, truth, nearest in zip(chosen, ids, scores, exact_ids, exact_scores, strict=True):
        wanted = nearest[truth != own][:k]
        got = near[(found != own) & (found >= 0)][:k]
        hits += int((got >= wanted[-1] - 1e-6).sum()) if len(wanted) else 0
        total += len(wanted)
    return {
        "recall": hits / max(total, 1),
        "queries_per_s": len(chosen) / max(middle - start, 1e-9),
        "exact_queries_per_s": len(chosen) / max(end - middle, 1e-9),
    }


def _build(folder: Path, own: dict[str, str], settings: list[str]) -> None:
    recipe = load_recipe(settings)
    one_of("part", own["part"], PARTS)
    encoder = load_encoder(recipe.retriever, recipe.trainer)
    dataset = read_dataset(recipe.data, Path(recipe.cache), (own["part"],))
    recipe.retriever = prompted(recipe.retriever, dataset)  # kept in the memory's recipe, for what is added later
    args, cache = recipe.retriever, Path(recipe.cache)
    memories = {
        "images": image_memory(encoder, dataset.parts[own["part"]], args, cache),
        "names": name_memory(encoder, dataset.labels(own["part"]), dataset.names, args, cache),
    }
    for what, memory in memories.items():
        memory.save(folder / what)
        log.info("memory: %d %s in %s (%s)", len(memory), what, folder / what, memory.index.kind)
    write_text(folder / "recipe.yaml", recipe_yaml(recipe))


def _open(folder: Path, settings: list[str]) -> tuple[Recipe, Encoder, Memory, Memory]:
    """A memory that ``build`` made: its recipe, its encoder, images and names."""
    check((folder / "recipe.yaml").is_file(), f"{folder}: no memory there (no recipe.yaml); build one first")
    recipe = load_saved_recipe(folder / "recipe.yaml", settings)
    encoder = load_encoder(recipe.retriever, replace(recipe.trainer, num_nodes=1))
    images, names = (Memory.load(folder / what, encoder.id, recipe.retriever) for what in ("images", "names"))
    return recipe, encoder, images, names


def _label_of(names: Memory, name: str) -> int | None:
    return next((entry.label for entry in names.entries if entry.key == name), None)


def _files(places: list[str]) -> list[Path]:
    """Image files, from files and folders."""
    found: list[Path] = []
    for place in map(Path, places):
        check(place.exists(), f"{place}: no such image or folder")
        inside = (
            sorted(p for p in place.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if place.is_dir() else [place]
        )
        check(bool(inside), f"{place}: holds no images")
        found += inside
    return found


def _add(folder: Path, own: dict[str, str], arguments: list[str]) -> None:
    name = own["name"]
    check(bool(name), "give name=CLASS")
    settings = [argument for argument in arguments if "=" in argument]
    recipe, encoder, images, names = _open(folder, settings)
    args, cache = recipe.retriever, Path(recipe.cache)
    files = _files([argument for argument in arguments if "=" not in argument])
    label = _label_of(names, name)
    # The name first: a class with a name and no images yet is whole, images of a class without name are not.
    if label is None:
        label = 1 + max((int(memory.labels.max()) for memory in (images, names) if len(memory)), default=-1)
        names.add(embed_names(encoder, [name], args, cache), [Entry(label, "name", name)])
        names.save(folder / "names")
        log.info("memory: new class %s", name)
    held = {images.entries[row].digest for row in images.rows(images.ids_of(label))}
    samples = []
    for path, digest in zip(files, digests(files, cache, recipe.data.on_error), strict=True):
        if digest is not None and digest not in held:
            held.add(digest)
            samples.append(Sample(key_of(str(path)), str(path), label, digest))
    if samples:
        images.add(
            embed_images(encoder, samples, args, cache), [Entry(label, "image", s.key, s.digest) for s in samples]
        )
        images.save(folder / "images")
    left = len(files) - len(samples)
    log.info("memory: added %d images of %s%s", len(samples), name, f"; {left} skipped or there already" * bool(left))


def _remove(folder: Path, own: dict[str, str], settings: list[str]) -> None:
    name = own["name"]
    check(bool(name), "give name=CLASS")
    _, _, images, names = _open(folder, settings)
    label = _label_of(names, name)
    if label is None:
        raise UserError(f"{folder}: holds no class {name}")
    # The name last: killed between the two, the same command still knows which class is meant.
    count = images.remove(images.ids_of(label))
    images.save(folder / "images")
    names.remove(names.ids_of(label))
    names.save(folder / "names")
    log.info("memory: removed %s with %d images", name, count)


def _check(folder: Path, own: dict[str, str], settings: list[str]) -> None:
    _, _, images, names = _open(folder, settings)
    k, sample = (int(own[key]) if own[key].isdigit() and int(own[key]) else 0 for key in ("k", "sample"))
    check(k > 0 and sample > 0, f"k={own['k']} sample={own['sample']}: give whole numbers above 0")
    for what, memory in (("images", images), ("names", names)):
        figures = recall_against_exact(memory, k, sample)
        print(
            f"{what}: {len(memory)} entries, {memory.index.kind}: recall@{k} {figures['recall']:.4f} against exact, "
            f"{figures['queries_per_s']:.0f} queries/s, exact {figures['exact_queries_per_s']:.0f} queries/s"
        )


COMMANDS = {"build": _build, "add": _add, "remove": _remove, "check": _check}


def main(arguments: list[str]) -> None:
    """Reads the command line and does what it says."""
    check(
        len(arguments) >= 2 and arguments[0] in COMMANDS, "give build, add, remove or check, and a FOLDER; see --help"
    )
    own = dict(_OWN_KEYS[arguments[0]])
    rest = []
    for argument in arguments[2:]:
        key, equals, value = argument.partition("=")
        if equals and key in own:
            own[key] = value
        else:
            rest.append(argument)
    COMMANDS[arguments[0]](Path(arguments[1]), own, rest)
