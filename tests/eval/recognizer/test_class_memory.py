"""A memory to which classes are added and removed while it is in use."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.core.errors import UserError
from data_prep.embedding.encoder import Encoder, load_encoder
from data_prep.memory.stored import StoredMemory
from data_prep.settings import RetrieverArgs
from eval.recognizer.class_lists import check_classes, is_kept_memory
from eval.recognizer.class_memory import ClassMemory, ClassTexts
from eval.recognizer.new_images import embed_uncached

CLASSES = draw_classes("test", 6, 3, 0)
NAMES = [blazon.name for blazon in CLASSES]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Three images per class."""
    folder, files = tmp_path_factory.mktemp("images"), {}
    for label, blazon in enumerate(CLASSES):
        files[blazon.name] = [folder / f"{label}-{index}.png" for index in range(3)]
        for index, file in enumerate(files[blazon.name]):
            render(blazon, 96, np.random.default_rng([label, index])).save(file)
    return files


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(RetrieverArgs())


@pytest.fixture
def recipe(tiny, tmp_path):
    return tiny(tmp_path / "run", "data.on_error=raise", "eval.candidates=image")


def retrieve(memory: ClassMemory, image: Path, k: int = 6) -> list[tuple[str, float, str | None]]:
    """Returns name, score and example of each candidate."""
    xq = embed_uncached(memory.encoder, [image], memory.recipe)
    (candidates,), similarities = memory.candidates(xq, k, "image")
    assert similarities.shape == (1, len(candidates), 2)
    examples = memory.examples(xq[0], candidates)
    return [(c.name, round(c.score, 5), file) for c, file in zip(candidates, examples, strict=True)]


def test_adding_a_class_is_the_same_as_building_the_memory_with_it(encoder, recipe, files):
    built = ClassMemory(encoder, recipe, {name: files[name][:2] for name in NAMES})
    grown = ClassMemory(encoder, recipe, {name: files[name][:2] for name in NAMES[:4]})
    assert [grown.add(name, files[name][:2]) for name in NAMES[4:]] == [2, 2]
    assert grown.classes == built.classes == dict.fromkeys(NAMES, 2)
    for name in NAMES:
        assert retrieve(grown, files[name][2]) == retrieve(built, files[name][2])
    # A class's own image is retrieved and shown.
    assert retrieve(grown, files[NAMES[5]][0], 1) == [(NAMES[5], 1.0, str(files[NAMES[5]][0]))]


def test_a_removed_class_is_not_retrieved_and_the_others_show_their_own_images(encoder, recipe, files):
    memory = ClassMemory(encoder, recipe, files)
    assert memory.remove(NAMES[0]) == 3 and memory.remove(NAMES[2]) == 3
    assert list(memory.classes) == [NAMES[1], *NAMES[3:]]
    for name in NAMES[3:]:
        candidates = retrieve(memory, files[name][1])
        assert candidates[0] == (name, 1.0, str(files[name][1])) and len(candidates) == 4
        assert all(Path(file) in files[other] for other, _, file in candidates)
    # A class that is added again is a new one.
    memory.add(NAMES[0], files[NAMES[0]][:1])
    assert memory.classes[NAMES[0]] == 1 and retrieve(memory, files[NAMES[0]][0], 1)[0][0] == NAMES[0]


def test_images_of_a_known_class_are_added_once(encoder, recipe, files):
    first, second = NAMES[:2]
    memory = ClassMemory(encoder, recipe, {first: files[first][:1], second: files[second][:1]})
    assert memory.add(f" {first} ", [*files[first], files[first][2]]) == 2
    assert memory.add(first, files[first]) == 0
    assert memory.classes == {first: 3, second: 1}


def test_names_that_look_alike_are_one_class(encoder, recipe, files, caplog):
    first, second = NAMES[:2]
    variant = first.upper().replace(" ", "  ")
    images = {first: files[first][:1], second: files[second][:1], variant: files[first][1:2]}
    memory = ClassMemory(encoder, recipe, images)
    assert memory.classes == {first: 2, second: 1}
    assert f"{first.upper()!r} looks like {first!r}: one class" in caplog.text
    assert memory.add(f"{variant}\n", files[first]) == 1
    assert memory.classes == {first: 3, second: 1}
    assert memory.remove(variant) == 3
    assert list(memory.classes) == [second]
    assert list(ClassMemory(encoder, recipe, [first, variant]).classes) == [first]


def test_classes_without_images_are_retrieved_by_name(encoder, recipe, files):
    memory = ClassMemory(encoder, recipe, NAMES[:3])
    assert (memory.reachable_source("image"), memory.shots) == ("name", 0)
    assert memory.add(NAMES[3], files[NAMES[3]]) == 3
    assert (memory.reachable_source("image"), memory.shots) == ("fused", 0.75)
    name, _, example = retrieve(memory, files[NAMES[3]][0], 1)[0]
    assert name == NAMES[3] and example == str(files[name][0])
    assert {file for _, _, file in retrieve(memory, files[NAMES[0]][0])[1:]} >= {None}
    memory.remove(NAMES[3])
    assert (memory.reachable_source("image"), memory.memories.images) == ("name", None)
    assert memory.add(NAMES[4]) == 0 and memory.classes[NAMES[4]] == 0


def test_a_numbered_name_is_listed_with_its_number_and_embedded_without(encoder, recipe):
    texts = ClassTexts({f"{NAMES[0]} (2)": NAMES[0]})
    twins = ClassMemory(encoder, recipe, [NAMES[0], f"{NAMES[0]} (2)", NAMES[1]], texts)
    assert list(twins.classes) == [NAMES[0], f"{NAMES[0]} (2)", NAMES[1]]
    vectors = twins.memories.names.vectors(range(3))
    assert np.array_equal(vectors[0], vectors[1]) and not np.array_equal(vectors[0], vectors[2])


def test_errors_leave_the_memory_unchanged(encoder, recipe, files, tmp_path):
    memory = ClassMemory(encoder, recipe, {NAMES[0]: files[NAMES[0]]})
    (tmp_path / "bad.png").write_text("not an image")
    with pytest.raises(UserError, match=r"bad\.png: not readable as an image"):
        memory.add("new", [files[NAMES[1]][0], tmp_path / "bad.png"])
    with pytest.raises(UserError, match="a name is text with a visible character"):
        memory.add("  ", files[NAMES[1]])
    with pytest.raises(UserError, match="other: no such class"):
        memory.remove("other")
    with pytest.raises(UserError, match="the only class"):
        memory.remove(NAMES[0])
    assert memory.classes == {NAMES[0]: 3}


def test_a_folder_of_classes_is_read_like_a_data_set(encoder, recipe, files, tmp_path, caplog):
    root = tmp_path / "classes"
    for index, (name, source) in enumerate((("Kücken", 0), ("Ku\u0308cken", 1), ("owl", 2), ("__MACOSX", 3))):
        (root / name).mkdir(parents=True)
        (root / name / f"{index}").write_bytes(files[NAMES[source]][0].read_bytes())  # an image by its content
    (root / "owl" / "._0.png").write_bytes(b"written by macOS")
    memory = ClassMemory(encoder, recipe, root)
    assert memory.classes == {"Kücken": 2, "owl": 1}
    assert memory.add("Ku\u0308cken ", files[NAMES[4]][:1]) == 1
    assert memory.remove("Ku\u0308cken") == 3
    (root / "empty").mkdir()
    assert ClassMemory(encoder, recipe, root).classes == {"Kücken": 2, "empty": 0, "owl": 1}
    assert f"{root}: 1 classes without images, which are found by their names alone: empty" in caplog.text


def test_a_folder_of_classes_may_hold_descriptions(encoder, recipe, files, tmp_path, caplog):
    for name in NAMES[:2]:
        (tmp_path / "classes" / name).mkdir(parents=True)
        shutil.copy(files[name][0], tmp_path / "classes" / name)
    second = max(NAMES[:2])
    plain = ClassMemory(encoder, recipe, tmp_path / "classes").memories.names
    (tmp_path / "classes" / "descriptions.json").write_text(json.dumps({second: ["gules", "or"], "fish": "swims"}))
    caplog.clear()
    described = ClassMemory(encoder, recipe, tmp_path / "classes").memories.names
    assert np.array_equal(described.vectors([0]), plain.vectors([0]))
    assert np.abs(described.vectors([1]) - plain.vectors([1])).max() > 1e-3
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        f"{tmp_path / 'classes' / 'descriptions.json'}: 1 names are not classes of this data set; the first is 'fish'"
    ]


def write_splits(root: Path, files: dict) -> None:
    """Writes a folder of splits: two images of two classes in train, and one in test."""
    for split, rows in (("Training", (0, 1)), ("Testing", (2,))):
        for name in NAMES[:2]:
            (root / split / name).mkdir(parents=True)
            for row in rows:
                shutil.copy(files[name][row], root / split / name)


def test_the_training_images_of_splits_are_remembered(encoder, recipe, files, tmp_path):
    write_splits(tmp_path / "splits", files)
    memory = ClassMemory(encoder, recipe, tmp_path / "splits")
    assert memory.classes == dict.fromkeys(NAMES[:2], 2)
    shutil.rmtree(tmp_path / "splits" / "Training")
    (tmp_path / "splits" / "val").mkdir()
    with pytest.raises(UserError, match="splits: has test, but no train to remember"):
        ClassMemory(encoder, recipe, tmp_path / "splits")


def test_a_table_and_a_list_of_names_are_classes_too(encoder, recipe, files, tmp_path):
    lines = ["path,species,split"]
    for name in NAMES[:2]:
        lines += [f'{files[name][row]},"{name}",{split}' for row, split in enumerate(("train", "train", "test"))]
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "samples.csv").write_text("\n".join(lines))
    (tmp_path / "table" / "descriptions.json").write_text(json.dumps({NAMES[0]: "gules"}))
    recipe = replace(recipe, data=replace(recipe.data, label_column="species"))
    for path in (tmp_path / "table", str(tmp_path / "table" / "samples.csv")):
        memory = ClassMemory(encoder, recipe, path)
        assert memory.classes == dict.fromkeys(NAMES[:2], 2) and memory.descriptions == {NAMES[0]: "gules"}
    (tmp_path / "names.csv").write_text("votes,name\n2,owl\n1,kite\n")
    assert ClassMemory(encoder, recipe, tmp_path / "names.csv").classes == {"owl": 0, "kite": 0}
    with pytest.raises(UserError, match="gone: no such folder or file"):
        ClassMemory(encoder, recipe, tmp_path / "gone")


def test_what_classes_are_is_decided_before_a_model_is_loaded(tmp_path):
    (tmp_path / "names.txt").write_text("owl")
    (tmp_path / "memory" / "names").mkdir(parents=True)
    (tmp_path / "memory" / "names" / "manifest.json").write_text("{}")
    for name in ("names.txt", "memory", "."):
        assert check_classes(tmp_path / name) == str(tmp_path / name)
        assert is_kept_memory(tmp_path / name) == (name == "memory")
    assert check_classes(None) is None and not is_kept_memory(["owl"]) and not is_kept_memory({"owl": []})
    (tmp_path / "a.xlsx").write_text("")
    for name, message in (("a.xlsx", "a file must be .csv or .jsonl"), ("gone", "no such folder or file")):
        with pytest.raises(UserError, match=f"--classes .*{name}: {message}"):
            check_classes(tmp_path / name)


def test_a_file_instead_of_a_list_and_an_empty_name_are_refused(encoder, recipe, files):
    with pytest.raises(UserError, match="class cat: give its image files as a list"):
        ClassMemory(encoder, recipe, {"cat": str(files[NAMES[0]][0])})
    with pytest.raises(UserError, match="a name is text with a visible character"):
        ClassMemory(encoder, recipe, ["cat", " \u200b"])


def test_a_kept_memory_is_opened_as_it_is_and_not_changed(encoder, recipe, files, tmp_path):
    built = ClassMemory(encoder, recipe, {name: files[name][:2] for name in NAMES})
    kept = StoredMemory.create(tmp_path / "kept", recipe, built.memories.images, built.memories.names)
    kept.names.remove(kept.names.ids_of(1))
    kept.images.remove(kept.images.ids_of(1))
    kept.save()
    memory = ClassMemory(encoder, recipe, str(tmp_path / "kept"))
    assert memory.classes == {name: 2 for name in NAMES if name != NAMES[1]}
    expected = [pair[:2] for pair in retrieve(built, files[NAMES[5]][2]) if pair[0] != NAMES[1]]
    # Only vectors are kept, so there are no images to show.
    assert retrieve(memory, files[NAMES[5]][2]) == [(*pair, None) for pair in expected]
    assert memory.add("new", files[NAMES[1]][:1]) == 1
    assert retrieve(memory, files[NAMES[1]][0], 1) == [("new", 1.0, str(files[NAMES[1]][0]))]
    assert "new" not in ClassMemory(encoder, recipe, tmp_path / "kept").classes
    other = replace(encoder, id="other")
    with pytest.raises(UserError, match=r"was made with encoder .*, but other is loaded"):
        ClassMemory(other, recipe, tmp_path / "kept")
    for label in kept.names.labels.tolist():
        kept.names.remove(kept.names.ids_of(label))
    kept.save()
    with pytest.raises(UserError, match=r"kept: a memory without classes; add some"):
        ClassMemory(encoder, recipe, tmp_path / "kept")


def test_images_in_memory_and_own_vectors_are_added_like_files(encoder, recipe, files):
    image = files[NAMES[1]][0]
    by_file, by_bytes, by_vector = (ClassMemory(encoder, recipe, {NAMES[0]: files[NAMES[0]]}) for _ in range(3))
    vector = embed_uncached(encoder, [image], recipe)
    assert by_file.add("new", [image]) == by_bytes.add("new", [image.read_bytes(), image.read_bytes()]) == 1
    assert by_bytes.add("new", [image]) == 0  # byte for byte the same
    assert by_vector.add("new", vectors=7 * vector) == by_vector.add("other", vectors=-vector[0]) == 1
    assert by_vector.add("new", vectors=7 * vector) == 0
    expected = retrieve(by_file, files[NAMES[1]][2])
    assert [row[:2] for row in retrieve(by_bytes, files[NAMES[1]][2])] == [row[:2] for row in expected]
    assert retrieve(by_vector, image, 1) == [("new", 1.0, None)]
    assert retrieve(by_file, image, 1) == [("new", 1.0, str(image))]
    before = by_vector.classes
    for vectors, message in (
        (np.ones((2, 3)), r"vectors of shape \[2, 3\]: the encoder's are \[n, \d+\]"),
        (np.zeros_like(vector), "zero or not finite"),
        (vector * np.nan, "zero or not finite"),
    ):
        with pytest.raises(UserError, match=message):
            by_vector.add("third", vectors=vectors)
    with pytest.raises(UserError, match="give images as a list"):
        by_vector.add("third", image)
    assert by_vector.classes == before


def test_changes_are_saved_to_the_folder_of_the_memory(encoder, recipe, files, tmp_path):
    memory = ClassMemory(encoder, recipe, {NAMES[0]: files[NAMES[0]], NAMES[1]: []})
    with pytest.raises(UserError, match="no folder yet"):
        memory.save_changes()
    memory.save(tmp_path / "kept")
    memory.add(NAMES[2], files[NAMES[2]])
    assert len(ClassMemory(encoder, recipe, tmp_path / "kept").classes) == 2
    memory.save_changes()
    other = ClassMemory(encoder, recipe, tmp_path / "kept")
    assert other.classes == memory.classes
    memory.remove(NAMES[0])
    memory.remove(NAMES[2])  # no images are left
    memory.save_changes()
    assert ClassMemory(encoder, recipe, tmp_path / "kept").classes == {NAMES[1]: 0}
    with pytest.raises(UserError, match="was changed by another command; open it again"):
        other.save_changes()
