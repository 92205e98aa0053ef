"""The ``Recognizer`` class: a memory of the user's classes, a retriever and a ranker."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.embedding.encoder import load_encoder
from data_prep.settings import RetrieverArgs
from eval.calibration.choice import Choice
from eval.calibration.fusion import Fusion
from eval.calibration.open_set import Refusal
from eval.calibration.store import choices_path, save_choices
from eval.recognizer.recognizer import Recognizer

CLASSES = draw_classes("test", 8, 4, 0)
NAMES = [blazon.name for blazon in CLASSES]


CHOSEN = ("eval.k=auto", "eval.candidates=auto", "eval.fusion=true")
"""Settings that leave the ranking to the choice; the run's own recipe has fixed ones."""


def make_choice(threshold: float, k: int = 4, method: str = "rar_fused", source: str = "fused") -> Choice:
    """Makes a choice whose gate passes the images with at least this uncertainty."""
    fusion = Fusion(0.5, 20.0, 20.0, 0.5, 1.0, 20.0, 20.0, "margin", threshold)
    return Choice(method, source, k, 1, "the highest top-1", 400, [], [], fusion)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A folder of two images per class, and another image of each class."""
    folder, queries = tmp_path_factory.mktemp("classes"), []
    for label, blazon in enumerate(CLASSES):
        (folder / "classes" / blazon.name).mkdir(parents=True)
        for index in range(3):
            image = render(blazon, 96, np.random.default_rng([label, index]))
            image.save(folder / "classes" / blazon.name / f"{index}.png" if index else folder / f"{label}.png")
        queries.append(folder / f"{label}.png")
    return folder / "classes", queries


@pytest.fixture(scope="module")
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run with choices: a gate that passes every image for names, and one that passes none for images."""
    copy = shutil.copytree(finished, tmp_path_factory.mktemp("fitted") / "run")
    adapter = read_json(copy / "adapter" / "manifest.json")["adapter"]
    choices = {"zero_shot-0": make_choice(0.0, source="name"), "few_shot-2": make_choice(2.0, k=3)}
    encoder = load_encoder(RetrieverArgs()).id
    save_choices(choices_path(copy, "likelihood", copy / "adapter"), adapter, encoder, choices, Refusal("score", 0.5))
    return copy


def test_images_are_recognised_far_better_than_by_chance(finished, classes):
    folder, queries = classes
    recognizer = Recognizer.from_pretrained(finished, folder)
    results = recognizer.predict(queries, k=4)
    assert sum(result.name == name for result, name in zip(results, NAMES, strict=True)) >= 3
    for result in results:
        assert len(result.names) == 4 and set(result.names) <= set(NAMES)
        assert {candidate.name for candidate in result.candidates} == set(result.names)
        assert sum(result.probabilities) == pytest.approx(1)
        assert list(result.probabilities) == sorted(result.probabilities, reverse=True)
        assert (result.ranked, result.known, result.outcome) == (True, None, "ok")
    assert [r.names for r in recognizer.predict(queries[::-1], k=4)][::-1] == [r.names for r in results]
    # New classes without training; names alone; never more candidates than classes.
    recognizer.remember(NAMES[:3])
    assert {len(result.names) for result in recognizer.predict(queries)} == {3}
    recognizer.remember({NAMES[0]: [queries[0]], NAMES[7]: []})
    assert recognizer.predict(queries[:1])[0].name == NAMES[0]
    assert recognizer.predict([]) == []


@pytest.mark.parametrize("mode", ["likelihood", "letters", "yes_no"])
def test_a_class_named_like_a_control_token_is_recognised_like_any_other(finished, classes, mode):
    recognizer = Recognizer.from_pretrained(finished, NAMES[:2], f"ranker.mode={mode}")
    for name in ("<image>", "</s>"):
        recognizer.memory.add(name)
    results = recognizer.predict(classes[1][:2], 4)
    assert [set(result.names) for result in results] == [{*NAMES[:2], "<image>", "</s>"}] * 2


def test_what_was_chosen_for_the_run_is_used_for_fusion_gate_and_refusal(run, classes):
    folder, queries = classes
    recognizer = Recognizer.from_pretrained(run, folder, *CHOSEN)
    unranked = recognizer.predict(queries)
    assert not any(result.ranked for result in unranked)
    assert {len(result.names) for result in unranked} == {3}
    # The retriever's order, and the threshold is on the score of the ranker, which was not run.
    assert all(sorted(r.probabilities, reverse=True) == list(r.probabilities) and r.known is None for r in unranked)
    recognizer.remember(NAMES)
    fused = recognizer.predict(queries)
    # No log-likelihood is as high as the threshold.
    assert all(result.ranked and result.known is False and len(result.names) == 4 for result in fused)
    unfused = Recognizer.from_pretrained(run, NAMES, "eval.fusion=false").predict(queries)
    assert [result.probabilities for result in unfused] != [result.probabilities for result in fused]
    assert {len(r.names) for r in Recognizer.from_pretrained(run, NAMES, *CHOSEN, "eval.k=2").predict(queries)} == {2}


def test_the_ranker_is_not_run_where_the_retriever_alone_was_better(finished, classes):
    recognizer = Recognizer.from_pretrained(finished, NAMES)
    recognizer.recipe.eval.k, recognizer.recipe.eval.fusion = "auto", None
    recognizer.choices = {"zero_shot-0": make_choice(0.0, method="retriever")}
    assert not any(result.ranked for result in recognizer.predict(classes[1]))
    recognizer.choices = {"zero_shot-0": make_choice(0.0, method="rar")}
    calibrated = recognizer.predict(classes[1])
    recognizer.choices = {}
    raw = recognizer.predict(classes[1], k=4)
    assert [result.names for result in calibrated] == [result.names for result in raw]


def test_a_memory_uses_the_choice_of_its_kind_with_the_nearest_number_of_images(finished, classes, caplog):
    def choices(*kinds: str) -> dict[str, Choice]:
        return {kind: make_choice(0.0, k=i) for i, kind in enumerate(kinds, 1)}

    recognizer = Recognizer.from_pretrained(finished, NAMES)
    args = recognizer.recipe.eval
    args.k, args.candidates, args.permutations, args.fusion = "auto", "auto", "auto", None
    made = recognizer.choices = choices("whole_set-0", "few_shot-16", "few_shot-3", "few_shot-1", "zero_shot-0")
    assert recognizer.choice == made["zero_shot-0"]
    recognizer.remember(classes[0])  # two images per class: as close to one as to three
    assert recognizer.choice == made["few_shot-1"]
    recognizer.choices = choices("whole_set-0", "few_shot-16", "zero_shot-0")
    assert recognizer.choice == recognizer.choices["few_shot-16"]
    recognizer.choices = choices("whole_set-0", "zero_shot-0")
    assert recognizer.choice == recognizer.choices["whole_set-0"]
    recognizer.choices = choices("whole_set-0")
    assert "every image is ranked" not in caplog.text
    recognizer.remember(NAMES)
    assert recognizer.choice.fusion is None and recognizer.choice.k == 5
    assert "chosen for whole_set-0, but not for a memory of names alone: every image is ranked" in caplog.text


def test_errors_name_what_is_wrong(finished, classes, tmp_path):
    folder, queries = classes
    with pytest.raises(UserError, match=r"nothing fitted yet; first run python -m eval\.run .* eval\.fusion=true"):
        Recognizer.from_pretrained(finished, folder, "eval.fusion=true")
    recognizer = Recognizer.from_pretrained(finished, folder)
    for no_classes in (tmp_path / "nowhere", tmp_path, []):
        with pytest.raises(UserError, match=r"no such folder|no classes"):
            recognizer.remember(no_classes)
    for bad_names in ([""], ["a", "\u200b"], [1], {None: []}):
        with pytest.raises(UserError, match="a name is text with a visible character"):
            recognizer.remember(bad_names)
    for files in (None, "a.png"):
        with pytest.raises(UserError, match="class a: give its image files as a list"):
            recognizer.remember({"a": files})
    for images in (queries[0], str(queries[0]), Image.new("RGB", (9, 9))):
        with pytest.raises(UserError, match="give images as a list"):
            recognizer.predict(images)
    for k in (0, -1):
        with pytest.raises(UserError, match=f"k={k}: must be a whole number of at least 1"):
            recognizer.predict(queries[:1], k)
    (tmp_path / "bad.png").write_text("not an image")
    with pytest.raises(UserError, match=r"bad\.png: not readable as an image"):
        recognizer.predict([queries[0], tmp_path / "bad.png"])
    # A class whose only image is skipped is still known by its name; data.on_error=raise refuses it.
    recognizer.remember({"one": [tmp_path / "bad.png"], "two": []})
    assert recognizer.memory.memories.images is None and set(recognizer.predict(queries[:1])[0].names) == {"one", "two"}
    strict = Recognizer.from_pretrained(finished, folder, "data.on_error=raise")
    with pytest.raises(UserError, match=r"bad\.png: not readable as an image"):
        strict.remember({"one": [tmp_path / "bad.png"]})
    with pytest.raises(UserError, match=r"gone\.png: no such image"):
        recognizer.predict([tmp_path / "gone.png"])


def test_descriptions_in_the_folder_of_classes_reach_memory_and_prompts(finished, classes, tmp_path):
    folder = shutil.copytree(classes[0], tmp_path / "classes")
    (folder / "descriptions.json").write_text(json.dumps({NAMES[0]: ["a bend or", "vert"], NAMES[1]: "gules"}))
    letters = ("ranker.mode=letters", "ranker.descriptions=true")
    described = Recognizer.from_pretrained(finished, folder, *letters)
    plain = Recognizer.from_pretrained(finished, classes[0], *letters)
    assert described.ranker.descriptions == {NAMES[0]: "a bend or", NAMES[1]: "gules"}
    assert plain.ranker.descriptions == {}
    candidates, images = [NAMES[:4]], classes[1][:1]
    probabilities = [r.ranker.rank(images, candidates)[0].probabilities for r in (described, plain)]
    assert probabilities[0] != pytest.approx(probabilities[1], abs=1e-4)
    row = list(plain.memory.classes).index(NAMES[0])
    vectors = [r.memory.memories.names.vectors([row]) for r in (described, plain)]
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_images_are_taken_as_they_come_and_one_that_is_damaged_costs_its_own_result(finished, classes):
    folder, queries = classes
    recognizer = Recognizer.from_pretrained(finished, folder)
    taken = 0

    def images() -> Iterator:
        nonlocal taken
        for query in [queries[0], b"damaged", *queries[1:5]]:
            taken += 1
            yield query

    results = recognizer.predict_iter(images(), k=3, batch_size=2, on_error="skip")
    assert taken == 0
    first = next(results)
    assert taken == 2 and first.error is None
    rest = list(results)
    assert taken == 6 and [result.error is None for result in rest] == [False, True, True, True, True]
    assert rest[0].error == "image 1: not readable as an image: no known image format" and rest[0].name is None
    expected = recognizer.predict(queries[:5], 3)
    assert [result.names for result in [first, *rest[1:]]] == [result.names for result in expected]
    with pytest.raises(UserError, match="image 1: not readable"):
        recognizer.predict([queries[0], b"damaged"])
    for arguments, message in (
        ({"on_error": "ignore"}, "on_error='ignore': give"),
        ({"batch_size": 0}, "batch_size=0: must be"),
        ({"k": 0}, "k=0: must be"),
    ):
        with pytest.raises(UserError, match=message):  # at once, not at the first result
            recognizer.predict_iter(queries, **arguments)


def test_files_bytes_arrays_and_images_are_recognised_alike(finished, classes):
    folder, queries = classes
    recognizer = Recognizer.from_pretrained(finished, folder)
    data = queries[0].read_bytes()
    image = Image.open(queries[0]).convert("RGB")
    given = [queries[0], str(queries[0]), data, io.BytesIO(data), np.asarray(image), image]
    results = [result.to_dict() for result in recognizer.predict(given)]
    assert all(result["candidates"] == results[0]["candidates"] for result in results)
    for single in given:
        with pytest.raises(UserError, match="give images as a list"):
            recognizer.predict(single)


def test_a_result_becomes_json(finished, classes):
    recognizer = Recognizer.from_pretrained(finished, classes[0])
    result, failed = recognizer.predict([classes[1][0], b""], 4, on_error="skip")
    values = json.loads(json.dumps(result.to_dict(top=2)))
    assert values["name"] == result.name and values["ranked"] is True and values["error"] is None
    assert [candidate["name"] for candidate in values["candidates"]] == list(result.names[:2])
    assert values["candidates"][0]["probability"] == values["probability"] == result.probabilities[0]
    scores = {candidate.name: candidate.score for candidate in result.candidates}
    assert [candidate["score"] for candidate in values["candidates"]] == [scores[name] for name in result.names[:2]]
    empty = {"name": None, "probability": None, "known": None, "ranked": None, "candidates": []}
    assert failed.to_dict() == empty | {"error": failed.error}


def test_an_image_that_the_model_refuses_costs_only_its_own_result(finished, classes, monkeypatch):
    recognizer = Recognizer.from_pretrained(finished, classes[0])
    rank = recognizer.ranker.rank_with_scores

    def rank_light_ones(images, *arguments):
        if any(np.asarray(image.image).max() == 0 for image in images):
            raise ValueError("too dark\nfor me")
        return rank(images, *arguments)

    monkeypatch.setattr(recognizer.ranker, "rank_with_scores", rank_light_ones)
    dark, light = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "white")
    results = recognizer.predict([light, dark, light], on_error="skip")
    assert [result.error for result in results] == [None, "too dark", None]
    assert recognizer.predict([dark], on_error="skip")[0].error == "too dark"
    assert [result.error for result in recognizer.predict([dark, dark], on_error="skip")] == ["too dark"] * 2
    with pytest.raises(ValueError, match="too dark"):
        recognizer.predict([dark, dark])

    def refuse(*arguments):
        raise ValueError("out of order")

    monkeypatch.setattr(recognizer.ranker, "rank_with_scores", refuse)
    with pytest.raises(ValueError, match="out of order"):  # a plain image is refused too: it is not the images' fault
        recognizer.predict([dark, light], on_error="skip")


def test_threads_recognise_while_others_change_the_memory(finished, classes):
    folder, queries = classes
    recognizer = Recognizer.from_pretrained(finished, folder)

    def use(number: int) -> set[str]:
        if number % 3:
            return {name for result in recognizer.predict(queries[:2], 20) for name in result.names}
        name = f"class {number}"
        assert recognizer.memory.add(name, [np.full((9, 9, 3), number, np.uint8)]) == 1
        assert recognizer.memory.classes[name] == 1
        return {name} if recognizer.memory.remove(name) == 1 else set()

    with ThreadPoolExecutor(6) as pool:
        seen = set().union(*pool.map(use, range(24)))
    assert set(NAMES) < seen and set(recognizer.memory.classes) == set(NAMES)
