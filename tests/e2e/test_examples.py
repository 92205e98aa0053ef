"""A data set with unusual class names, from images to the files of other trainers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.prompting.replies import read_list

# Names that occur in practice; "Crane" and "crane" are two classes with the same name.
CLASSES = (
    "l'or, d'été",
    "a, b [c]",
    'the "Rock"',
    "ツル目 (鶴)",
    "👩‍🔬 scientist",
    "long " * 60 + "name",
    "crane",
    "Crane",
)


def write_classes(folder: Path, per_class: int = 6) -> None:
    """Writes a table of noisy images, one colour per class, the last in test and the one before in val."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    with open(folder / "samples.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split"])
        for label, name in enumerate(CLASSES):
            colour = rng.integers(0, 256, 3)
            for n in range(per_class):
                noise = rng.integers(-60, 60, (48, 48, 3))
                path = f"images/{label}-{n}.png"
                Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(folder / path)
                table.writerow([path, name, {per_class - 1: "test", per_class - 2: "val"}.get(n, "train")])


def test_unusual_names_survive_from_the_table_to_the_reply_parser(run_here, tmp_path: Path):
    write_classes(tmp_path / "data")
    settings = (
        "recipe=ranker_lora", "data.name=folder", "data.root=data", "cache=cache", "eval.shots=[2]",
        "mining.ground_truth=insert",
    )  # fmt: skip
    done = run_here("data_prep.build", *settings)
    assert "report.html" in done.stderr
    run_here("data_prep.export", "--format", "openai", "--to", "out", *settings)
    records = json.loads((tmp_path / "out" / "openai.json").read_text(encoding="utf-8"))
    assert len(records) == len(CLASSES) * 4 * 2
    expected = {name for name in CLASSES if name != "crane"} | {"crane (2)"}
    seen = set()
    for record in records:
        prompt, answer = (turn["content"] for turn in record["messages"])
        shown = [name for name in expected if repr(name) in prompt]
        assert len(shown) == 5
        assert read_list(answer, shown).outcome == "ok"
        seen.update(shown)
    assert seen == expected
    refused = run_here("data_prep.export", "--format", "openai", "--to", "data", *settings, fails=True)
    assert "holds other files" in refused.stderr
    # An image of the test split that is in train too is a leak.
    (tmp_path / "data/images/0-5.png").write_bytes((tmp_path / "data/images/0-0.png").read_bytes())
    leak = run_here("data_prep.build", *settings, fails=True)
    assert "1 of 32 images of train are evaluated too" in leak.stderr
    skipped = run_here("data_prep.build", *settings, "mining.evaluated_copies=skip")
    assert "left out of train: 1 of 32 images of train are evaluated too" in skipped.stderr
