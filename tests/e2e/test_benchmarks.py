"""A benchmark in CoOp's layout is used with two settings: its name and its folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.core.files import read_sealed

TEXTURES = ("banded", "dotted", "zig_zagged")


def write_textures(root: Path) -> None:
    """Writes random textures in DTD's folders, with its split file."""
    rng = np.random.default_rng(0)
    split: dict[str, list] = {}
    for part, count in (("train", 5), ("val", 2), ("test", 2)):
        split[part] = []
        for label, name in enumerate(TEXTURES):
            for index in range(count):
                path = root / "dtd" / "images" / name / f"{name}_{part}_{index}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
                split[part].append([f"{name}/{path.name}", label, name])
    (root / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))


def test_dtd_is_mined_with_its_name_and_its_folder_as_settings(run_here, small, tmp_path: Path):
    write_textures(tmp_path / "DATA")
    settings = [setting for setting in small if not setting.startswith("data.")]
    arguments = ("recipe=ranker_lora", "data.name=dtd", "data.root=DATA", "out=run", "cache=cache")
    done = run_here("data_prep.build", *arguments, *settings)
    assert done.stderr.count("made: ") == 2
    (shots,) = (tmp_path / "cache").glob("split_fewshot-*/shot_2-seed_1.json")
    keys = read_sealed(shots)
    assert len(keys) == 6
    assert all("_train_" in key for key in keys)
