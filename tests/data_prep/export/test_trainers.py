"""The trainers themselves load the exports.

TRL is in the extra ``bench``; LLaMA-Factory pins other versions, so install it into a separate folder:
``pip install --no-deps --target FOLDER llamafactory torchaudio``, then
``PYTHONPATH=FOLDER pytest -m slow`` on this file.
"""

from __future__ import annotations

import json
import os

import pytest

from data_prep.export.writing import export
from tests.data_prep.export.conftest import DIFFICULT_NAMES

pytestmark = pytest.mark.slow


def test_trl_collates_the_export(shards, tmp_path, monkeypatch):
    """TRL's SFT collator with the embedded MLLM's processor: images are decoded, answers are labelled."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    sft = pytest.importorskip("trl.trainer.sft_trainer")
    from transformers import AutoProcessor

    from rar_train.models.mllm import NANO_MLLM

    export(shards, tmp_path / "out", "trl", order="retriever")
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.num_rows == 9 and {"images", "messages"} <= set(loaded.column_names)
    processor = AutoProcessor.from_pretrained(NANO_MLLM)
    batch = sft.DataCollatorForVisionLanguageModeling(processor)([loaded[n] for n in (1, 2)])
    assert batch["pixel_values"].shape[0] == 2
    assert batch["labels"].shape == batch["input_ids"].shape
    assert (batch["labels"] != -100).any(1).all()
    assert [turn["content"] for turn in loaded[1]["messages"]][1].startswith("[")


@pytest.mark.parametrize("name", ["sharegpt", "openai"])
def test_llama_factory_loads_the_export(shards, tmp_path, name, monkeypatch):
    """LLaMA-Factory's own reader and converter, which turn both styles into role and content."""
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    pytest.importorskip("llamafactory.data.converter", exc_type=ImportError)
    from llamafactory.data.converter import align_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments

    datasets = pytest.importorskip("datasets")
    out = tmp_path / "out"
    export(shards, out, name, order="retriever")
    args = DataArguments(dataset="pets", dataset_dir=str(out), media_dir=str(out))
    (attributes,) = get_dataset_list(["pets"], str(out))
    raw = datasets.load_dataset(
        "json", data_files=str(out / attributes.dataset_name), split="train", cache_dir=str(tmp_path / "cache")
    )

    class Training:
        local_process_index = 0

    aligned = align_dataset(raw, attributes, args, Training())
    for number in range(9):
        row = aligned[number]
        assert [turn["role"] for turn in (*row["_prompt"], *row["_response"])] == ["user", "assistant"]
        assert row["_prompt"][0]["content"].count("<image>") == 1
        assert os.path.isfile(row["_images"][0])  # noqa: PTH113  (their string)
        assert any(repr(name) in row["_response"][0]["content"] for name in DIFFICULT_NAMES)
    assert json.loads((out / "dataset_info.json").read_text()).keys() == {"pets"}
