"""A saved recognizer is loaded with its run, its settings and its classes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.core.errors import UserError
from data_prep.core.files import read_sealed, write_sealed
from data_prep.memory.commands import main as memory_command
from eval.recognizer.recognizer import Recognizer
from tests.commands import environment

CLASSES = draw_classes("test", 8, 4, 0)
NAMES = [blazon.name for blazon in CLASSES]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    folder = tmp_path_factory.mktemp("images")
    for label, blazon in enumerate(CLASSES):
        for number in range(2):
            render(blazon, 96, np.random.default_rng([label, number])).save(folder / f"{label}-{number}.png")
    return [[str(folder / f"{label}-{number}.png") for number in range(2)] for label in range(8)]


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def answers(recognizer: Recognizer, files) -> list[tuple]:
    return [(result.names, result.probabilities) for result in recognizer.predict([row[1] for row in files])]


def test_it_has_the_classes_and_settings_that_it_was_saved_with(run, files, tmp_path):
    recognizer = Recognizer.from_pretrained(run, NAMES[:3], "eval.k=3", "eval.candidates=image")
    recognizer.memory.add(NAMES[0], files[0][:1])
    recognizer.memory.add(NAMES[5], files[5][:1])
    recognizer.memory.remove(NAMES[1])
    recognizer.save(tmp_path / "saved")
    loaded = Recognizer.load(tmp_path / "saved")
    assert loaded.memory.classes == recognizer.memory.classes == {NAMES[0]: 1, NAMES[2]: 0, NAMES[5]: 1}
    assert answers(loaded, files) == answers(recognizer, files)
    assert loaded.choice.k == 3 and Recognizer.load(tmp_path / "saved", None, "eval.k=2").choice.k == 2
    # As classes, of another recognizer.
    recognizer.remember(NAMES)
    recognizer.remember(tmp_path / "saved")
    assert recognizer.memory.classes == loaded.memory.classes
    # Saved again, over what is there.
    loaded.memory.remove(NAMES[5])
    loaded.save(tmp_path / "saved")
    assert NAMES[5] not in Recognizer.load(tmp_path / "saved").memory.classes


def test_the_memory_command_changes_lists_and_searches_what_a_recognizer_saved(run, files, tmp_path, capsys):
    saved = tmp_path / "saved"
    Recognizer.from_pretrained(run, NAMES[:3]).save(saved)
    memory_command(["add", str(saved), f"name={NAMES[4]}", *files[4]])
    memory_command(["check", str(saved)])
    capsys.readouterr()
    memory_command(["list", str(saved)])
    listed = dict(reversed(line.split("\t")) for line in capsys.readouterr().out.splitlines())
    loaded = Recognizer.load(saved)
    assert {name: int(count) for name, count in listed.items()} == loaded.memory.classes
    assert loaded.memory.classes == dict.fromkeys(NAMES[:3], 0) | {NAMES[4]: 2}
    memory_command(["search", str(saved), files[4][0], "k=2"])
    found = capsys.readouterr().out
    (candidates,) = loaded.memory.search([files[4][0]], 2)
    shown = ", ".join(f"{candidate.name} {candidate.score:.3f}" for candidate in candidates)
    assert found == f"{files[4][0]}: {shown}\n" and candidates[0].name == NAMES[4]


def test_a_program_sees_no_output_of_libraries(run, files, tmp_path):
    program = f"""
from eval import Recognizer
recognizer = Recognizer.from_pretrained({str(run)!r}, {NAMES[:3]!r}, "cache={tmp_path / "cache"}")
recognizer.memory.add("new", {files[5]!r})
recognizer.predict({files[0]!r})
recognizer.save({str(tmp_path / "saved")!r})
Recognizer.load({str(tmp_path / "saved")!r}).memory.search({files[0]!r})
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_names_alone_descriptions_and_templates_are_kept(run, files, tmp_path):
    recognizer = Recognizer.from_pretrained(run)  # the run's own classes, with the templates of its data set
    recognizer.memory.descriptions = {name: f"looks like {name}" for name in list(recognizer.memory.classes)[:2]}
    recognizer.save(tmp_path / "saved")
    loaded = Recognizer.load(tmp_path / "saved")
    assert loaded.memory.descriptions == recognizer.memory.descriptions
    for memory in (recognizer.memory, loaded.memory):
        memory.add("a new name")
    added = [
        memory.memories.names.vectors(memory.memories.names.ids[-1:]) for memory in (recognizer.memory, loaded.memory)
    ]
    assert np.array_equal(*added)
    recognizer.remember(NAMES)
    recognizer.save(tmp_path / "names")
    loaded = Recognizer.load(tmp_path / "names")
    assert loaded.memory.shots == 0 and answers(loaded, files[:2]) == answers(recognizer, files[:2])


def test_a_run_that_is_gone_or_another_one_is_named(run, finished, tmp_path):
    recognizer = Recognizer.from_pretrained(run, NAMES[:2])
    recognizer.save(tmp_path / "saved")
    moved = run.rename(tmp_path / "moved")
    with pytest.raises(
        UserError, match=r"saved with the run .*run, which is not there; give load\(\.\.\., run=FOLDER\)"
    ):
        Recognizer.load(tmp_path / "saved")
    assert set(Recognizer.load(tmp_path / "saved", moved).memory.classes) == set(NAMES[:2])
    note = tmp_path / "saved" / "recognizer.json"
    values = read_sealed(note)
    write_sealed(note, values | {"adapter": "0" * 64})
    with pytest.raises(UserError, match="its adapter is another one"):
        Recognizer.load(tmp_path / "saved", moved)
    write_sealed(note, values | {"settings": ["cache=/somewhere/else"]})
    with pytest.raises(UserError, match="appears to come from another machine or user"):
        Recognizer.load(tmp_path / "saved", moved)
    note.unlink()
    with pytest.raises(UserError, match=r"load it with from_pretrained\(RUN"):
        Recognizer.load(tmp_path / "saved")
    # Put together by a program, a recognizer has no run to note.
    Recognizer(recognizer.ranker, recognizer.encoder, NAMES[:3]).save(tmp_path / "saved")
    assert not note.exists() and len(Recognizer.from_pretrained(finished, tmp_path / "saved").memory.classes) == 3
