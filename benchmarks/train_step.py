"""LoRA training step of this project and of TRL's SFTTrainer with peft: tokens and examples per second, peak memory.

    pip install trl
    python benchmarks/train_step.py [--sides ours trl] [--rounds 5] [--small]

All sides use the same random LLaVA, images, prompts, batch, precision and adapter. A round runs each side once, in a
process of its own, so that what slows the machine for a while slows all sides. Sides:

- ``ours``: this project's trainer with the objective that both have, the language-model loss on the sorted list;
- ``trl``: TRL's SFTTrainer with that objective;
- ``objectives``: this project's trainer with ``letters``, ``likelihood`` and ``list`` together;
- ``compiled``: ``ours`` with ``trainer.compile``;
- ``deepspeed_2``, ``deepspeed_3`` and both with ``_offload``: ``ours`` with ``trainer.strategy`` and
  ``trainer.offload`` (``optimizer`` in stage 2, ``all`` in stage 3).

On a CPU the model has about 100 million parameters in float32; on a GPU it is the shape of LLaVA-1.5 7B in bfloat16,
with gradient checkpointing unless ``--gradient-checkpointing off``.

Each round ends with a line of JSON, so that a benchmark that is stopped leaves the rounds before: for each side the
median, lowest and highest of its metrics over the rounds; and ``ratio_to_SIDE``, the first side's tokens per second
over each other side's, a ratio a round, with ``examples_ratio_to_SIDE`` for sides of different objectives. MFU is the
trainer's: ``mfu_formula`` over ``peak_flops``, null for a card whose peak is unknown.

On 2026-11-28, two x86_64 cores with other work at a lower priority, ``python benchmarks/train_step.py`` in five rounds
(torch 2.14, transformers 5.24, TRL 1.16): ours 330 tokens/s (315 to 334) and a peak of 4.0 GB, TRL's 203 (181 to 207)
and 5.6 GB; ``ratio_to_trl`` 1.64, 1.55 to 1.82 in a round. ``trainer.compile`` gained nothing there on 2026-11-27: 382
tokens/s with it and 406 without. ``benchmarks/gpu.md`` has the H200's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from random_llava import Size, choose_size, make_examples, make_model

from data_prep.core.rng import shuffle_candidates
from data_prep.prompting.prompts import list_answer, list_prompt
from data_prep.settings import Recipe
from data_prep.settings.loading import load_recipe
from rar_train.families.table import FAMILIES
from rar_train.models.lora import lora_config, parameter_table
from rar_train.models.mllm import Mllm
from rar_train.ranker.collate import collate
from rar_train.ranker.module import RankerModule
from rar_train.ranker.monitor import Monitor, peak_flops

LIST = ("ranker.objectives.letters=0", "ranker.objectives.likelihood=0", "ranker.objectives.list=1")
ALL = ("ranker.objectives.letters=1", "ranker.objectives.likelihood=1", "ranker.objectives.list=1")
SIDES = {
    "ours": LIST,
    "trl": LIST,
    "objectives": ALL,
    "compiled": (*LIST, "trainer.compile=true"),
    "deepspeed_2": (*LIST, "trainer.strategy=deepspeed_stage_2"),
    "deepspeed_2_offload": (*LIST, "trainer.strategy=deepspeed_stage_2", "trainer.offload=optimizer"),
    "deepspeed_3": (*LIST, "trainer.strategy=deepspeed_stage_3"),
    "deepspeed_3_offload": (*LIST, "trainer.strategy=deepspeed_stage_3", "trainer.offload=all"),
}
"""Settings of each side."""
MEASURED = ("tokens_per_s", "examples_per_s", "peak_gb", "mfu")
MFU_FORMULA = "tokens/s x (4 x parameters + 2 x trainable parameters) / peak_flops"


def settings(size: Size, out: str, side: Sequence[str] = LIST) -> list[str]:
    """Returns the settings of a side's recipe."""
    return [
        "recipe=ranker_lora", f"out={out}", "ranker.lora.scope=language", "optim.lr=1e-4", "trainer.log_every=1000",
        f"trainer.gradient_checkpointing={str(size.gradient_checkpointing).lower()}", f"optim.batch_size={size.batch}",
        "trainer.precision=" + ("bf16-mixed" if torch.cuda.is_available() else "32-true"), *side,
    ]  # fmt: skip


def rate(stamps: list[float], tokens: list[int], size: Size, mllm: Mllm, recipe: Recipe) -> dict[str, float | None]:
    """Computes a turn's metrics from the times at which its steps ended; MFU by the trainer's formula."""
    seconds = stamps[-1] - stamps[size.warm - 1]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    used = torch.cuda.max_memory_allocated() if device.type == "cuda" else read_peak_memory()
    _, trainable, total = parameter_table(mllm)[-1]
    tokens_per_s = sum(tokens[size.warm :]) / seconds
    peak = peak_flops(device, recipe.trainer.precision)
    flops_per_token = Monitor(recipe, (trainable, total)).flops_per_token
    return {
        "tokens_per_s": tokens_per_s, "examples_per_s": size.batch * size.timed / seconds, "tokens": sum(tokens),
        "peak_gb": used / 1e9, "parameters": total, "trainable": trainable, "peak_flops": peak,
        "mfu": None if peak is None else tokens_per_s * flops_per_token / peak,
    }  # fmt: skip


def read_peak_memory() -> int:
    """Returns the peak resident memory of this process in bytes.

    Linux counts a parent's memory in ``ru_maxrss``; ``VmHWM`` is this program's own.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def ours(size: Size, *side: str) -> dict[str, float | None]:
    """Runs this project's training step, with a side's settings."""
    import lightning as L
    from torch.utils.data import DataLoader

    from rar_train.engine.strategies import make_strategy

    model, processor = make_model(size)
    steps = size.warm + size.timed
    with tempfile.TemporaryDirectory() as out:
        recipe = load_recipe(settings(size, out, side))
        module = RankerModule(recipe, Mllm(model, processor, FAMILIES["llava"], "random"), steps)
        objectives = tuple(recipe.ranker.objectives.weights)
        stamps, tokens = [], []

        class Clock(L.Callback):
            def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                stamps.append(time.perf_counter())
                tokens.append(batch.tokens)

        loader = DataLoader(
            make_examples(size.batch * steps), batch_size=size.batch, num_workers=size.workers,
            collate_fn=lambda rows: collate(module.mllm, rows, objectives, 0, [0] * len(rows)),
        )  # fmt: skip
        trainer = L.Trainer(
            max_steps=steps, accelerator="auto", devices=1, strategy=make_strategy(recipe.trainer),
            gradient_clip_val=1.0, logger=False, default_root_dir=out, precision=recipe.trainer.precision,
            callbacks=[Clock()], enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, loader)
        return rate(stamps, tokens, size, module.mllm, recipe)


def trl(size: Size) -> dict[str, float | None]:
    """Runs TRL's SFTTrainer on the same data and model."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    model, processor = make_model(size)
    steps = size.warm + size.timed
    rows = []
    for example, image in make_examples(size.batch * steps):
        names = [candidate.name for candidate in shuffle_candidates(example, 0, 0).candidates]
        target = [example.candidates[example.truth].name]
        target += [candidate.name for candidate in example.candidates if candidate.label != example.label]
        question = [{"type": "image", "text": None}, {"type": "text", "text": list_prompt(names)}]
        answer = [{"type": "text", "text": list_answer(target)}]
        prompt, completion = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        rows.append({"images": [image], "prompt": [prompt], "completion": [completion]})
    stamps, tokens = [], []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            stamps.append(time.perf_counter())

    class Counting(SFTTrainer):
        def training_step(self, model, inputs, *args, **kwargs):
            tokens.append(int(inputs["attention_mask"].sum()))
            return super().training_step(model, inputs, *args, **kwargs)

    with tempfile.TemporaryDirectory() as out:
        recipe = load_recipe(settings(size, out))
        mllm = Mllm(model, processor, FAMILIES["llava"], "random")
        config = SFTConfig(
            output_dir=out, per_device_train_batch_size=size.batch, max_steps=steps, learning_rate=1e-4,
            max_length=None, weight_decay=recipe.optim.weight_decay, max_grad_norm=1.0,
            bf16=torch.cuda.is_available(),
            gradient_checkpointing=size.gradient_checkpointing, use_cpu=not torch.cuda.is_available(),
            dataloader_num_workers=size.workers, report_to="none", save_strategy="no", logging_strategy="no",
            disable_tqdm=True,
        )  # fmt: skip
        trainer = Counting(
            model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=processor,
            peft_config=lora_config(mllm, recipe.ranker.lora), callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
        return rate(stamps, tokens, size, Mllm(trainer.model, processor, FAMILIES["llava"], "random"), recipe)


def run_side(side: str, size: Size) -> dict[str, float | None]:
    """Runs one side in this process."""
    return trl(size) if side == "trl" else ours(size, *SIDES[side])


def run_turn(side: str) -> dict[str, Any]:
    """Runs one side, with the command's options, in a separate process, whose last line of output is its metrics.

    Returns:
        dict[str, Any]: The metrics, or ``failed`` with the last line of the error.
    """
    if side == "trl" and importlib.util.find_spec("trl") is None:
        return {"failed": "TRL is not installed: pip install trl"}
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if result.returncode:
        sys.stderr.write(result.stderr)
        lines = result.stderr.strip().splitlines()
        return {"failed": lines[-1] if lines else f"exit status {result.returncode}"}
    return json.loads(result.stdout.splitlines()[-1])


def spread(values: Sequence[float | None]) -> dict[str, float] | None:
    """Computes median, lowest and highest; None where they are unknown."""
    known = [value for value in values if value is not None]
    return {"median": statistics.median(known), "low": min(known), "high": max(known)} if known else None


def summarise(turns: Mapping[str, Sequence[dict]]) -> dict[str, Any]:
    """Summarises the sides over the rounds, and the ratios of the first side to the others, round by round."""
    metrics: dict[str, Any] = {}
    for side, rounds in turns.items():
        metrics[side] = {key: spread([turn[key] for turn in rounds]) for key in MEASURED}
        metrics[side] |= {key: rounds[0][key] for key in ("tokens", "parameters", "trainable")}
    first, *others = turns
    for name, key in (("ratio_to", "tokens_per_s"), ("examples_ratio_to", "examples_per_s")):
        for other in others:
            ratios = [a[key] / b[key] for a, b in zip(turns[first], turns[other], strict=True)]
            metrics[f"{name}_{other}"] = statistics.median(ratios)
            metrics[f"{name}_{other}_range"] = [min(ratios), max(ratios)]
    return metrics | {"rounds": len(turns[first]), "peak_flops": turns[first][0]["peak_flops"]}


def run_rounds(sides: Sequence[str], rounds: int, turn: Callable[[str], dict], size: Size) -> bool:
    """Runs the rounds and prints each one's metrics; a side that fails is left out from then on.

    Returns:
        bool: Whether all sides ran.
    """
    turns: dict[str, list[dict]] = {side: [] for side in sides}
    failed: dict[str, str] = {}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    rest = {"device": device, "size": asdict(size), "mfu_formula": MFU_FORMULA}
    for _ in range(rounds):
        for side in list(turns):
            last = turn(side)
            if "failed" in last:
                failed[side] = last["failed"]
                del turns[side]
                print(f"{side}: failed, {failed[side]}", flush=True)
                continue
            turns[side].append(last)
            speed = f"{last['tokens_per_s']:.1f} tokens/s, {last['examples_per_s']:.2f} examples/s"
            mfu = "" if last["mfu"] is None else f", MFU {last['mfu']:.2f}"
            print(f"{side}: {speed}, peak {last['peak_gb']:.2f} GB{mfu}", flush=True)
        print(json.dumps((summarise(turns) if turns else {}) | {"failed": failed} | rest), flush=True)
    return not failed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["ours", "trl"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="timed steps of a turn")
    parser.add_argument("--gradient-checkpointing", choices=("on", "off"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--side", choices=SIDES, help="run this side alone, in this process")
    args = parser.parse_args()
    size = choose_size(args.small, "compiled" in args.sides)
    if args.steps:
        size = replace(size, timed=args.steps)
    if args.gradient_checkpointing:
        size = replace(size, gradient_checkpointing=args.gradient_checkpointing == "on")
    if args.side:
        print(json.dumps(run_side(args.side, size)))
        return
    sys.exit(0 if run_rounds(args.sides, args.rounds, run_turn, size) else 1)


if __name__ == "__main__":
    main()
