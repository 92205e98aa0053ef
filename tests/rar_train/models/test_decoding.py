"""The MLLM's replies do not depend on its base's generation settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_prep.prompting.prompts import NAMING, list_prompt
from data_prep.settings import RankerArgs
from rar_train.models.decoding import decode_texts, generate
from rar_train.models.loading import load_mllm
from rar_train.models.mllm import Mllm

NAMES = ["azure, a bend or", "or, a cross vert"]

GENERATION_CONFIG = {
    "do_sample": True,
    "temperature": 3.0,
    "top_k": 3,
    "num_beams": 3,
    "repetition_penalty": 1.8,
    "no_repeat_ngram_size": 1,
    "min_new_tokens": 20,
    "forced_eos_token_id": 2,
    "eos_token_id": [2, *range(100, 200)],
    "max_length": 5,
    "max_time": 1e-9,
}


def replies(mllm: Mllm, pictures) -> list[str]:
    prompts = [NAMING, list_prompt(NAMES)]
    return decode_texts(mllm, generate(mllm, mllm.inputs(pictures[:2], prompts), 24))


@pytest.fixture
def configured_folder(llava_folder: Path, tmp_path: Path) -> Path:
    """The hub-like LLaVA with files that set another way of decoding than the greedy one."""
    folder = shutil.copytree(llava_folder, tmp_path / "configured")
    bad = {"bad_words_ids": [[token] for token in range(100, 300)], "suppress_tokens": list(range(60, 100))}
    (folder / "generation_config.json").write_text(json.dumps(GENERATION_CONFIG | bad))
    return folder


def test_a_bases_generation_config_changes_no_reply(llava, configured_folder, pictures):
    expected = replies(llava, pictures)
    assert len(set(expected)) == 2 and all(expected)
    assert replies(load_mllm(RankerArgs(model=str(configured_folder))), pictures) == expected


def test_generation_settings_in_an_old_config_change_no_reply_either(llava, llava_folder, pictures, tmp_path):
    folder = shutil.copytree(llava_folder, tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    config |= {"repetition_penalty": 1.8, "text_config": config["text_config"] | {"no_repeat_ngram_size": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink()
    assert replies(load_mllm(RankerArgs(model=str(folder))), pictures) == replies(llava, pictures)
