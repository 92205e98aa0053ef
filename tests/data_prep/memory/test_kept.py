"""A kept memory is the old one or the new one at any moment, changes follow one another, and damage is named."""

from __future__ import annotations

import os
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from data_prep.core.errors import UserError
from data_prep.core.files import file_lock
from data_prep.embedding.encoder import Encoder
from data_prep.memory import kept as kept_memory
from data_prep.memory.files import Entry
from data_prep.memory.kept import KeptMemory, memory_lock
from data_prep.memory.memory import Memory
from data_prep.settings import Recipe, RetrieverArgs


@pytest.fixture
def folder(tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kept memory of three classes with two images each. What takes long on loading it is made short."""

    def recipe_of(path: Path, settings: list[str]) -> Recipe:
        return Recipe("ranker", "run", re.search("^cache: (.*)", path.read_text(), re.M)[1])

    monkeypatch.setattr(kept_memory, "load_saved_recipe", recipe_of)
    monkeypatch.setattr(kept_memory, "load_encoder", lambda *_: encoder)
    create(tmp_path / "mem", encoder, 3)
    return tmp_path / "mem"


def create(folder: Path, encoder: Encoder, classes: int) -> KeptMemory:
    """Keeps a memory; the number of classes can be read from its images, its names and its recipe."""
    images = [Entry(label, "image", f"{label}-{n}") for label in range(classes) for n in range(2)]
    names = [Entry(label, "name", f"class {label}") for label in range(classes)]
    recipe = Recipe("ranker", "run", f"cache-{classes}", retriever=RetrieverArgs(templates=["{}"]))
    memories = (Memory.build(np.eye(len(own), 64, dtype=np.float32), own, encoder.id) for own in (images, names))
    return KeptMemory.create(folder, recipe, *memories)


def state(folder: Path) -> tuple[str, list[int], list[str]]:
    recipe, _, kept = KeptMemory.load(folder, [])
    return recipe.cache, kept.images.labels.tolist(), [entry.key for entry in kept.names.entries]


def add_class(folder: Path, name: str) -> None:
    with memory_lock(folder):
        _, _, kept = KeptMemory.load(folder, [])
        label = kept.new_label()
        kept.names.add(np.eye(1, 64, dtype=np.float32), [Entry(label, "name", name)])
        kept.images.add(np.eye(1, 64, dtype=np.float32), [Entry(label, "image", f"{label}-0")])
        kept.save()


class Killed(BaseException):
    """Ends the code as a kill would: nothing catches it."""


def kill_at(patched: pytest.MonkeyPatch, number: int) -> list[str]:
    """Ends the code before a rename or removal of a file, by its number from 0; returns what was done."""
    done: list[str] = []

    def counted(act):
        def wrapped(*arguments, **options):
            if len(done) == number:
                raise Killed
            done.append(act.__name__)
            return act(*arguments, **options)

        return wrapped

    patched.setattr(os, "replace", counted(os.replace))
    patched.setattr(Path, "unlink", counted(Path.unlink))
    return done


@pytest.mark.parametrize("change", ["build", "add"])
def test_killed_at_any_write_the_memory_is_the_old_one_or_the_new(folder, encoder, monkeypatch, change):
    shutil.copytree(folder, folder.with_name("before"))
    old, seen = state(folder), []
    for number in range(100):
        shutil.rmtree(folder)
        shutil.copytree(folder.with_name("before"), folder)
        with monkeypatch.context() as patched:
            done = kill_at(patched, number)
            try:
                create(folder, encoder, 5) if change == "build" else add_class(folder, "new")
                ended = True
            except Killed:
                ended = False
        seen.append(state(folder))
        if ended:
            break
    new = seen[-1]
    assert ended and new != old and done.count("replace") >= 5
    assert seen == [old] * seen.count(old) + [new] * seen.count(new)
    assert seen.count(old) >= 5 and seen.count(new) >= 3  # killed before the manifest is there, and in tidying up
    # What a killed command left is gone after the next.
    (folder / "images" / ".index.faiss.host-1-ab.part").write_text("half")
    (folder / "recipe-notes.yaml").write_text("the user's own")
    add_class(folder, "another")
    assert len(list(folder.rglob("*.part"))) == 0
    # Two folders, two files in each, manifest, recipe and lock, and what is not the commands'.
    assert len(list(folder.rglob("*"))) == 10 and (folder / "recipe-notes.yaml").exists()


def test_commands_that_change_a_memory_at_once_all_have_their_way(folder):
    threads = [threading.Thread(target=add_class, args=(folder, f"new {n}")) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _, labels, names = state(folder)
    assert set(names[3:]) == {f"new {n}" for n in range(4)}
    assert labels[6:] == [3, 4, 5, 6]


def test_a_reader_whose_files_another_command_replaces_reads_the_new_ones(folder, monkeypatch):
    check_kept = kept_memory.check_kept

    def while_another_adds(*arguments):
        monkeypatch.setattr(kept_memory, "check_kept", check_kept)
        add_class(folder, "new")
        check_kept(*arguments)

    monkeypatch.setattr(kept_memory, "check_kept", while_another_adds)
    assert state(folder)[2] == ["class 0", "class 1", "class 2", "new"]


def test_damage_of_any_file_is_named_and_a_copy_put_back_is_the_way_out(folder):
    shutil.copytree(folder, folder.with_name("copy"))
    before = state(folder)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".memory.lock"]
    assert len(files) == 6
    for path in files:
        whole = path.read_bytes()
        middle = len(whole) // 2
        for damaged in (whole[:middle], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], None):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            with pytest.raises(UserError, match=re.escape(str(path))) as caught:
                state(folder)
            assert f"put {folder} back from a copy" in str(caught.value) and "delete" not in str(caught.value)
        shutil.rmtree(folder)
        shutil.copytree(folder.with_name("copy"), folder)
        assert state(folder) == before


@pytest.mark.parametrize("key", ["next_id", "trained_on"])
def test_a_changed_digit_of_the_manifest_is_noticed(folder, key):
    path = folder / kept_memory.MANIFEST
    text = path.read_text()
    path.write_text(re.sub(rf'"{key}": \d', f'"{key}": 1', text))
    assert path.read_text() != text
    with pytest.raises(UserError, match=r"names/manifest\.json: damaged \(its checksum differs\); put .* back"):
        state(folder)


def test_built_again_over_a_damaged_one_it_is_whole(folder, encoder):
    (folder / kept_memory.MANIFEST).write_text("{}")
    create(folder, encoder, 3)
    assert state(folder)[1] == [0, 0, 1, 1, 2, 2]


def test_only_what_changed_is_written(folder):
    index = next((folder / "images").glob("index-*"))
    before = index.stat().st_mtime_ns
    with memory_lock(folder):
        _, _, kept = KeptMemory.load(folder, [])
        kept.names.remove(kept.names.ids_of(2))
        kept.save()
    assert index.stat().st_mtime_ns == before
    assert state(folder)[2] == ["class 0", "class 1"]


def test_a_name_that_looks_like_another_is_the_same_class(folder):
    _, _, kept = KeptMemory.load(folder, [])
    assert (kept.label_of("CLASS  1"), kept.label_of(" class 2\n"), kept.label_of("class 3")) == (1, 2, None)


def test_a_lock_that_is_held_is_waited_for_and_names_the_folder(folder, monkeypatch):
    monkeypatch.setattr(kept_memory, "locked", lambda path: file_lock(path, 0.05))
    with memory_lock(folder), pytest.raises(UserError, match=r"mem/memory: another command has been changing it"):
        add_class(folder, "new")
