"""An encoder that an earlier command has loaded is loaded again only when something must be embedded."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from data_prep.core.errors import UserError
from data_prep.core.paths import NANO_CLIP
from data_prep.embedding.encoder import embed_names, load_encoder
from data_prep.embedding.known import open_encoder
from data_prep.settings import RetrieverArgs, TrainerArgs

CPU = TrainerArgs(accelerator="cpu")
NAMES = ["azure, a bend or", "gules, a cross argent"]

IS_LOADED = """
import sys
from pathlib import Path
from data_prep.embedding.encoder import embed_names
from data_prep.embedding.known import open_encoder
from data_prep.settings import RetrieverArgs, TrainerArgs
encoder = open_encoder(RetrieverArgs(), TrainerArgs(accelerator="cpu"), Path(sys.argv[1]))
print(encoder.id, "open_clip" in sys.modules)
embed_names(encoder, ["azure, a bend or"], RetrieverArgs(), Path(sys.argv[1]))
print(encoder.id, "open_clip" in sys.modules)
"""


def test_a_known_encoder_is_loaded_when_it_embeds(tmp_path):
    loaded = load_encoder(RetrieverArgs(), CPU)
    assert open_encoder(RetrieverArgs(), CPU, tmp_path).id == loaded.id
    done = subprocess.run([sys.executable, "-c", IS_LOADED, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [loaded.id, "False", loaded.id, "True"]
    known = open_encoder(RetrieverArgs(), CPU, tmp_path)
    assert known.metadata == loaded.metadata and known.processes is CPU
    for encoder in (known, pickle.loads(pickle.dumps(known))):
        found = embed_names(encoder, NAMES, RetrieverArgs(), tmp_path)
        assert np.array_equal(found, embed_names(loaded, NAMES, RetrieverArgs(), tmp_path / "own"))


def test_other_files_or_settings_are_another_encoder(tmp_path):
    folder = shutil.copytree(NANO_CLIP, tmp_path / "model")
    args = RetrieverArgs(model=f"local-dir:{folder}")
    first = open_encoder(args, CPU, tmp_path)
    open_encoder(RetrieverArgs(model=args.model, dtype="bfloat16"), CPU, tmp_path)
    config = folder / "open_clip_config.json"
    config.write_text(config.read_text().replace('"interpolation": "bicubic"', '"interpolation": "bilinear"'))
    second = open_encoder(args, CPU, tmp_path)
    assert len(list((tmp_path / "encoders").iterdir())) == 3
    assert second.metadata["transform"] != first.metadata["transform"] and second.id != first.id


def test_files_that_change_before_the_model_is_loaded_are_noticed(tmp_path):
    folder = shutil.copytree(NANO_CLIP, tmp_path / "model")
    args = RetrieverArgs(model=f"local-dir:{folder}")
    open_encoder(args, CPU, tmp_path)
    known, config = open_encoder(args, CPU, tmp_path), folder / "open_clip_config.json"
    config.write_text(config.read_text().replace('"interpolation": "bicubic"', '"interpolation": "bilinear"'))
    with pytest.raises(UserError, match="its files have changed; run the command again"):
        embed_names(known, NAMES, RetrieverArgs(), tmp_path)
