"""The demo: its actions on images and classes, and the page as a browser and a program use it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.core.errors import UserError
from data_prep.memory.stored import count_classes
from eval.demo.actions import Demo, check_upload
from eval.demo.page import Options, serve
from eval.recognizer.kept import choose_classes, lock_kept
from eval.recognizer.recognizer import Recognizer
from tests.eval.browsing import as_on_a_phone

CLASSES = draw_classes("test", 8, 4, 0)
NAMES = [blazon.name for blazon in CLASSES]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Three files per class."""
    folder = tmp_path_factory.mktemp("uploads")
    for label, blazon in enumerate(CLASSES):
        for number in range(3):
            render(blazon, 96, np.random.default_rng([label, number])).save(folder / f"{label}-{number}.png")
    return [[str(folder / f"{label}-{number}.png") for number in range(3)] for label in range(8)]


@pytest.fixture(scope="module")
def recognizer(finished: Path) -> Recognizer:
    return Recognizer.from_pretrained(finished, NAMES)


@pytest.fixture
def demo(recognizer, images) -> Demo:
    """A demo whose memory has the first five classes, with two images each."""
    recognizer.remember({name: files[:2] for name, files in zip(NAMES[:5], images, strict=False)})
    return Demo(recognizer, 1e6)


def test_recognition_gives_candidates_examples_and_probabilities(demo, images):
    verdict, lines = demo.recognise(images[0][0], 4)
    assert len(lines) == 4 and sorted(line.retrieved for line in lines) == [1, 2, 3, 4]
    assert sum(line.probability for line in lines) == pytest.approx(1)
    assert [line.probability for line in lines] == sorted((line.probability for line in lines), reverse=True)
    by_score = sorted(lines, key=lambda line: line.retrieved)
    assert [line.score for line in by_score] == sorted((line.score for line in lines), reverse=True)
    for line in lines:
        assert line.example in images[NAMES.index(line.name)][:2]
    assert verdict.startswith("Retrieved 4 of 5 classes") and "The ranker (likelihood)" in verdict


def test_a_class_is_added_retrieved_and_removed(demo, images):
    assert demo.add(NAMES[6], images[6][:2]) == f"Added the class {NAMES[6]}: 2 new images, 2 in all."
    assert [NAMES[6], 2] in demo.classes()
    # An image is its own nearest neighbour.
    line = next(line for line in demo.recognise(images[6][0], 5)[1] if line.name == NAMES[6])
    assert (line.retrieved, line.example) == (1, images[6][0])
    assert "1 new images, 3 in all; 2 were there already" in demo.add(NAMES[6], images[6])
    assert demo.remove(NAMES[6]) == f"Removed {NAMES[6]} with 3 images."
    assert NAMES[6] not in {line.name for line in demo.recognise(images[6][0], 26)[1]}
    assert "found by its name alone" in demo.add(NAMES[7], None)


def test_rejected_input_gives_an_error_and_changes_nothing(demo, images, tmp_path):
    before = demo.classes()
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "half.png").write_bytes(Path(images[0][0]).read_bytes()[:900])
    Image.new("RGB", (9, 9)).save(tmp_path / "print.eps")
    (tmp_path / "print.eps").rename(tmp_path / "print.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 700, 3), np.uint8)).save(tmp_path / "large.png")
    for name, message in {
        "text.png": "text.png: not an image of an accepted format: PNG, JPEG",
        "print.png": "print.png: not an image of an accepted format",
        "half.png": "half.png: not readable as an image: truncated",
        "large.png": "large.png: 1.5 MB, but at most 1 MB",
    }.items():
        with pytest.raises(UserError, match=message) as raised:
            demo.add("new", [images[5][0], str(tmp_path / name)])
        assert str(tmp_path) not in str(raised.value)
        with pytest.raises(UserError, match=message):
            demo.recognise(str(tmp_path / name), 3)
    for name, files, message in (
        ("", images[5], "name"),
        (NAMES[0], [], "known already"),
        ("n", ["x"] * 101, "at most"),
    ):
        with pytest.raises(UserError, match=message):
            demo.add(name, files)
    for k in (0, 51):
        with pytest.raises(UserError, match=r"must be in 1\.\.50"):
            demo.recognise(images[0][0], k)
    for action in (lambda: demo.recognise(None, 3), lambda: demo.remove(None), lambda: demo.remove("other")):
        with pytest.raises(UserError, match=r"drop an image|choose a class|no such class"):
            action()
    assert demo.classes() == before


def test_a_kept_memory_has_every_change_at_the_next_start(demo, recognizer, finished, images, tmp_path):
    keep = tmp_path / "kept"
    first = Demo(recognizer, 1e6, keep)
    first.add(NAMES[6], images[6])
    first.remove(NAMES[0])
    assert choose_classes("photographs", keep, "--keep") == str(keep)
    again = Demo(Recognizer.from_pretrained(finished, choose_classes(None, keep, "--keep")), 1e6, keep)
    assert again.classes() == first.classes() == sorted([[NAMES[6], 3], *([name, 2] for name in NAMES[1:5])])
    again.add(NAMES[7], images[7][:1])
    assert count_classes(keep) == dict(again.classes())
    assert Recognizer.load(keep, finished).memory.classes == dict(again.classes())
    with pytest.raises(UserError, match="changed by another command"):
        first.add("late", images[5])
    assert first.classes() == again.classes()  # what is on disk
    with lock_kept(keep), pytest.raises(UserError), lock_kept(keep):
        pass
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"--keep .*: holds kept, thesis\.tex, but no memory"):
        choose_classes(None, tmp_path, "--keep")


def test_an_image_too_large_to_decode_is_refused(tmp_path):
    Image.new("1", (20_000, 9_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match=r"bomb\.png: not readable as an image: a decompression bomb"):
        check_upload(tmp_path / "bomb.png", 1e9)


def test_without_a_folder_the_classes_are_the_runs_own(finished, images):
    recognizer = Recognizer.from_pretrained(finished)
    assert len(recognizer.memory.classes) == 8 and set(recognizer.memory.classes.values()) == {1}  # eval.shots=[1,2]
    assert recognizer.predict([images[0][0]])[0].examples[0] is not None


def test_invalid_options_on_the_command_line_are_named(finished, monkeypatch):
    for port in (0, 65536):
        with pytest.raises(UserError, match=f"--port {port}"):
            serve(Options(finished, port=port))
    with pytest.raises(UserError, match="--most-mb"):
        serve(Options(finished, most_mb=0))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'rar-train\[page\]'"):
        serve(Options(finished))


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture
def address(demo, tmp_path, monkeypatch):
    """The page, served by this process."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    pytest.importorskip("gradio", reason="needs the extra page")
    from eval.demo.page import build_page, launch

    page = build_page(demo)
    port = _free_port()
    yield launch(page, "127.0.0.1", port, demo.max_bytes)
    with pytest.raises(UserError, match=rf"--port {port}: can't listen there"):
        launch(build_page(demo), "127.0.0.1", port, demo.max_bytes)
    page.close()


def test_a_program_calls_the_page(address, demo, images, tmp_path):
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False, download_files=str(tmp_path / "answers"))

    def recognise(file: str) -> tuple[str, dict]:
        return client.predict(handle_file(file), 3, api_name="/recognise")

    page, metrics = recognise(images[1][0])
    assert [line["name"] for line in metrics["ranking"]] == [line.name for line in demo.recognise(images[1][0], 3)[1]]
    assert page.count("data:image/webp;base64,") == 3 and "Retrieved 3 of 5 classes" in metrics["verdict"]
    name = "one's <b>own</b>"
    files = [handle_file(file) for file in images[6][:2]]
    assert client.predict(name, files, api_name="/add")[0] == f"Added the class {name}: 2 new images, 2 in all."
    page, metrics = recognise(images[6][1])
    assert name in {line["name"] for line in metrics["ranking"]} and "<b>" not in page
    assert "Removed" in client.predict(name, api_name="/remove")[0]
    assert name not in {line["name"] for line in recognise(images[6][1])[1]["ranking"]}
    # Refused: an unknown class, a file that is too large before it is stored, and a truncated image.
    with pytest.raises(Exception, match="no such class"):
        client.predict(name, api_name="/remove")
    response = httpx.post(f"{address}gradio_api/upload", files={"files": ("large.png", b"0" * 1_100_000)})
    assert response.status_code == 413 and "maximum allowed size of 1000000 bytes" in response.text
    (tmp_path / "half.png").write_bytes(Path(images[0][0]).read_bytes()[:900])
    with pytest.raises(Exception, match=r"half\.png: not readable as an image: truncated"):
        recognise(str(tmp_path / "half.png"))


def _call_api(address: str, action: str, *data) -> str:
    """Calls the page's API with a hand-written request, and returns its reply."""
    call = f"{address}gradio_api/call/{action}"
    event = httpx.post(call, json={"data": data}).json()["event_id"]
    return httpx.get(f"{call}/{event}", timeout=20).text


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
def test_a_file_that_was_not_uploaded_is_not_opened(address, demo, images, meta, tmp_path):
    before = demo.classes()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "uploads").mkdir(exist_ok=True)
    (tmp_path / "uploads" / "own.png").write_bytes(Path(images[0][0]).read_bytes())
    existing, missing = images[0][0], str(Path(images[0][0]).with_name("9-9.png"))
    others = [
        str(tmp_path / "pipe.png"),
        str(tmp_path),
        str(tmp_path / "uploads" / "own.png"),
        "http://127.0.0.1:1/a.png",
    ]

    def replies(path: str) -> str:
        file = {"path": path, **meta}
        texts = [_call_api(address, "recognise", file, 3), _call_api(address, "add", "new", [file])]
        assert all("event: error" in text for text in texts)
        return "".join(texts).replace(Path(path).name, "NAME")

    assert replies(existing) == replies(missing)  # the error does not reveal which files exist
    for path in others:
        assert "ranking" not in replies(path)
    assert demo.classes() == before


def test_a_name_with_control_characters_is_refused(demo, images):
    for name in ("a\ud800b", "a\0b", "a\nb"):
        with pytest.raises(UserError, match="control characters"):
            demo.add(name, images[5])
    with pytest.raises(UserError, match="choose a class"):
        demo.remove(["a"])


def test_another_spelling_of_a_name_is_the_same_class(demo, images):
    assert demo.add(" caf\u00e9\u2028rouge ", images[5][:1]) == "Added the class café rouge: 1 new images, 1 in all."
    message = "Added café rouge: 1 new images, 2 in all."
    assert demo.add("CAFE\u0301  rouge\u200b", images[5][1:2]) == message
    with pytest.raises(UserError, match="café rouge: known already; drop images"):
        demo.add("Caf\u00e9 Rouge", [])
    assert [row for row in demo.classes() if "rouge" in row[0].casefold()] == [["café rouge", 2]]
    assert demo.remove("CAFE\u0301 ROUGE").endswith("with 2 images.")
    with pytest.raises(UserError, match="a name is text with a visible character"):
        demo.add("\u115f", images[5][:1])


def test_an_upload_that_is_not_a_regular_file_is_refused(demo, images, tmp_path):
    (tmp_path / "link.png").symlink_to(images[0][0])
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("link.png", "pipe.png", "missing.png", "."):
        with pytest.raises(UserError, match="drop it again"):
            demo.recognise(str(tmp_path / name), 3)


@pytest.fixture
def visit(browser, address) -> Visit:
    browser.get(address)
    yield Visit(browser)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


class Visit:
    """A visitor's actions on the page."""

    def __init__(self, browser):
        self.browser = browser

    def wait_for(self, css: str, content: str = "", count: int = 1) -> list[str]:
        """Waits for a number of elements whose text or value contains something; returns their texts."""

        def find_texts(_) -> list[str] | None:
            elements = self.browser.find_elements(By.CSS_SELECTOR, css)
            texts = [element.text or element.get_attribute("value") or "" for element in elements]
            return texts if len(texts) == count and all(content in text for text in texts) else None

        wait = WebDriverWait(self.browser, 30, ignored_exceptions=[StaleElementReferenceException])
        return wait.until(find_texts, f"{count} of {css} with {content!r}")

    def press(self, name: str) -> None:
        """Clicks a button or the title of a tab; Gradio keeps hidden copies of these."""
        buttons = self.browser.find_elements(By.XPATH, f"//button[normalize-space()='{name}']")
        next(button for button in buttons if button.is_displayed()).click()

    def write(self, path: str, *keys: str) -> None:
        """Types into a field, once it is on the screen."""
        clickable = expected_conditions.element_to_be_clickable((By.XPATH, path))
        WebDriverWait(self.browser, 30).until(clickable).send_keys(*keys)

    def drop(self, accepted: str, files: list[str]) -> None:
        """Drops files onto the field that accepts a kind."""
        self.wait_for(field := f"input[type=file][accept*='{accepted}']")
        self.browser.find_element(By.CSS_SELECTOR, field).send_keys("\n".join(files))


def test_a_visitor_drops_an_image_and_adds_and_removes_a_class(visit, images):
    visit.drop("image/", images[0][2:])
    lines = visit.wait_for(".ranked li", "retriever rank ", 4)  # eval.k, at once
    assert {line.split(". ", 1)[1].splitlines()[0] for line in lines} < set(NAMES[:5])
    assert all("%" in line for line in lines)
    widths = "return [...document.querySelectorAll('.ranked img')].map(image => image.naturalWidth)"
    assert len(shown := visit.browser.execute_script(widths)) == 4 and all(shown)
    visit.press("Classes")
    visit.write("//label[contains(., 'Name')]//input", "dropped here")
    visit.drop(".png", images[6][:2])
    visit.wait_for(".file-preview tr", ".png", 2)
    visit.press("Add")
    visit.wait_for("textarea[disabled]", "Added the class dropped here: 2 new images")
    visit.write("//input[@aria-label='Class']", "dropped here", Keys.TAB)
    visit.press("Remove")
    visit.wait_for("textarea[disabled]", "Removed dropped here with 2 images.")


def test_the_page_fits_a_phone_and_names_a_rejected_file(visit, tmp_path):
    as_on_a_phone(visit.browser, "dark")
    (tmp_path / "text.png").write_text("not an image")
    visit.drop("image/", [str(tmp_path / "text.png")])
    visit.wait_for(".toast-body", "text.png: not an image of an accepted format")
    overflow = visit.browser.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    visit.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert overflow == 0
