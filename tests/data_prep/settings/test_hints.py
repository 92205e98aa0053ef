"""Wrong keys and values, as users of other trainers write them, and the hint that each gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.settings.hints import _SYNONYMS, suggest_key, value_hint
from data_prep.settings.loading import load_recipe
from data_prep.settings.values import known_keys

KNOWN = known_keys()

# What was typed, and what the message must name: the right key, or the right value where the key was right.
KEYS = {
    # transformers
    "learning_rate=2e-4": "optim.lr",
    "output_dir=runs/mine": "out",
    "per_device_train_batch_size=4": "optim.batch_size",
    "per_device_eval_batch_size=4": "eval.batch_size",
    "gradient_accumulation_steps=8": "optim.grad_accum_steps",
    "num_train_epochs=3": "optim.epochs",
    "max_steps=100": "optim.max_steps",
    "warmup_ratio=0.1": "optim.warmup_ratio",
    "warmup_steps=100": "optim.warmup_ratio",
    "max_grad_norm=1": "trainer.grad_clip_norm",
    "logging_steps=5": "trainer.log_every",
    "save_steps=50": "trainer.checkpoint_every",
    "dataloader_num_workers=4": "trainer.num_workers",
    "bf16=true": "trainer.precision",
    "report_to=wandb": "tracking.wandb",
    "model_name_or_path=llava": "ranker.model",
    "resume_from_checkpoint=true": "trainer.resume",
    # peft, TRL, LLaMA-Factory
    "lora.r=8": "ranker.lora.rank",
    "lora_alpha=16": "ranker.lora.alpha",
    "lora_rank=8": "ranker.lora.rank",
    "lora_dropout=0.1": "ranker.lora.dropout",
    "lora_target=all": "ranker.lora.target_modules",
    "use_dora=true": "ranker.lora.dora",
    "load_in_4bit=true": "ranker.quantize",
    "quantization_bit=4": "ranker.quantize",
    "cutoff_len=2048": "ranker.max_tokens",
    "flash_attn=fa2": "ranker.attn_implementation",
    "dataset=birds": "data.name",
    "dataset_dir=birds": "data.root",
    # Lightning, open_clip
    "trainer.max_epochs=3": "optim.epochs",
    "trainer.gpus=2": "trainer.devices",
    "devices=2": "trainer.devices",
    "accelerator=gpu": "trainer.accelerator",
    "trainer.accumulate_grad_batches=2": "optim.grad_accum_steps",
    "trainer.gradient_clip_val=1": "trainer.grad_clip_norm",
    "trainer.val_check_interval=50": "trainer.checkpoint_every",
    "precision=bf16-mixed": "trainer.precision",
    "accum-freq=2": "optim.grad_accum_steps",
    "train-data=birds": "data.root",
    # guesses
    "lr=1e-4": "optim.lr",
    "epochs=3": "optim.epochs",
    "batch_size=8": "optim.batch_size",
    "data.batch_size=8": "optim.batch_size",
    "top_k=10": "eval.k",
    "model=llava": "ranker.model",
    "clip_model=ViT-B-16": "retriever.model",
    "data_dir=birds": "data.root",
    "shots=4": "eval.shots",
    "trainer.lr=1": "optim.lr",
    "ranker.rank=8": "ranker.lora.rank",
    "optim.learningrate=1": "optim.lr",
    "eval.shot=4": "eval.shots",
    "retriver.model=x": "retriever.model",
    "Optim.LR=1": "optim.lr",
    "val_split=0.2": "data.split_ratios",
    "deepspeed=ds.json": "trainer.strategy",
    "early_stopping=true": "trainer.patience",
    "ranker.lora.r=8": "ranker.lora.rank",
    "retriever.lr=1e-4": "optim.lr",
    "mining.top_k=10": "mining.k",
    "val_ratio=0.2": "data.split_ratios",
    "adam_beta1=0.9": "optim.lr",
}
VALUES = {
    "trainer.precision=bf16": "did you mean bf16-mixed",
    "trainer.precision=fp16": "did you mean 16-mixed",
    "trainer.strategy=zero2": "did you mean deepspeed_stage_2",
    "trainer.accelerator=cuda:0": "did you mean gpu",
    "ranker.dtype=bf16": "did you mean bfloat16",
    "ranker.quantize=nf4": "did you mean 4bit",
    "ranker.mode=letter": "did you mean letters",
    "eval.split=validation": "did you mean val",
    "retriever.index=hsnw": "did you mean hnsw",
    "tracking.wandb=true": "did you mean online",
    "mining.sources=image,text": "must be one of image, name, fused",
    "optim.lr=fast": "optim.lr=fast: must be a number",
    "optim.max_steps=1.5": "optim.max_steps=1.5: must be a whole number",
    "trainer.resume=maybe": "trainer.resume=maybe: must be true or false",
    "eval.shots=few": "eval.shots=[few]: must be a list of whole numbers, such as [1,4]",
    "seed=null": "seed=null: must be a whole number; leave it out for the default, 0",
    "ranker.max_tokens=None": "ranker.max_tokens=None: must be a whole number, or null",
    "data.root=None": "data.root=None: write null for none, or ./None",
}
WORDS = {
    ("learning_rate", "1e-4"): "optim.lr=1e-4",
    ("lr", "=", "1e-4"): "optim.lr=1e-4",
    ("optim.lr", "1e-4"): "optim.lr=1e-4",
    ("epochs",): "optim.epochs=VALUE",
    ("ranker_lora_qwen3_vl",): "give a recipe as recipe=ranker_lora_qwen3_vl",
    ("mine.yaml",): "give a recipe as recipe=mine.yaml",
    ("whether", "it", "runs"): "whether: give settings as key=value without spaces, such as optim.lr=1e-4",
    ("?",): "give settings as key=value without spaces, such as optim.lr=1e-4",
}


def message(*settings: str) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(["recipe=ranker_lora", *settings])
    return str(caught.value)


def test_the_tables_are_as_long_as_they_should_be():
    assert len(KEYS) + len(VALUES) >= 40
    right = sum(f"did you mean {key}" in message(setting) for setting, key in KEYS.items())
    assert right >= 35


@pytest.mark.parametrize(("setting", "key"), KEYS.items())
def test_a_wrong_key_names_the_right_one(setting: str, key: str):
    said = message(setting)
    assert f"unknown key {setting.partition('=')[0]}; did you mean {key}" in said
    assert said.split(f"did you mean {key}")[1][0] in "? ", said  # the whole key, not the start of a longer one


@pytest.mark.parametrize(("setting", "expected"), VALUES.items())
def test_a_wrong_value_says_what_to_write(setting: str, expected: str):
    said = message(setting)
    assert setting.partition("=")[0] in said and expected in said


@pytest.mark.parametrize(("words", "expected"), WORDS.items())
def test_words_without_an_equals_sign_are_shown_as_a_setting(words: tuple[str, ...], expected: str):
    assert expected in message(*words)


def test_a_key_in_a_file_gets_the_same_hint(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: ranker_lora\noptim: {learning_rate: 1}\n")
    with pytest.raises(UserError, match=r"mine.yaml: unknown key optim.learning_rate; did you mean optim.lr\?"):
        load_recipe([f"recipe={tmp_path / 'mine.yaml'}"])


def test_a_meaning_that_differs_is_translated():
    assert "a fraction of the steps, 0.1 for 100 of 1,000" in message("warmup_steps=100")
    assert "optimiser steps, not epochs" in message("check_val_every_n_epoch=1")


@pytest.mark.parametrize("synonym", _SYNONYMS)
def test_every_synonym_leads_to_a_key_that_exists_and_is_none_itself(synonym: str):
    suggested, _ = suggest_key(synonym, KNOWN)
    assert suggested in {*KNOWN, "recipe"} and synonym not in KNOWN


@given(st.sampled_from(KNOWN))
def test_a_right_key_is_suggested_for_itself(key: str):
    assert suggest_key(key.upper(), KNOWN) in ((key.lower(), ""), (key, ""))


@given(st.text(), st.lists(st.text(min_size=1), min_size=1))
def test_a_hint_for_a_value_names_only_allowed_ones(value: str, allowed: list[str]):
    hint = value_hint(value, allowed)
    assert not hint or any(name in hint for name in allowed)
