"""A memory that grows and shrinks by a class while it is in use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.core.errors import UserError
from data_prep.embedding.encoder import Encoder, load_encoder
from data_prep.settings import RetrieverArgs
from eval.recognition.class_memory import ClassMemory, embed_pictures

CLASSES = draw_classes("test", 6, 3, 0)
NAMES = [blazon.name for blazon in CLASSES]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Three pictures a class."""
    folder, found = tmp_path_factory.mktemp("pictures"), {}
    for label, blazon in enumerate(CLASSES):
        found[blazon.name] = [folder / f"{label}-{number}.png" for number in range(3)]
        for number, file in enumerate(found[blazon.name]):
            render(blazon, 96, np.random.default_rng([label, number])).save(file)
    return found


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(RetrieverArgs())


@pytest.fixture
def recipe(tiny, tmp_path):
    return tiny(tmp_path / "run", "data.on_error=raise", "eval.candidates=image")


def _found(memory: ClassMemory, picture: Path, k: int = 6) -> list[tuple[str, float, str | None]]:
    xq = embed_pictures(memory.encoder, [picture], memory.recipe)
    row = memory.candidates(xq, k)[0]
    shown = memory.examples(xq[0], row)
    return [(one.name, round(one.score, 5), file) for one, file in zip(row, shown, strict=True)]


def test_growing_by_a_class_is_the_same_as_having_had_it(encoder, recipe, files):
    whole = ClassMemory(encoder, recipe, {name: files[name][:2] for name in NAMES})
    grown = ClassMemory(encoder, recipe, {name: files[name][:2] for name in NAMES[:4]})
    assert [grown.add(name, files[name][:2]) for name in NAMES[4:]] == [2, 2]
    assert grown.classes == whole.classes == dict.fromkeys(NAMES, 2)
    for name in NAMES:
        assert _found(grown, files[name][2]) == _found(whole, files[name][2])
    # The picture that a class was given is found again, and shown.
    assert _found(grown, files[NAMES[5]][0], 1) == [(NAMES[5], 1.0, str(files[NAMES[5]][0]))]


def test_what_is_removed_is_never_found_again_and_what_stays_is_shown_rightly(encoder, recipe, files):
    memory = ClassMemory(encoder, recipe, files)
    assert memory.remove(NAMES[0]) == 3 and memory.remove(NAMES[2]) == 3
    assert list(memory.classes) == [NAMES[1], *NAMES[3:]]
    for name in NAMES[3:]:
        found = _found(memory, files[name][1])
        assert found[0] == (name, 1.0, str(files[name][1])) and len(found) == 4
        assert all(Path(file) in files[other] for other, _, file in found)
    # A class that comes back is a new one.
    memory.add(NAMES[0], files[NAMES[0]][:1])
    assert memory.classes[NAMES[0]] == 1 and _found(memory, files[NAMES[0]][0], 1)[0][0] == NAMES[0]


def test_pictures_of_a_known_class_are_added_once(encoder, recipe, files):
    one, two = NAMES[:2]
    memory = ClassMemory(encoder, recipe, {one: files[one][:1], two: files[two][:1]})
    assert memory.add(f" {one} ", [*files[one], files[one][2]]) == 2
    assert memory.add(one, files[one]) == 0
    assert memory.classes == {one: 3, two: 1}


def test_names_that_look_alike_are_one_class(encoder, recipe, files, caplog):
    one, two = NAMES[:2]
    alike = one.upper().replace(" ", "  ")
    memory = ClassMemory(encoder, recipe, {one: files[one][:1], two: files[two][:1], alike: files[one][1:2]})
    assert memory.classes == {one: 2, two: 1} and f"{one.upper()!r} looks like {one!r}: one class" in caplog.text
    assert memory.add(f"{alike}\n", files[one]) == 1
    assert memory.classes == {one: 3, two: 1}
    assert memory.remove(alike) == 3
    assert list(memory.classes) == [two]
    assert list(ClassMemory(encoder, recipe, [one, alike]).classes) == [one]


def test_classes_without_pictures_are_found_by_name(encoder, recipe, files):
    memory = ClassMemory(encoder, recipe, NAMES[:3])
    assert (memory.source, memory.shots) == ("name", 0)
    assert memory.add(NAMES[3], files[NAMES[3]]) == 3
    assert (memory.source, memory.shots) == ("fused", 0.75)
    name, _, shown = _found(memory, files[NAMES[3]][0], 1)[0]
    assert name == NAMES[3] and shown == str(files[name][0])
    assert {file for _, _, file in _found(memory, files[NAMES[0]][0])[1:]} >= {None}
    memory.remove(NAMES[3])
    assert (memory.source, memory.memories.images) == ("name", None)
    assert memory.add(NAMES[4]) == 0 and memory.classes[NAMES[4]] == 0


def test_a_numbered_name_is_listed_with_its_number_and_embedded_without(encoder, recipe):
    twins = ClassMemory(encoder, recipe, [NAMES[0], f"{NAMES[0]} (2)", NAMES[1]], {f"{NAMES[0]} (2)": NAMES[0]})
    assert list(twins.classes) == [NAMES[0], f"{NAMES[0]} (2)", NAMES[1]]
    vectors = twins.memories.names.vectors(range(3))
    assert np.array_equal(vectors[0], vectors[1]) and not np.array_equal(vectors[0], vectors[2])


def test_mistakes_leave_the_memory_as_it_was(encoder, recipe, files, tmp_path):
    memory = ClassMemory(encoder, recipe, {NAMES[0]: files[NAMES[0]]})
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(UserError, match=r"bad\.png: not readable as an image"):
        memory.add("new", [files[NAMES[1]][0], tmp_path / "bad.png"])
    with pytest.raises(UserError, match="a name is text, and shows something"):
        memory.add("  ", files[NAMES[1]])
    with pytest.raises(UserError, match="other: no such class"):
        memory.remove("other")
    with pytest.raises(UserError, match="the only class"):
        memory.remove(NAMES[0])
    assert memory.classes == {NAMES[0]: 3}


def test_a_folder_of_classes_is_read_as_a_data_set_is(encoder, recipe, files, tmp_path, caplog):
    root = tmp_path / "classes"
    for place, (name, of) in enumerate((("Kücken", 0), ("Ku\u0308cken", 1), ("owl", 2), ("__MACOSX", 3))):
        (root / name).mkdir(parents=True)
        (root / name / f"{place}").write_bytes(files[NAMES[of]][0].read_bytes())  # a picture by its content
    (root / "owl" / "._0.png").write_bytes(b"left by a Mac")
    memory = ClassMemory(encoder, recipe, root)
    assert memory.classes == {"Kücken": 2, "owl": 1}
    assert memory.add("Ku\u0308cken ", files[NAMES[4]][:1]) == 1
    assert memory.remove("Ku\u0308cken") == 3
    (root / "empty").mkdir()
    assert ClassMemory(encoder, recipe, root).classes == {"Kücken": 2, "empty": 0, "owl": 1}
    assert f"{root / 'empty'}: a class without images, which is found by its name alone" in caplog.text


def test_splits_are_no_classes(encoder, recipe, files, tmp_path):
    for split in ("Training", "Testing"):
        for name in NAMES[:2]:
            (tmp_path / split / name).mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds splits \(Testing, Training\), not classes; give one of them"):
        ClassMemory(encoder, recipe, tmp_path)


def test_a_file_in_place_of_a_list_and_an_empty_name_are_refused(encoder, recipe, files):
    with pytest.raises(UserError, match="class cat: give its image files as a list"):
        ClassMemory(encoder, recipe, {"cat": str(files[NAMES[0]][0])})
    with pytest.raises(UserError, match="a name is text, and shows something"):
        ClassMemory(encoder, recipe, ["cat", " \u200b"])
