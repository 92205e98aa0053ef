"""Hints for wrong keys and values: what other trainers call a setting, and the nearest of ours."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

# Keys of transformers, peft, TRL, LLaMA-Factory, Lightning, open_clip and axolotl, and plain guesses; a text after "; "
# says how to translate where the meaning differs. A key with sections is looked up in full before its last part is.
_SYNONYMS = {
    # training
    "learning_rate": "optim.lr",
    "peak_lr": "optim.lr",
    "lr_rate": "optim.lr",
    "base_lr": "optim.lr",
    "wd": "optim.weight_decay",
    "warmup": "optim.warmup_ratio; a fraction of the steps",
    "warmup_steps": "optim.warmup_ratio; a fraction of the steps, 0.1 for 100 of 1,000",
    "num_warmup_steps": "optim.warmup_ratio; a fraction of the steps, 0.1 for 100 of 1,000",
    "lr_warmup": "optim.warmup_ratio; a fraction of the steps",
    "num_train_epochs": "optim.epochs",
    "num_epochs": "optim.epochs",
    "max_epochs": "optim.epochs",
    "n_epochs": "optim.epochs",
    "steps": "optim.max_steps",
    "num_steps": "optim.max_steps",
    "max_train_steps": "optim.max_steps",
    "num_training_steps": "optim.max_steps",
    "iterations": "optim.max_steps",
    "iters": "optim.max_steps",
    "batch_size": "optim.batch_size; of the training, where eval.batch_size ranks and retriever.batch_size embeds",
    "per_device_train_batch_size": "optim.batch_size",
    "per_gpu_train_batch_size": "optim.batch_size",
    "train_batch_size": "optim.batch_size; for each process, not for all of them",
    "train_micro_batch_size_per_gpu": "optim.batch_size",
    "micro_batch_size": "optim.batch_size",
    "bs": "optim.batch_size",
    "global_batch_size": "optim.batch_size; for each process: divide by trainer.devices and optim.grad_accum_steps",
    "per_device_eval_batch_size": "eval.batch_size",
    "eval_batch_size": "eval.batch_size",
    "val_batch_size": "eval.batch_size",
    "gradient_accumulation_steps": "optim.grad_accum_steps",
    "accumulate_grad_batches": "optim.grad_accum_steps",
    "grad_accumulation": "optim.grad_accum_steps",
    "accum_freq": "optim.grad_accum_steps",
    "group_by_len": "optim.group_by_length",
    "max_grad_norm": "trainer.grad_clip_norm",
    "gradient_clip_val": "trainer.grad_clip_norm",
    "clip_grad_norm": "trainer.grad_clip_norm",
    "grad_clip": "trainer.grad_clip_norm",
    "optimizer": "optim.lr; the optimiser is AdamW, and section optim has its settings",
    "optim.name": "optim.lr; the optimiser is AdamW, and section optim has its settings",
    "betas": "optim.lr; the optimiser is AdamW, and section optim has its settings",
    "adam_beta1": "optim.lr; the optimiser is AdamW, and section optim has its settings",
    "adam_beta2": "optim.lr; the optimiser is AdamW, and section optim has its settings",
    "lr_scheduler_type": "optim.warmup_ratio; the schedule is a warm-up, then a cosine",
    "lr_scheduler": "optim.warmup_ratio; the schedule is a warm-up, then a cosine",
    # trainer
    "gpus": "trainer.devices; a number, and trainer.accelerator=gpu",
    "num_gpus": "trainer.devices; a number, and trainer.accelerator=gpu",
    "n_gpu": "trainer.devices; a number, and trainer.accelerator=gpu",
    "ngpus": "trainer.devices; a number, and trainer.accelerator=gpu",
    "nproc_per_node": "trainer.devices",
    "num_processes": "trainer.devices",
    "world_size": "trainer.devices; of each machine, with trainer.num_nodes machines",
    "nodes": "trainer.num_nodes",
    "nnodes": "trainer.num_nodes",
    "num_machines": "trainer.num_nodes",
    "device": "trainer.accelerator; auto, cpu, gpu or mps",
    "use_cpu": "trainer.accelerator; cpu",
    "no_cuda": "trainer.accelerator; cpu",
    "cuda": "trainer.accelerator; gpu",
    "deepspeed": "trainer.strategy; deepspeed_stage_1, deepspeed_stage_2 or deepspeed_stage_3",
    "zero_stage": "trainer.strategy; deepspeed_stage_1, deepspeed_stage_2 or deepspeed_stage_3",
    "fsdp": "trainer.strategy; deepspeed_stage_3 shards weights as FSDP does",
    "bf16": "trainer.precision; bf16-mixed, with ranker.dtype=bfloat16 for a base of half the size",
    "fp16": "trainer.precision; 16-mixed",
    "fp32": "trainer.precision; 32-true",
    "amp": "trainer.precision; bf16-mixed or 16-mixed",
    "mixed_precision": "trainer.precision; bf16-mixed or 16-mixed",
    "logging_steps": "trainer.log_every",
    "log_every_n_steps": "trainer.log_every",
    "save_steps": "trainer.checkpoint_every",
    "eval_steps": "trainer.checkpoint_every; validations come with checkpoints",
    "val_check_interval": "trainer.checkpoint_every; optimiser steps, and validations come with checkpoints",
    "check_val_every_n_epoch": "trainer.checkpoint_every; optimiser steps, not epochs",
    "save_frequency": "trainer.checkpoint_every; optimiser steps, not epochs",
    "limit_val_batches": "trainer.val_examples; examples, not batches",
    "early_stopping_patience": "trainer.patience",
    "early_stopping": "trainer.patience; a number of validations",
    "load_best_model_at_end": "trainer.adapter; best",
    "dataloader_num_workers": "trainer.num_workers",
    "workers": "trainer.num_workers",
    "num_workers": "trainer.num_workers; retriever.num_workers reads images that are embedded",
    "preprocessing_num_workers": "retriever.num_workers",
    "grad_checkpointing": "trainer.gradient_checkpointing",
    "use_gradient_checkpointing": "trainer.gradient_checkpointing",
    "torch_compile": "trainer.compile",
    "torchcompile": "trainer.compile",
    "resume_from_checkpoint": "trainer.resume; true by default: the same out=FOLDER goes on from its last checkpoint",
    "ckpt_path": "trainer.resume; true by default: the same out=FOLDER goes on from its last checkpoint",
    "overwrite_output_dir": "trainer.resume; false starts again",
    "enable_progress_bar": "trainer.progress; on or off",
    "disable_tqdm": "trainer.progress; off",
    # run and trackers
    "output_dir": "out",
    "output": "out",
    "out_dir": "out",
    "save_dir": "out",
    "default_root_dir": "out",
    "logs": "out",
    "log_dir": "out",
    "run_dir": "out",
    "cache_dir": "cache",
    "random_seed": "seed",
    "trainer.seed": "seed",
    "optim.seed": "seed",
    "seed_everything": "seed",
    "data_seed": "data.seed",
    "report_to": "tracking.wandb; offline, online or disabled, and tracking.tensorboard=true",
    "logger": "tracking.wandb; offline, online or disabled, and tracking.tensorboard=true",
    "use_wandb": "tracking.wandb; offline, online or disabled",
    "wandb": "tracking.wandb; offline, online or disabled",
    "wandb_mode": "tracking.wandb; offline, online or disabled",
    "wandb_project": "tracking.project",
    "project_name": "tracking.project",
    "wandb_project_name": "tracking.project",
    "wandb_entity": "tracking.entity",
    # models
    "model": "ranker.model; the MLLM, where retriever.model is the CLIP encoder",
    "model_name": "ranker.model; the MLLM, where retriever.model is the CLIP encoder",
    "model_id": "ranker.model; the MLLM, where retriever.model is the CLIP encoder",
    "model_name_or_path": "ranker.model; the MLLM, where retriever.model is the CLIP encoder",
    "pretrained_model_name_or_path": "ranker.model; the MLLM, where retriever.model is the CLIP encoder",
    "base_model": "ranker.model",
    "mllm": "ranker.model",
    "llm": "ranker.model",
    "vlm": "ranker.model",
    "clip_model": "retriever.model",
    "clip": "retriever.model",
    "encoder": "retriever.model",
    "vision_model": "retriever.model",
    "torch_dtype": "ranker.dtype; float32, bfloat16 or float16",
    "load_in_4bit": "ranker.quantize; 4bit",
    "load_in_8bit": "ranker.quantize; 4bit (there is no 8bit)",
    "quantization_bit": "ranker.quantize; 4bit",
    "bits": "ranker.quantize; 4bit",
    "quantization": "ranker.quantize; 4bit",
    "attn": "ranker.attn_implementation; sdpa, eager or flash_attention_2",
    "flash_attn": "ranker.attn_implementation; flash_attention_2",
    "use_flash_attention_2": "ranker.attn_implementation; flash_attention_2",
    "max_length": "ranker.max_tokens",
    "max_seq_length": "ranker.max_tokens",
    "cutoff_len": "ranker.max_tokens; longer examples are left out, not cut",
    "model_max_length": "ranker.max_tokens; longer examples are left out, not cut",
    "image_max_pixels": "ranker.max_pixels",
    "image_size": "ranker.max_pixels; width times height",
    "max_new_tokens": "eval.reply_tokens",
    # LoRA
    "r": "ranker.lora.rank",
    "lora_r": "ranker.lora.rank",
    "lora_rank": "ranker.lora.rank; retriever.tuning.lora_rank for a retriever",
    "lora_alpha": "ranker.lora.alpha; retriever.tuning.lora_alpha for a retriever",
    "lora_dropout": "ranker.lora.dropout",
    "lora_target": "ranker.lora.target_modules; a regular expression",
    "lora_target_modules": "ranker.lora.target_modules; a regular expression",
    "use_dora": "ranker.lora.dora",
    "use_rslora": "ranker.lora.rslora",
    "freeze_vision_tower": "ranker.lora.scope; the vision tower is frozen unless the scope has it",
    # data
    "dataset": "data.name; and data.root, the path",
    "dataset_name": "data.name; and data.root, the path",
    "data_name": "data.name",
    "dataset_type": "data.name",
    "data_dir": "data.root; with data.name=folder for a folder of your own",
    "dir": "data.root; with data.name=folder for a folder of your own",
    "folder": "data.root; with data.name=folder for a folder of your own",
    "data_path": "data.root; with data.name=folder for a folder of your own",
    "dataset_dir": "data.root; with data.name=folder for a folder of your own",
    "dataset_path": "data.root; with data.name=folder for a folder of your own",
    "train_data": "data.root; with data.name=folder for a folder of your own",
    "train_dir": "data.root; with data.name=folder for a folder of your own",
    "image_folder": "data.root; with data.name=folder for a folder of your own",
    "images": "data.root; with data.name=folder for a folder of your own",
    "path": "data.root; with data.name=folder for a folder of your own",
    "label_key": "data.label_column",
    "label_field": "data.label_column",
    "val_split": "data.split_ratios; three fractions, such as [0.6,0.2,0.2]",
    "val_size": "data.split_ratios; three fractions, such as [0.6,0.2,0.2]",
    "test_size": "data.split_ratios; three fractions, such as [0.6,0.2,0.2]",
    "val_ratio": "data.split_ratios; three fractions, such as [0.6,0.2,0.2]",
    "test_ratio": "data.split_ratios; three fractions, such as [0.6,0.2,0.2]",
    "validation_split": "data.split_ratios; three fractions, such as [0.6,0.2,0.2]",
    "split_ratio": "data.split_ratios; three fractions, such as [0.6,0.2,0.2]",
    # retrieval, ranking and evaluation
    "k": "eval.k; of an evaluation, where mining.k is of the training examples",
    "top_k": "eval.k; of an evaluation, where mining.k is of the training examples",
    "topk": "eval.k; of an evaluation, where mining.k is of the training examples",
    "num_candidates": "eval.k; of an evaluation, where mining.k is of the training examples",
    "shots": "eval.shots",
    "num_shots": "eval.shots; a list, such as [1,4,16]",
    "n_shots": "eval.shots; a list, such as [1,4,16]",
    "few_shot": "eval.shots; a list, such as [1,4,16]",
    "template": "retriever.templates",
    "prompt_template": "retriever.templates",
    "faiss_index": "retriever.index",
    "index_type": "retriever.index",
    "hard_negatives": "mining.k; the candidates other than the true class are the hard negatives",
    "num_negatives": "mining.k; the candidates, the true class among them",
    "stage": "task; ranker, retriever or projector",
    "finetuning_type": "ranker.lora.rank; LoRA is what is trained, and ranker.quantize=4bit makes it QLoRA",
    "loss": "ranker.objectives.likelihood; each key of ranker.objectives is the weight of a loss",
    "objective": "ranker.objectives.likelihood; each key of ranker.objectives is the weight of a loss",
    "config": "recipe; recipe=NAME, or recipe=PATH.yaml",
    "cfg": "recipe; recipe=NAME, or recipe=PATH.yaml",
    "recipe": "recipe; give it as recipe=NAME, or recipe=PATH.yaml",
}

# What other trainers call a value of ours, whatever the key: taken where the key allows the value.
_VALUES = {
    "bf16": ("bf16-mixed", "bfloat16"), "bfloat16": ("bf16-mixed",), "bf16-true": ("bf16-mixed",),
    "fp16": ("16-mixed", "float16"), "float16": ("16-mixed",), "half": ("16-mixed", "float16"), "16": ("16-mixed",),
    "fp32": ("32-true", "float32"), "float32": ("32-true",), "float": ("float32",), "32": ("32-true",),
    "cuda": ("gpu",), "cuda:0": ("gpu",), "nf4": ("4bit",), "int4": ("4bit",), "4": ("4bit",), "fp4": ("4bit",),
    "zero1": ("deepspeed_stage_1",), "zero2": ("deepspeed_stage_2",), "zero3": ("deepspeed_stage_3",),
    "zero_1": ("deepspeed_stage_1",), "zero_2": ("deepspeed_stage_2",), "zero_3": ("deepspeed_stage_3",),
    "deepspeed": ("deepspeed_stage_2",), "fsdp": ("deepspeed_stage_3",), "ddp_spawn": ("ddp",), "dp": ("ddp",),
    "flash_attn": ("flash_attention_2",), "flash": ("flash_attention_2",), "fa2": ("flash_attention_2",),
    "validation": ("val",), "valid": ("val",), "dev": ("val",), "eval": ("val", "test"), "testing": ("test",),
    "true": ("online", "on"), "yes": ("online", "on"), "false": ("disabled", "off", "none"), "no": ("disabled", "off"),
    "on": ("online",), "off": ("disabled",), "none": ("disabled", "off"), "no_quantization": ("none",),
    "text": ("name",), "names": ("name",), "images": ("image",), "logprob": ("likelihood",), "letter": ("letters",),
    "pointwise": ("yes_no", "binary"), "yesno": ("yes_no",), "bce": ("binary",), "cross_entropy": ("softmax",),
    "free": ("generate",), "cosine": ("flat",), "exact": ("flat",), "avg": ("mean",), "average": ("mean",),
    "ignore": ("skip", "allow"), "drop": ("skip",), "fail": ("raise", "error"), "warn": ("allow",),
}  # fmt: skip


def _normalize(key: str) -> str:
    return key.strip("-").replace("-", "_").lower()


def nearest_key(key: str, known: Sequence[str]) -> str | None:
    """Returns the known key most similar to this one, compared by full path or by last part."""
    path_matches = difflib.get_close_matches(key, known, 1, 0.6)
    key_by_name = {name.split(".")[-1]: name for name in reversed(known)}
    name_matches = difflib.get_close_matches(key.split(".")[-1], list(key_by_name), 1, 0.6)
    if "." not in key and name_matches:
        return key_by_name[name_matches[0]]
    return path_matches[0] if path_matches else key_by_name[name_matches[0]] if name_matches else None


def suggest_key(key: str, known: Sequence[str]) -> tuple[str, str] | None:
    """Returns the key that was probably meant, with a remark where its meaning differs; None without a guess.

    Args:
        key: An unknown key, with or without sections; also an option such as ``--learning-rate``.
        known: All keys of a recipe, such as ``ranker.lora.rank``.
    """
    plain = _normalize(key)
    if plain in known:
        return plain, ""
    leaves = [leaf for leaf in known if not any(other.startswith(f"{leaf}.") for other in known)]  # no sections
    section, _, name = plain.rpartition(".")
    same_name = [candidate for candidate in leaves if candidate.split(".")[-1].lower() == name]
    synonym = _SYNONYMS.get(name, "")
    meant = synonym.partition("; ")[0]
    in_section = f"{section}.{meant.rpartition('.')[2]}"  # mining.top_k is mining.k, not eval.k
    if plain in _SYNONYMS:
        suggestion = _SYNONYMS[plain]
    elif in_section in leaves:
        suggestion = synonym if in_section == meant else in_section
    elif close := difflib.get_close_matches(plain, leaves, 1, 0.85):
        suggestion = close[0]
    elif len(same_name) == 1:
        suggestion = same_name[0]
    else:
        suggestion = synonym or nearest_key(plain, leaves) or ""
    suggested, _, remark = suggestion.partition("; ")
    return (suggested, remark) if suggested else None


def key_hint(key: str, known: Sequence[str]) -> str:
    """Returns ``; did you mean KEY (remark)?``, or nothing without a guess."""
    suggestion = suggest_key(key, known)
    if suggestion is None:
        return ""
    suggested, remark = suggestion
    return f"; did you mean {suggested}" + (f" ({remark})?" if remark else "?")


def value_hint(value: str, allowed: Sequence[str]) -> str:
    """Returns ``; did you mean VALUE?`` for a value that is not allowed, or nothing without a guess."""
    plain = str(value).strip().lower()
    parts = plain.split(",")
    if len(parts) > 1 and set(parts) <= set(allowed):
        return f"; a list is written [{plain}]"
    for synonym in (plain, *_VALUES.get(plain, ())):
        if synonym in allowed:
            return f"; did you mean {synonym}?"
    close = difflib.get_close_matches(plain, allowed, 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""
