"""The readers that docs/datasets.md shows, as it shows them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data_prep import datasets

PAGE = Path(__file__).resolve().parents[3] / "docs" / "datasets.md"


@pytest.fixture
def shown(monkeypatch):
    """Puts a reader of the page among the readers, as its line in ``__init__.py`` would."""

    def add(name: str) -> None:
        (code,) = (code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if name in code)
        namespace: dict = {}
        exec(code, namespace)
        monkeypatch.setitem(datasets.READERS, name, namespace[f"read_{name}"])

    return add


def test_fixed_splits_are_read_by_the_reader_on_the_page(shown, tmp_path, draw_picture, read_named, refusal):
    shown("shells")
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
    assert "dog0.png: no such image" in refusal("shells", base)
    (base / "train.txt").unlink()
    assert "had from https://shells.example" in refusal("shells", tmp_path / "data").replace("is had", "had")


def test_rows_are_divided_by_the_reader_on_the_page(shown, tmp_path, draw_picture, read_named):
    shown("minerals")
    lines = ["file,mineral\n"]
    for label, name in enumerate(("quartz", "beryl")):
        for number in range(5):
            draw_picture(tmp_path / "data" / f"{name}{number}.png", 10 * label + number)
            lines.append(f"{name}{number}.png,{name}\n")
    (tmp_path / "data" / "labels.csv").write_text("".join(lines))
    dataset = read_named("minerals", tmp_path / "data")
    assert dataset.names == ("beryl", "quartz")
    assert [len(dataset.parts[part]) for part in ("train", "val", "test")] == [6, 2, 2]
