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
from eval.report.page import render_page, write_pages
from eval.report.plots import line_plot
from eval.report.reading import read_evaluations
from eval.report.thumbnails import thumbnail
from tests.eval.evaluation_folder import CHOICES, NAMES, choice_of, write_evaluation


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
    html = write_pages(evaluation)[0].read_text(encoding="utf-8")
    page = Page(html)
    # Namespaces in SVG are names and are not fetched.
    fetched = [a.get("src") or a.get("href") for tag, a in page.tags if tag in ("script", "link", "img", "iframe")]
    assert [source for source in fetched if source] == []
    data = json.loads(page.script)
    assert len(data["cases"]) == data["total"] == 3 * 6  # the first seed of three settings
    assert set(data["names"]) == set(NAMES)
    shown = dict(zip(data["keys"], data["pictures"], strict=True))
    assert shown["image-0"].startswith("data:image/webp;base64,") and shown["image-5"] is None


def test_no_name_or_reply_becomes_markup(evaluation):
    page = Page(write_pages(evaluation)[0].read_text(encoding="utf-8"))
    assert sum(tag == "script" for tag, _ in page.tags) == 4
    assert not any(tag in ("b", "i") for tag, _ in page.tags)
    assert "<b>gules</b>" in page.texts  # in the table of confusions, as text


def test_the_page_shows_accuracies_gains_and_outcomes(evaluation):
    page = Page(write_pages(evaluation)[0].read_text(encoding="utf-8"))
    text = re.sub(r"\s+", " ", " ".join(page.texts))
    assert "51.5 ± 0.7" in text  # mean and deviation of 51 and 52
    assert "4 shots: rar - rar_untuned = +10.0 points (95 % interval -5.0 to +25.0)" in text
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
    for name in ("predictions.jsonl.gz", "pictures.json", "results.json"):
        intact = (evaluation / name).read_bytes()
        edited = intact.replace(b"image-1", b"image-2", 1).replace(b"0.52", b"0.92", 1)
        (evaluation / name).write_bytes(edited if edited != intact else intact[:-1])
        with pytest.raises(UserError, match=rf"{name}: damaged .*; run the command that wrote it again"):
            read_evaluations(evaluation)
        (evaluation / name).write_bytes(intact)
    assert read_evaluations(evaluation)


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", " ".join(Page(html).texts))


def test_an_explicit_k_has_no_choices_and_no_calibration(evaluation):
    html = write_pages(evaluation)[0].read_text(encoding="utf-8")
    assert "rar_fused" not in html
    text = text_of(html)
    assert "k = 3." in text and "best retriever" in text and "ceiling" in text
    assert "Chosen on validation" not in text and "Calibration" not in text and " used " not in text


def test_the_page_shows_what_was_chosen_and_the_calibration(tmp_path):
    html = write_pages(write_evaluation(tmp_path, True, CHOICES))[0].read_text(encoding="utf-8")
    text = text_of(html)
    assert "k = 5, 10." in text
    assert "uses rar_fused, candidates from images and names, k = 10: highest top-1 on 9 images." in text
    assert "the retriever alone is better on validation images: it is used (highest top-1 on 9 images)" in text
    assert "4 shots images 10 80.0 50.0 4 shots images and names 10 80.0 50.0" in text
    assert "4 shots rar_fused 14.1 2.3 13.2 Reliability" in text  # without an error after calibration given a hit
    assert "rar_fused: expected calibration error 14.1 % before, 2.3 % after" in text
    by_k = html[html.index('id="by-k"') : html.index('id="sources"')]
    assert by_k.count("<svg") == 2 and by_k.count("images/s") == 1  # no speed was measured for one of them
    assert "k = 10" in by_k and "k = 5" in by_k


def test_without_a_fused_ranking_or_one_number_of_candidates_the_page_is_still_written(tmp_path):
    alone = choice_of("rar", 1)
    alone |= {"curve": [alone["curve"][0] | {"rar_fused": None}]}
    html = write_pages(write_evaluation(tmp_path, choices={"choice": {"few_shot-1": alone}}))[0].read_text(
        encoding="utf-8"
    )
    assert "1 shot images 1 80.0 50.0" in text_of(html) and 'id="by-k"' not in html


def test_several_data_sets_have_the_average_at_the_top_and_a_row_each_of_what_was_chosen(tmp_path):
    ((_, evaluated),) = read_evaluations(write_evaluation(tmp_path, True))
    both = {"armory": CHOICES["choice"], "dtd": {"few_shot-4": choice_of("rar", 4)}}
    results = evaluated.results | {"datasets": ["armory", "dtd"], "dataset": "armory, dtd", "choice": both}
    results |= {"rows": results["rows"] + [row | {"dataset": "average"} for row in results["rows"]]}
    results |= {"summary": [part | {"dataset": "average"} for part in results["summary"]]}
    text = text_of(render_page([evaluated, evaluated], results))
    assert "armory, 4 shots images 10" in text and "dtd, 4 shots images 4" in text
    assert text.count("best retriever") == 3


def test_a_folder_without_an_evaluation_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"no evaluation there.*python -m eval.run --ckpt"):
        read_evaluations(tmp_path)


def test_a_missing_or_broken_file_gives_no_thumbnail(tmp_path):
    Image.fromarray(np.full((300, 100, 3), 255, np.uint8)).save(tmp_path / "tall.png")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    assert thumbnail(tmp_path / "tall.png", 60).startswith("data:image/webp;base64,")
    assert thumbnail(tmp_path / "broken.png", 60) is None
    assert thumbnail(tmp_path / "gone.png", 60) is None
