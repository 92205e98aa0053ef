"""A service around the embedded models, and images to send to it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from eval.recognizer.recognizer import Recognizer
from eval.serve.app import Service, build_app
from eval.serve.gate import Limits

CLASSES = draw_classes("test", 8, 4, 0)
NAMES = [blazon.name for blazon in CLASSES]
TOKEN = "a token of this test"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


def encoded(image, kind: str = "PNG") -> bytes:
    """Returns an image's file."""
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


@pytest.fixture(scope="session")
def images() -> list[list[bytes]]:
    """Three files per class."""
    return [
        [encoded(render(blazon, 96, np.random.default_rng([label, number]))) for number in range(3)]
        for label, blazon in enumerate(CLASSES)
    ]


@pytest.fixture(scope="session")
def recognizer(finished: Path) -> Recognizer:
    return Recognizer.from_pretrained(finished, NAMES)


@pytest.fixture
def serve(recognizer, images) -> Iterator[Callable[..., TestClient]]:
    """Starts a service whose memory has the first five classes, with two images each."""
    recognizer.remember(NAMES[:1])
    for name, files in zip(NAMES[:5], images, strict=False):
        recognizer.memory.add(name, files[:2])
    clients = []

    def start(
        token: str = TOKEN,
        folder: Path | None = None,
        limits: Limits | None = None,
        change: Callable[[Service], None] = lambda service: None,
    ) -> TestClient:
        service = Service(recognizer, folder, limits or Limits(100_000, 8))
        change(service)
        client = TestClient(build_app(service, token), raise_server_exceptions=False)
        clients.append(client.__enter__())
        return client

    yield start
    for client in clients:
        client.__exit__()


def send(client, files: list[bytes], **form) -> dict:
    """Has images recognised; the reply has status 200."""
    parts = [("images", (f"{number}.png", data)) for number, data in enumerate(files)]
    response = client.post("/recognise", files=parts, data=form)
    assert response.status_code == 200, response.text
    return response.json()["results"]


def assert_equal(results: list[dict], expected: list[dict]) -> None:
    """Compares results; similarities differ in the last bits between batches."""
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected, strict=True):
        for key in ("name", "known", "ranked", "error"):
            assert result[key] == wanted[key]
        assert [c["name"] for c in result["candidates"]] == [c["name"] for c in wanted["candidates"]]
        for candidate, other in zip(result["candidates"], wanted["candidates"], strict=True):
            for key in ("probability", "score"):
                assert candidate[key] == pytest.approx(other[key], abs=1e-5)
