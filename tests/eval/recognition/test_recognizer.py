"""A memory of one's own classes, the retriever and the ranker in a few lines."""

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
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A folder of two images a class, and another image of each class."""
    folder, queries = tmp_path_factory.mktemp("own"), []
    for label, blazon in enumerate(CLASSES):
        (folder / "classes" / blazon.name).mkdir(parents=True)
        for number in range(3):
            picture = render(blazon, 96, np.random.default_rng([label, number]))
            file = folder / "classes" / blazon.name / f"{number}.png" if number else folder / f"{label}.png"
            picture.save(file)
        queries.append(folder / f"{label}.png")
    return folder / "classes", queries


@pytest.fixture(scope="module")
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run that was fitted: no gate at all for names, and one that asks about nothing for images."""
    copy = shutil.copytree(finished, tmp_path_factory.mktemp("fitted") / "run")
    adapter = read_json(copy / "adapter" / "manifest.json")["adapter"]
    fusions = {
        "zero_shot-0": Fusion(0.5, 0.5, 1.0, 0.05, "margin", 0.0),
        "few_shot-2": Fusion(0.5, 0.5, 1.0, 0.05, "margin", 2.0),
    }
    encoder = load_encoder(RetrieverArgs()).id
    save_fits(fits_path(copy, "likelihood", copy / "adapter"), adapter, encoder, fusions, Refusal("score", 0.5))
    return copy


def test_images_are_recognised_far_better_than_by_chance(finished, own):
    folder, queries = own
    recognizer = Recognizer.from_pretrained(finished, folder)
    found = recognizer.predict(queries, k=4)
    assert sum(one.name == name for one, name in zip(found, NAMES, strict=True)) >= 3
    for one in found:
        assert len(one.names) == 4 and set(one.names) <= set(NAMES)
        assert {candidate.name for candidate in one.candidates} == set(one.names)
        assert sum(one.probabilities) == pytest.approx(1)
        assert list(one.probabilities) == sorted(one.probabilities, reverse=True)
        assert (one.ranked, one.known, one.outcome) == (True, None, "ok")
    assert [one.names for one in recognizer.predict(queries[::-1], k=4)][::-1] == [one.names for one in found]
    # New classes without training; names alone; never more candidates than classes.
    recognizer.remember(NAMES[:3])
    assert {len(one.names) for one in recognizer.predict(queries)} == {3}
    recognizer.remember({NAMES[0]: [queries[0]], NAMES[7]: []})
    assert recognizer.predict(queries[:1])[0].name == NAMES[0]
    assert recognizer.predict([]) == []


@pytest.mark.parametrize("mode", ["likelihood", "letters"])
def test_a_class_named_like_a_control_token_leaves_recognition_whole(finished, own, mode):
    recognizer = Recognizer.from_pretrained(finished, NAMES[:2], f"ranker.mode={mode}")
    for name in ("<image>", "</s>"):
        recognizer.memory.add(name)
    found = recognizer.predict(own[1][:2], 4)
    assert [set(one.names) for one in found] == [{*NAMES[:2], "<image>", "</s>"}] * 2


def test_fits_of_the_run_fuse_gate_and_refuse(run, own):
    folder, queries = own
    recognizer = Recognizer.from_pretrained(run, folder, "eval.fusion=true")
    kept_back = recognizer.predict(queries)
    assert not any(one.ranked for one in kept_back)
    # The retriever's order stands, and the threshold goes by the ranker, which was not asked.
    assert all(one.names == tuple(c.name for c in one.candidates) and one.known is None for one in kept_back)
    recognizer.remember(NAMES)
    found = recognizer.predict(queries)
    # No log-likelihood is as high as the threshold.
    assert all(one.ranked and one.known is False for one in found)
    alone = Recognizer.from_pretrained(run, NAMES).predict(queries)
    assert [one.probabilities for one in alone] != [one.probabilities for one in found]


def test_a_memory_takes_the_fusion_of_its_kind_and_of_the_nearest_number(finished, own, caplog):
    def fusions(*kinds: str) -> dict[str, Fusion]:
        return {kind: Fusion(0.1 * place, 0.5, 1.0, 0.05, "margin", 0.0) for place, kind in enumerate(kinds, 1)}

    recognizer = Recognizer.from_pretrained(finished, NAMES)
    given = recognizer.fusions = fusions("whole_set-0", "few_shot-16", "few_shot-3", "few_shot-1", "zero_shot-0")
    assert recognizer.fusion == given["zero_shot-0"]
    recognizer.remember(own[0])  # two images a class: as near to one as to three
    assert recognizer.fusion == given["few_shot-1"]
    recognizer.fusions = fusions("whole_set-0", "few_shot-16", "zero_shot-0")
    assert recognizer.fusion == recognizer.fusions["few_shot-16"]
    recognizer.fusions = fusions("whole_set-0", "zero_shot-0")
    assert recognizer.fusion == recognizer.fusions["whole_set-0"]
    recognizer.fusions = fusions("whole_set-0")
    assert "every image is ranked" not in caplog.text
    recognizer.remember(NAMES)
    assert recognizer.fusion is None
    assert "fitted for whole_set-0, but not for a memory of names alone: every image is ranked" in caplog.text


def test_mistakes_are_named(finished, own, tmp_path):
    folder, queries = own
    with pytest.raises(UserError, match=r"nothing fitted yet; first run python -m eval\.run .* eval\.fusion=true"):
        Recognizer.from_pretrained(finished, folder, "eval.fusion=true")
    recognizer = Recognizer.from_pretrained(finished, folder)
    for classes in (tmp_path / "nowhere", tmp_path, []):
        with pytest.raises(UserError, match=r"no such folder|no classes"):
            recognizer.remember(classes)
    for classes in ([""], ["a", "\u200b"], [1], {None: []}):
        with pytest.raises(UserError, match="a name is text, and shows something"):
            recognizer.remember(classes)
    for files in (None, "a.png"):
        with pytest.raises(UserError, match="class a: give its image files as a list"):
            recognizer.remember({"a": files})
    for images in (queries[0], str(queries[0]), Image.new("RGB", (9, 9))):
        with pytest.raises(UserError, match="give images as a list"):
            recognizer.predict(images)
    for k in (0, -1):
        with pytest.raises(UserError, match=f"k={k}: must be at least 1"):
            recognizer.predict(queries[:1], k)
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(UserError, match=r"bad\.png: not readable as an image"):
        recognizer.predict([queries[0], tmp_path / "bad.png"])
    # A class whose only picture is skipped is still known by its name; data.on_error=raise refuses it.
    recognizer.remember({"one": [tmp_path / "bad.png"], "two": []})
    assert recognizer.memory.memories.images is None and set(recognizer.predict(queries[:1])[0].names) == {"one", "two"}
    strict = Recognizer.from_pretrained(finished, folder, "data.on_error=raise")
    with pytest.raises(UserError, match=r"bad\.png: not readable as an image"):
        strict.remember({"one": [tmp_path / "bad.png"]})
    with pytest.raises(UserError, match=r"gone\.png: no such image"):
        recognizer.predict([tmp_path / "gone.png"])
