"""The command: what it says before and after a training."""

from __future__ import annotations

import shutil

import numpy as np
from PIL import Image

from rar_train.fit import fit


def test_the_end_names_the_next_commands_also_where_the_run_was_complete(finished, tiny, tmp_path, caplog):
    caplog.set_level("INFO")
    out = shutil.copytree(finished, tmp_path / "my run")
    fit(tiny(out))
    assert f"next: python -m eval.run --ckpt '{out}'" in caplog.text
    assert f"next: python -m eval.predict --ckpt '{out}' IMAGES" in caplog.text
    assert "nothing about your data" not in caplog.text


def test_embedded_models_on_other_data_are_said_before_and_after(tiny, tmp_path, caplog):
    caplog.set_level("INFO")
    for index in range(18):
        path = tmp_path / "photos" / "abc"[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(index).integers(0, 255, (32, 32, 3), np.uint8)).save(path)
    fit(tiny(tmp_path / "run", "data.name=folder", f"data.root={tmp_path / 'photos'}", "optim.max_steps=1"))
    said = [record.getMessage() for record in caplog.records]
    notes = [index for index, line in enumerate(said) if "nothing about your data" in line]
    done = next(index for index, line in enumerate(said) if "training: done" in line)
    assert len(notes) == 2 and notes[0] < done < notes[1]
