"""The ``Recognizer`` class: a memory of the user's classes, a retriever and a ranker."""

from __future__ import annotations

import shutil
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
from eval.calibration.fusion import Fusion
from eval.calibration.open_set import Refusal
from eval.calibration.store import fits_path, save_fits
from eval.recognition.recognizer import Recognizer

CLASSES = draw_classes("test", 8, 4, 0)
NAMES = [blazon.name for blazon in CLASSES]


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
    """A copy of the run with fits: a gate that passes every image for names, and one that passes none for images."""
    copy = shutil.copytree(finished, tmp_path_factory.mktemp("fitted") / "run")
    adapter = read_json(copy / "adapter" / "manifest.json")["adapter"]
    fusions = {
        "zero_shot-0": Fusion(0.5, 0.5, 1.0, 0.05, "margin", 0.0),
        "few_shot-2": Fusion(0.5, 0.5, 1.0, 0.05, "margin", 2.0),
    }
    encoder = load_encoder(RetrieverArgs()).id
    save_fits(fits_path(copy, "likelihood", copy / "adapter"), adapter, encoder, fusions, Refusal("score", 0.5))
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


@pytest.mark.parametrize("mode", ["likelihood", "letters"])
def test_a_class_named_like_a_control_token_is_recognised_like_any_other(finished, classes, mode):
    recognizer = Recognizer.from_pretrained(finished, NAMES[:2], f"ranker.mode={mode}")
    for name in ("<image>", "</s>"):
        recognizer.memory.add(name)
    results = recognizer.predict(classes[1][:2], 4)
    assert [set(result.names) for result in results] == [{*NAMES[:2], "<image>", "</s>"}] * 2


def test_the_runs_fits_are_used_for_fusion_gate_and_refusal(run, classes):
    folder, queries = classes
    recognizer = Recognizer.from_pretrained(run, folder, "eval.fusion=true")
    unranked = recognizer.predict(queries)
    assert not any(result.ranked for result in unranked)
    # The retriever's order is kept, and the threshold is on the score of the ranker, which was not run.
    assert all(r.names == tuple(c.name for c in r.candidates) and r.known is None for r in unranked)
    recognizer.remember(NAMES)
    fused = recognizer.predict(queries)
    # No log-likelihood is as high as the threshold.
    assert all(result.ranked and result.known is False for result in fused)
    unfused = Recognizer.from_pretrained(run, NAMES).predict(queries)
    assert [result.probabilities for result in unfused] != [result.probabilities for result in fused]


def test_a_memory_uses_the_fusion_of_its_kind_with_the_nearest_number_of_images(finished, classes, caplog):
    def fusions(*kinds: str) -> dict[str, Fusion]:
        return {kind: Fusion(0.1 * i, 0.5, 1.0, 0.05, "margin", 0.0) for i, kind in enumerate(kinds, 1)}

    recognizer = Recognizer.from_pretrained(finished, NAMES)
    fitted = recognizer.fusions = fusions("whole_set-0", "few_shot-16", "few_shot-3", "few_shot-1", "zero_shot-0")
    assert recognizer.fusion == fitted["zero_shot-0"]
    recognizer.remember(classes[0])  # two images per class: as close to one as to three
    assert recognizer.fusion == fitted["few_shot-1"]
    recognizer.fusions = fusions("whole_set-0", "few_shot-16", "zero_shot-0")
    assert recognizer.fusion == recognizer.fusions["few_shot-16"]
    recognizer.fusions = fusions("whole_set-0", "zero_shot-0")
    assert recognizer.fusion == recognizer.fusions["whole_set-0"]
    recognizer.fusions = fusions("whole_set-0")
    assert "every image is ranked" not in caplog.text
    recognizer.remember(NAMES)
    assert recognizer.fusion is None
    assert "fitted for whole_set-0, but not for a memory of names alone: every image is ranked" in caplog.text


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
        with pytest.raises(UserError, match=f"k={k}: must be at least 1"):
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
