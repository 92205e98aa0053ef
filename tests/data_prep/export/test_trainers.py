"""The trainers themselves load the exports.

TRL is in the extra ``bench``, sentence-transformers in ``sentences``; LLaMA-Factory pins other versions, so install it
into a separate folder:
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

    from data_prep.core.paths import NANO_MLLM

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


def load_image_folder(folder, tmp_path):
    """Loads an export as ``datasets`` does for TRL and sentence-transformers."""
    datasets = pytest.importorskip("datasets")
    return datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"))


def test_trl_reads_the_preferences(shards, tmp_path, monkeypatch):
    """TRL's DPO collator: images are decoded, and the two answers differ."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    dpo = pytest.importorskip("trl.trainer.dpo_trainer")
    from transformers import AutoProcessor

    from data_prep.core.paths import NANO_MLLM

    export(shards, tmp_path / "out", "trl_dpo", order="retriever")
    loaded = load_image_folder(tmp_path / "out", tmp_path)
    assert loaded.num_rows == 9 and set(loaded.column_names) == {"images", "prompt", "chosen", "rejected"}
    batch = dpo.DataCollatorForVisionPreference(AutoProcessor.from_pretrained(NANO_MLLM))([loaded[n] for n in (1, 2)])
    chosen, rejected = batch["input_ids"].chunk(2)
    assert batch["pixel_values"].shape[0] == 4 and not chosen.equal(rejected)


def test_trl_trains_by_reward_on_the_export(shards, tmp_path, monkeypatch):
    """TRL's GRPO trainer takes a step: the reward function gets solution and candidates, and the prompt its image."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    trl = pytest.importorskip("trl")
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from data_prep.core.paths import NANO_MLLM

    export(shards, tmp_path / "out", "trl_grpo", order="retriever")
    loaded = load_image_folder(tmp_path / "out", tmp_path)
    seen = []

    def reward(completions, solution, candidates, **_) -> list[float]:
        seen.extend(zip(solution, candidates, strict=True))
        return [float(len(completion[0]["content"]) % 3) for completion in completions]

    processor = AutoProcessor.from_pretrained(NANO_MLLM)
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    args = trl.GRPOConfig(
        str(tmp_path / "run"),
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=4,
        max_steps=1,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    model = AutoModelForImageTextToText.from_pretrained(NANO_MLLM)
    trl.GRPOTrainer(
        model=model, reward_funcs=reward, args=args, train_dataset=loaded, processing_class=processor
    ).train()
    assert seen and all(truth in names for truth, names in seen)


def test_swift_reads_the_reranker_and_reward_sets(shards, tmp_path, monkeypatch):
    """ms-swift's own loader, with what it imports.

    ``pip install --no-deps --target FOLDER ms-swift modelscope modelscope-hub json_repair addict dacite attrdict oss2
    simplejson sortedcontainers cryptography cffi pycparser``
    """
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    swift = pytest.importorskip("swift.dataset", exc_type=ImportError)
    for name in ("swift_reranker", "swift_grpo"):
        export(shards, tmp_path / name, name, order="retriever")
        monkeypatch.setenv("ROOT_IMAGE_DIR", str(tmp_path / name))
        loaded, _ = swift.load_dataset(
            str(tmp_path / name / f"{name}.jsonl"), num_proc=1, strict=True, load_from_cache_file=False,
            remove_unused_columns=False,
        )  # fmt: skip
        assert len(loaded) == 9
        row = loaded[1]
        assert row["messages"][0]["content"].startswith("<image>") and len(row["images"]) == 1
        if name == "swift_reranker":
            assert len(row["positive_messages"]) == 1 and len(row["negative_messages"]) == 4
            assert row["positive_messages"][0][0]["content"] in DIFFICULT_NAMES
        else:
            assert row["solution"] in row["candidates"]


@pytest.mark.parametrize("name", ["sentence_transformers", "sentence_transformers_pairs"])
def test_sentence_transformers_trains_a_reranker_on_the_export(shards, tmp_path, name, monkeypatch):
    """``CrossEncoder``'s collator and loss, with a tiny Qwen3-VL as the reranker."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import losses
    from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator

    from tests.rar_train.tiny_rerankers import save_reranker

    export(shards, tmp_path / "out", name)
    loaded = load_image_folder(tmp_path / "out", tmp_path)
    model = CrossEncoder(str(save_reranker(tmp_path / "model")), device="cpu")
    collate = CrossEncoderDataCollator(preprocess_fn=model.preprocess)
    batch = collate([loaded[n] for n in (0, 1)])
    label = batch.pop("label")
    columns = [batch[column] for column in batch]
    kind = losses.BinaryCrossEntropyLoss if name.endswith("pairs") else losses.ListNetLoss
    loss = kind(model)(columns, label)
    loss.backward()
    assert loss.isfinite()
