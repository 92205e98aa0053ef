"""Persistent memories: updates are atomic and run one after another, and damaged files are reported."""

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
from data_prep.memory import stored as stored_memory
from data_prep.memory.files import Entry
from data_prep.memory.memory import Memory
from data_prep.memory.stored import StoredMemory, memory_lock
from data_prep.settings import Recipe, RetrieverArgs


@pytest.fixture
def folder(tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A memory on disk of three classes with two images each; slow steps of loading are replaced."""

    def load_recipe(path: Path, settings: list[str]) -> Recipe:
        return Recipe("ranker", "run", re.search("^cache: (.*)", path.read_text(), re.M)[1])

    monkeypatch.setattr(stored_memory, "load_saved_recipe", load_recipe)
    monkeypatch.setattr(stored_memory, "load_encoder", lambda *_: encoder)
    create(tmp_path / "mem", encoder, 3)
    return tmp_path / "mem"


def create(folder: Path, encoder: Encoder, classes: int) -> StoredMemory:
    """Creates a memory whose images, names and recipe all show the number of classes."""
    images = [Entry(label, "image", f"{label}-{n}") for label in range(classes) for n in range(2)]
    names = [Entry(label, "name", f"class {label}") for label in range(classes)]
    recipe = Recipe("ranker", "run", f"cache-{classes}", retriever=RetrieverArgs(templates=["{}"]))
    memories = (
        Memory.build(np.eye(len(entries), 64, dtype=np.float32), entries, encoder.id) for entries in (images, names)
    )
    return StoredMemory.create(folder, recipe, *memories)


def state(folder: Path) -> tuple[str, list[int], list[str]]:
    recipe, _, stored = StoredMemory.load(folder, [])
    return recipe.cache, stored.images.labels.tolist(), [entry.key for entry in stored.names.entries]


def add_class(folder: Path, name: str) -> None:
    with memory_lock(folder):
        _, _, stored = StoredMemory.load(folder, [])
        label = stored.new_label()
        stored.names.add(np.eye(1, 64, dtype=np.float32), [Entry(label, "name", name)])
        stored.images.add(np.eye(1, 64, dtype=np.float32), [Entry(label, "image", f"{label}-0")])
        stored.save()


class Killed(BaseException):
    """Ends the code as a kill would: no handler catches it."""


def kill_at(patched: pytest.MonkeyPatch, number: int) -> list[str]:
    """Ends the code before its n-th rename or removal of a file, counted from 0; returns the names of those done."""
    done: list[str] = []

    def count_calls(function):
        def wrapped(*arguments, **options):
            if len(done) == number:
                raise Killed
            done.append(function.__name__)
            return function(*arguments, **options)

        return wrapped

    patched.setattr(os, "replace", count_calls(os.replace))
    patched.setattr(Path, "unlink", count_calls(Path.unlink))
    return done


@pytest.mark.parametrize("change", ["build", "add"])
def test_a_kill_before_any_file_operation_leaves_the_old_or_the_new_memory(folder, encoder, monkeypatch, change):
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
    assert seen.count(old) >= 5 and seen.count(new) >= 3  # killed before the manifest is written, and during clean-up
    # The next command removes what a killed one left.
    (folder / "images" / ".index.faiss.host-1-ab.part").write_text("half")
    (folder / "recipe-notes.yaml").write_text("not written by a command")
    add_class(folder, "another")
    assert len(list(folder.rglob("*.part"))) == 0
    # Two folders with two files each, manifest, recipe and lock, and the file that no command wrote.
    assert len(list(folder.rglob("*"))) == 10 and (folder / "recipe-notes.yaml").exists()


def test_concurrent_changes_of_a_memory_are_all_applied(folder):
    threads = [threading.Thread(target=add_class, args=(folder, f"new {n}")) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _, labels, names = state(folder)
    assert set(names[3:]) == {f"new {n}" for n in range(4)}
    assert labels[6:] == [3, 4, 5, 6]


def test_a_reader_retries_when_another_command_replaces_the_files(folder, monkeypatch):
    verify_files = stored_memory.verify_files

    def add_class_first(*arguments):
        monkeypatch.setattr(stored_memory, "verify_files", verify_files)
        add_class(folder, "new")
        verify_files(*arguments)

    monkeypatch.setattr(stored_memory, "verify_files", add_class_first)
    assert state(folder)[2] == ["class 0", "class 1", "class 2", "new"]


def test_an_error_names_any_damaged_file_and_restoring_a_copy_repairs_the_memory(folder):
    shutil.copytree(folder, folder.with_name("copy"))
    before = state(folder)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".memory.lock"]
    assert len(files) == 6
    for path in files:
        data = path.read_bytes()
        middle = len(data) // 2
        for damaged in (data[:middle], data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], None):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            with pytest.raises(UserError, match=re.escape(str(path))) as caught:
                state(folder)
            assert f"restore {folder} from a copy" in str(caught.value) and "delete" not in str(caught.value)
        shutil.rmtree(folder)
        shutil.copytree(folder.with_name("copy"), folder)
        assert state(folder) == before


@pytest.mark.parametrize("key", ["next_id", "trained_on"])
def test_a_changed_digit_of_the_manifest_is_detected(folder, key):
    path = folder / stored_memory.MANIFEST
    text = path.read_text()
    path.write_text(re.sub(rf'"{key}": \d', f'"{key}": 1', text))
    assert path.read_text() != text
    message = r"names/manifest\.json: damaged \(its checksum differs\); restore .* from a copy"
    with pytest.raises(UserError, match=message):
        state(folder)


def test_rebuilding_over_a_damaged_memory_repairs_it(folder, encoder):
    (folder / stored_memory.MANIFEST).write_text("{}")
    create(folder, encoder, 3)
    assert state(folder)[1] == [0, 0, 1, 1, 2, 2]


def test_only_changed_parts_are_written(folder):
    index = next((folder / "images").glob("index-*"))
    before = index.stat().st_mtime_ns
    with memory_lock(folder):
        _, _, stored = StoredMemory.load(folder, [])
        stored.names.remove(stored.names.ids_of(2))
        stored.save()
    assert index.stat().st_mtime_ns == before
    assert state(folder)[2] == ["class 0", "class 1"]


def test_names_that_differ_in_case_or_white_space_are_the_same_class(folder):
    _, _, stored = StoredMemory.load(folder, [])
    assert (stored.label_of("CLASS  1"), stored.label_of(" class 2\n"), stored.label_of("class 3")) == (1, 2, None)


def test_an_error_of_a_held_lock_names_the_folder(folder, monkeypatch):
    monkeypatch.setattr(stored_memory, "file_lock", lambda path: file_lock(path, 0.05))
    with memory_lock(folder), pytest.raises(UserError, match=r"mem/memory: another command has been changing it"):
        add_class(folder, "new")
