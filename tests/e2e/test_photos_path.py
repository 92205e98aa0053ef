"""The steps of ``make photos`` after its models, on drawn photographs in Caltech-101's layout and tiny models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.core.files import read_json
from data_prep.core.manifests import seal_folder
from tests.rar_train.lite.test_mllm import photo_join

ROOT = Path(__file__).parents[2]
CLASSES = ("anchor", "barrel", "camera", "dalmatian", "elephant", "flamingo", "gramophone", "hawksbill")
SHARED = ("data.root=photos", "trainer.accelerator=cpu", "tracking.wandb=disabled")


def draw_photos(root: Path) -> None:
    """Draws pictures of one color per class in Caltech-101's folders, with its split file."""
    rng = np.random.default_rng(0)
    split: dict[str, list] = {}
    for part, count in (("train", 6), ("val", 4), ("test", 3)):
        split[part] = []
        for label, name in enumerate(CLASSES):
            for index in range(count):
                path = root / "caltech-101" / "101_ObjectCategories" / name / f"{part}_{index}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.full((64, 64, 3), [32 * label, 255 - 32 * label, 128 * (label % 2)])
                noise = rng.integers(-20, 20, pixels.shape)
                Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(path, quality=95)
                split[part].append([f"{name}/{path.name}", label, name])
    (root / "caltech-101" / "split_zhou_Caltech101.json").write_text(json.dumps(split))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    draw_photos(tmp_path / "photos")
    model, processor, _ = photo_join(slots=2)
    model.save_pretrained(tmp_path / "lite")
    processor.save_pretrained(tmp_path / "lite")
    seal_folder(tmp_path / "lite", {"names": [f"class {n}" for n in range(1000)]})
    return tmp_path


def test_projector_ranker_evaluations_and_table_run_one_after_the_other(run_here, place: Path):
    settings = ("ranker.model=lite", "optim.batch_size=6", "optim.epochs=10", "trainer.checkpoint_every=20")
    run_here("rar_train.fit", "recipe=mllm_caltech", *settings, *SHARED)
    names = read_json(place / "runs/mllm_caltech/model/manifest.json")["names"]
    assert names[1000:] == ["anchor", "barrel"]  # half of the classes, and of these two are of val alone
    settings = ("retriever.model=nano-clip", "optim.max_steps=3", "optim.batch_size=4", "trainer.checkpoint_every=3")
    run_here("rar_train.fit", "recipe=ranker_lora_caltech", *settings, *SHARED)
    sizes = ("eval.shots=[1,4]", "eval.seeds=[1,2]", "eval.bootstrap=50")
    run_here("eval.run", "--ckpt", "runs/ranker_lora_caltech", *sizes, "--name", "all")
    run_here("eval.run", "--ckpt", "runs/ranker_lora_caltech", "--base-to-new", "--name", "base_to_new", *sizes)
    command = [sys.executable, str(ROOT / "benchmarks" / "photos.py")]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "| 4 | `rar` |" in done.stdout and "| 87.9 |" in done.stdout  # the paper's CLIP+KNN
    metrics = json.loads(done.stdout.splitlines()[-1])
    assert {row["shots"] for row in metrics["rows"]} == {0, 1, 4}
    assert metrics["halves"]["4-rar-new"][1] == metrics["halves"]["4-rar-base"][1] == 2 * 12
    assert metrics["base_to_new"]
