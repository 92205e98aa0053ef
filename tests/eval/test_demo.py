"""The demo: what it does with pictures and classes, and the page that a browser or a program calls."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from data_prep.blazon import draw_classes
from data_prep.errors import UserError
from data_prep.shields import render
from eval.demo_actions import Demo, checked
from eval.demo_page import serve
from eval.recognizer import Recognizer

CLASSES = draw_classes("test", 8, 4, 0)
NAMES = [blazon.name for blazon in CLASSES]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Three files a class."""
    folder = tmp_path_factory.mktemp("dropped")
    for label, blazon in enumerate(CLASSES):
        for number in range(3):
            render(blazon, 96, np.random.default_rng([label, number])).save(folder / f"{label}-{number}.png")
    return [[str(folder / f"{label}-{number}.png") for number in range(3)] for label in range(8)]


@pytest.fixture(scope="module")
def recognizer(finished: Path) -> Recognizer:
    return Recognizer.from_pretrained(finished, NAMES)


@pytest.fixture
def demo(recognizer, pictures) -> Demo:
    """Knows the first five classes by two pictures each."""
    recognizer.remember({name: files[:2] for name, files in zip(NAMES[:5], pictures, strict=False)})
    return Demo(recognizer, 1e6)


def test_a_picture_shows_candidates_examples_and_probabilities(demo, pictures):
    said, lines = demo.recognise(pictures[0][0], 4)
    assert len(lines) == 4 and sorted(line.retrieved for line in lines) == [1, 2, 3, 4]
    assert sum(line.probability for line in lines) == pytest.approx(1)
    assert [line.probability for line in lines] == sorted((line.probability for line in lines), reverse=True)
    by_score = sorted(lines, key=lambda line: line.retrieved)
    assert [line.score for line in by_score] == sorted((line.score for line in lines), reverse=True)
    for line in lines:
        assert line.example in pictures[NAMES.index(line.name)][:2]
    assert said.startswith("Retrieved 4 of 5 classes") and "The ranker (likelihood)" in said


def test_a_class_is_added_found_and_removed(demo, pictures):
    assert demo.add(NAMES[6], pictures[6][:2]) == f"Added the class {NAMES[6]}: 2 new pictures, 2 in all."
    assert [NAMES[6], 2] in demo.classes()
    # Its own picture is the nearest of all to itself.
    line = next(line for line in demo.recognise(pictures[6][0], 5)[1] if line.name == NAMES[6])
    assert (line.retrieved, line.example) == (1, pictures[6][0])
    assert "1 new pictures, 3 in all; 2 were there already" in demo.add(NAMES[6], pictures[6])
    assert demo.remove(NAMES[6]) == f"Removed {NAMES[6]} with 3 pictures."
    assert NAMES[6] not in {line.name for line in demo.recognise(pictures[6][0], 26)[1]}
    assert "found by its name alone" in demo.add(NAMES[7], None)


def test_what_is_not_taken_is_said_and_changes_nothing(demo, pictures, tmp_path):
    before = demo.classes()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(Path(pictures[0][0]).read_bytes()[:900])
    Image.new("RGB", (9, 9)).save(tmp_path / "print.eps")
    (tmp_path / "print.eps").rename(tmp_path / "print.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 700, 3), np.uint8)).save(tmp_path / "large.png")
    for name, said in {
        "text.png": "text.png: not a picture of a format that is taken: PNG, JPEG",
        "print.png": "print.png: not a picture of a format that is taken",
        "half.png": "half.png: not readable as an image: truncated",
        "large.png": "large.png: 1.5 MB, but at most 1 MB",
    }.items():
        with pytest.raises(UserError, match=said) as raised:
            demo.add("new", [pictures[5][0], str(tmp_path / name)])
        assert str(tmp_path) not in str(raised.value)
        with pytest.raises(UserError, match=said):
            demo.recognise(str(tmp_path / name), 3)
    for name, files, said in (
        ("", pictures[5], "name"),
        (NAMES[0], [], "known already"),
        ("n", ["x"] * 101, "at most"),
    ):
        with pytest.raises(UserError, match=said):
            demo.add(name, files)
    for k in (0, 27):
        with pytest.raises(UserError, match=r"must lie in 1\.\.26"):
            demo.recognise(pictures[0][0], k)
    for action in (lambda: demo.recognise(None, 3), lambda: demo.remove(None), lambda: demo.remove("other")):
        with pytest.raises(UserError, match=r"drop a picture|choose a class|no such class"):
            action()
    assert demo.classes() == before


def test_a_picture_too_large_to_decode_is_refused(tmp_path):
    Image.new("1", (20_000, 9_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match=r"bomb\.png: not readable as an image: a decompression bomb"):
        checked(tmp_path / "bomb.png", 1e9)


def test_without_a_folder_the_classes_are_the_runs_own(finished, pictures):
    recognizer = Recognizer.from_pretrained(finished)
    assert len(recognizer.memory.classes) == 8 and set(recognizer.memory.classes.values()) == {1}  # eval.shots=[1,2]
    assert recognizer.predict([pictures[0][0]])[0].examples[0] is not None


def test_mistakes_on_the_command_line_are_named(finished, monkeypatch):
    for port in (0, 65536):
        with pytest.raises(UserError, match=f"--port {port}"):
            serve(finished, None, [], "127.0.0.1", port, 10)
    with pytest.raises(UserError, match="--most-mb"):
        serve(finished, None, [], "127.0.0.1", 7860, 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'rar-train\[page\]'"):
        serve(finished, None, [], "127.0.0.1", 7860, 10)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def address(demo, tmp_path, monkeypatch):
    """The page, served by this process."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    pytest.importorskip("gradio", reason="needs the extra page")
    from eval.demo_page import build_page, launch

    page = build_page(demo)
    port = _free_port()
    yield launch(page, "127.0.0.1", port, demo.most_bytes)
    with pytest.raises(UserError, match=rf"--port {port}: can't listen there"):
        launch(build_page(demo), "127.0.0.1", port, demo.most_bytes)
    page.close()


def test_a_program_asks_the_page(address, demo, pictures, tmp_path):
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False, download_files=str(tmp_path / "answers"))

    def recognised(file: str) -> tuple[str, dict]:
        return client.predict(handle_file(file), 3, api_name="/recognise")

    page, figures = recognised(pictures[1][0])
    assert [line["name"] for line in figures["ranking"]] == [line.name for line in demo.recognise(pictures[1][0], 3)[1]]
    assert page.count("data:image/webp;base64,") == 3 and "Retrieved 3 of 5 classes" in figures["verdict"]
    name = "one's <b>own</b>"
    files = [handle_file(file) for file in pictures[6][:2]]
    assert client.predict(name, files, api_name="/add")[0] == f"Added the class {name}: 2 new pictures, 2 in all."
    page, figures = recognised(pictures[6][1])
    assert name in {line["name"] for line in figures["ranking"]} and "<b>" not in page
    assert "Removed" in client.predict(name, api_name="/remove")[0]
    assert name not in {line["name"] for line in recognised(pictures[6][1])[1]["ranking"]}
    # Refused: before it is stored where it is too large, or in words.
    with pytest.raises(Exception, match="no such class"):
        client.predict(name, api_name="/remove")
    sent = httpx.post(f"{address}gradio_api/upload", files={"files": ("large.png", b"0" * 1_100_000)})
    assert sent.status_code == 413 and "maximum allowed size of 1000000 bytes" in sent.text
    (tmp_path / "half.png").write_bytes(Path(pictures[0][0]).read_bytes()[:900])
    with pytest.raises(Exception, match=r"half\.png: not readable as an image: truncated"):
        recognised(str(tmp_path / "half.png"))
