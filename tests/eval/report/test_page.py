"""The report page: its content, and that no name can break it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.core.errors import UserError
from eval.report.page import browser_data, render_page, write_page
from eval.report.plots import line_plot
from eval.report.reading import read_evaluations
from eval.report.thumbnails import thumbnail
from tests.eval.evaluation_folder import NAMES, write_evaluation


@pytest.fixture
def evaluation(tmp_path) -> Path:
    return write_evaluation(tmp_path)


class Page(HTMLParser):
    """The parts of a page that the tests use."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.texts, self.script, self._in = [], [], "", ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._in = dict(attributes).get("id", tag) if tag == "script" else self._in

    def handle_endtag(self, tag):
        self._in = "" if tag == "script" else self._in

    def handle_data(self, data):
        if self._in == "data":
            self.script += data
        else:
            self.texts.append(data)


def test_the_page_needs_no_other_file_and_contains_all_predictions(evaluation):
    html = write_page(evaluation).read_text(encoding="utf-8")
    page = Page(html)
    # Namespaces in SVG are names and are not fetched.
    fetched = [a.get("src") or a.get("href") for tag, a in page.tags if tag in ("script", "link", "img", "iframe")]
    assert [source for source in fetched if source] == []
    data = json.loads(page.script)
    assert len(data["cases"]) == data["total"] == 3 * 6  # the first seed of three settings
    assert set(data["names"]) == set(NAMES)
    shown = dict(zip(data["keys"], data["pictures"], strict=True))
    assert shown["image-0"].startswith("data:image/webp;base64,") and shown["image-5"] is None
    case = data["cases"][1]
    assert [data["names"][i] for i in case["candidates"]] == [NAMES[1], NAMES[2], NAMES[3]]
    assert [data["names"][i] for i in case["tuned"]] == [NAMES[3], NAMES[2], NAMES[1]]
    assert case["status"] == "wrong" and data["cases"][0]["outcome"] == "unreadable"


def test_no_name_or_reply_becomes_markup(evaluation):
    page = Page(write_page(evaluation).read_text(encoding="utf-8"))
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert not any(tag in ("b", "i") for tag, _ in page.tags)
    assert "<b>gules</b>" in page.texts  # in the table of confusions, as text


def test_the_page_shows_accuracies_gains_and_outcomes(evaluation):
    page = Page(write_page(evaluation).read_text(encoding="utf-8"))
    text = re.sub(r"\s+", " ", " ".join(page.texts))
    assert "51.5 ± 0.7" in text  # mean and deviation of 51 and 52
    assert "rar - rar_untuned = +10.0 points (95 % interval -5.0 to +25.0)" in text
    assert "unreadable 5 16.7" in text
    for caption in ("Accuracy against shots", "Recall", "share of images ranked", "Position bias", "Reliability"):
        assert caption in text
    assert sum(tag == "svg" for tag, _ in page.tags) == 5


def test_several_runs_are_compared_on_one_page(evaluation):
    (pair,) = read_evaluations(evaluation.parent.parent)
    html = render_page([pair[1], pair[1]])
    page = Page(html)
    assert page.script == ""
    assert " ".join(page.texts).count("run test-letters") > 10


def test_a_runs_name_is_shown_verbatim_whatever_characters_it_has(tmp_path):
    folder = write_evaluation(tmp_path).parent.parent.rename(tmp_path / "$\\lr_{1e-3}$ #2")
    (pair,) = read_evaluations(folder)
    page = Page(render_page([pair[1], pair[1]]))
    assert " ".join(page.texts).count("$\\lr_{1e-3}$ #2 test-letters") > 10
    assert "_under $x^$: ranker" in line_plot("title", [("_under $x^$: ranker", [1, 2], [1, 2])], "x $", "y")


def test_a_page_of_damaged_files_is_refused(evaluation):
    for name in ("predictions.jsonl", "pictures.json", "results.json"):
        intact = (evaluation / name).read_text()
        (evaluation / name).write_text(intact.replace("image-1", "image-2", 1).replace("0.52", "0.92", 1))
        with pytest.raises(UserError, match=rf"{name}: damaged .*; run the command that wrote it again"):
            read_evaluations(evaluation)
        (evaluation / name).write_text(intact)
    assert read_evaluations(evaluation)


def test_a_page_of_many_predictions_keeps_evenly_spaced_ones_of_each_setting(evaluation):
    ((_, evaluated),) = read_evaluations(evaluation)
    data = browser_data(evaluated, most=9)
    assert data["total"] == 18 and [case["setting"] for case in data["cases"]] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data["keys"] == ["image-0", "image-2", "image-5"]


def test_a_folder_without_an_evaluation_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"no evaluation there.*python -m eval.run --ckpt"):
        read_evaluations(tmp_path)


def test_a_missing_or_broken_file_gives_no_thumbnail(tmp_path):
    Image.fromarray(np.full((300, 100, 3), 255, np.uint8)).save(tmp_path / "tall.png")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    assert thumbnail(tmp_path / "tall.png", 60).startswith("data:image/webp;base64,")
    assert thumbnail(tmp_path / "broken.png", 60) is None
    assert thumbnail(tmp_path / "gone.png", 60) is None
