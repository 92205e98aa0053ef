"""The example readers in docs/datasets.md, run from the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data_prep import datasets

PAGE = Path(__file__).resolve().parents[3] / "docs" / "datasets.md"


@pytest.fixture
def add_reader(monkeypatch):
    """Adds a reader of the page to ``READERS``, as its line in ``__init__.py`` would."""

    def add(name: str) -> None:
        (code,) = (code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if name in code)
        namespace: dict = {}
        exec(code, namespace)
        monkeypatch.setitem(datasets.READERS, name, namespace[f"read_{name}"])

    return add


def test_the_pages_reader_of_fixed_splits_works(add_reader, tmp_path, draw_picture, read_named, error_message):
    add_reader("shells")
    base, seed = tmp_path / "data" / "shells", 0
    for split, count in (("train", 4), ("test", 2)):
        lines = []
        for name in ("dog whelk", "cowrie"):
            for number in range(count):
                path = f"{split}/{name.split()[0]}{number}.png"
                seed += 1
                draw_picture(base / path, seed)
                lines.append(f"{path} {name}\n")
        (base / f"{split}.txt").write_text("".join(lines))
    dataset = read_named("shells", tmp_path / "data")
    assert dataset.names == ("cowrie", "dog whelk") and dataset.templates == ("a photo of a {}, a type of shell.",)
    counts = {part: len(samples) for part, samples in dataset.parts.items()}
    assert counts == {"train": 6, "val_memory": 6, "val": 2, "test_memory": 8, "test": 4}
    assert read_named("shells", base) == dataset
    (base / "train" / "dog0.png").unlink()
    assert "dog0.png: no such image" in error_message("shells", base)
    (base / "train.txt").unlink()
    assert "from https://shells.example" in error_message("shells", tmp_path / "data")


def test_the_pages_reader_of_rows_works(add_reader, tmp_path, draw_picture, read_named):
    add_reader("minerals")
    lines = ["file,mineral\n"]
    for label, name in enumerate(("quartz", "beryl")):
        for number in range(5):
            draw_picture(tmp_path / "data" / f"{name}{number}.png", 10 * label + number)
            lines.append(f"{name}{number}.png,{name}\n")
    (tmp_path / "data" / "labels.csv").write_text("".join(lines))
    dataset = read_named("minerals", tmp_path / "data")
    assert dataset.names == ("beryl", "quartz")
    assert [len(dataset.parts[part]) for part in ("train", "val", "test")] == [6, 2, 2]
