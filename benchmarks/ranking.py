"""How fast the ranking modes are, against the released loop and against a bare forward pass.

``python benchmarks/ranking.py [--small] [--ckpt RUN]`` ranks the same pictures and candidates with one tuned ranker:
that of RUN, or one that is tuned first for a few steps. Measured are, in images per second:

- each mode in batches, from image files to rankings;
- ``released``: the paper's loop, one image at a time, free greedy text of up to 512 tokens that stops
  at the end of the turn, read by this project's parser;
- ``prefill``: what any batched ranker must do: open the pictures, prepare the letters prompts and run the
  model over them once, without reading anything from it; ``forward``: the same with prepared inputs.

The modes run in turn, in several rounds, and each keeps its best time. On a CUDA GPU a LLaVA of 7B with random weights
in bfloat16 is measured too, where the released loop writes a reply of a fixed length, as no random model ends its
turn. The last line is one JSON object; ``ratio_to_released`` and ``ratio_to_prefill`` are of mode ``letters``.

On 2026-11-25, two x86_64 cores, ``python benchmarks/ranking.py --ckpt runs/ranker_lora`` in images/s: letters 134,
likelihood 138, constrained 21, generate 21; bare prefill 142, released loop 2.1; ``ratio_to_released`` 64,
``ratio_to_prefill`` 0.94.

On 2026-11-28, one NVIDIA H200, ``python benchmarks/ranking.py`` (torch 2.11, transformers 5.24), the 7B shape in
bfloat16 with nano-mllm's few image tokens: letters 216, likelihood 219, constrained 12.8; bare prefill 265, released
loop 0.70 (64 tokens a reply); ``ratio_to_released`` 308, ``ratio_to_prefill`` 0.82.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, LlamaConfig

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.prompting.prompts import letters_prompt, list_prompt
from data_prep.prompting.replies import read_list
from data_prep.settings import MODES, RankerArgs
from data_prep.settings.loading import load_recipe
from eval.ranking.modes import run_batch
from eval.ranking.parsing import to_ranking
from eval.ranking.ranker import Ranker
from eval.ranking.request import RankingMode, RankingRequest
from rar_train.models.inputs import to_device
from rar_train.models.mllm import Mllm, load_mllm
from rar_train.ranker.train import train_ranker

BATCH, CANDIDATES, ROUNDS = 32, 5, 3
RELEASED_TOKENS, FIXED_REPLY = 512, 64
TUNING = (
    "recipe=ranker_lora data.armory.train_classes=80 data.armory.val_classes=8 data.armory.train_images=4 "
    "data.armory.memory_images=4 data.armory.query_images=1 optim.max_steps=20 trainer.checkpoint_every=20 "
    "trainer.val_examples=8 tracking.wandb=disabled trainer.accelerator=cpu"
)


def questions(folder: Path, images: int) -> list[RankingRequest]:
    """Pictures of validation classes, each with its family and others as candidates."""
    classes = draw_classes("val", images + CANDIDATES, 4, seed=0)
    made = []
    for number in range(images):
        path = folder / f"{number}.png"
        render(classes[number], 96, np.random.default_rng(number)).save(path)
        names = tuple(b.name for b in classes[number : number + CANDIDATES])
        made.append(RankingRequest(str(number), str(path), names))
    return made


def tuned(ckpt: str | None, folder: Path) -> Mllm:
    """The ranker of a run, or one that is tuned for a few steps."""
    run = ckpt or train_ranker(load_recipe([*TUNING.split(), f"out={folder / 'run'}", f"cache={folder / 'cache'}"]))
    return Ranker.from_pretrained(run).mllm


def shape_of_7b() -> Mllm:
    """LLaVA-1.5-7B's language model with random weights behind nano-mllm's tower and processor."""
    small = load_mllm(RankerArgs())
    config = small.model.config
    text = config.text_config
    shape = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    config.text_config = LlamaConfig(**(text.to_dict() | shape | {"num_key_value_heads": 32, "head_dim": 128}))
    with torch.device("cuda"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**config.to_dict()), dtype=torch.bfloat16)
    return Mllm(model.eval(), small.processor, small.family, "llava-7b-random")


@torch.inference_mode()
def released(mllm: Mllm, asked: Sequence[RankingRequest], fixed: int | None) -> None:
    """The paper's loop."""
    tokenizer = mllm.processor.tokenizer
    for question in asked:
        names = question.shown_names
        inputs = to_device(mllm.inputs([question.images()[0]], [list_prompt(names)]), next(mllm.model.parameters()))
        written = mllm.model.generate(
            **inputs,
            max_new_tokens=fixed or RELEASED_TOKENS,
            min_new_tokens=fixed,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        reply = tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        read_list(reply, question.names, names)


def batches(asked: Sequence[RankingRequest]) -> list[Sequence[RankingRequest]]:
    return [asked[start : start + BATCH] for start in range(0, len(asked), BATCH)]


def ranked(mllm: Mllm, mode: str, asked: Sequence[RankingRequest]) -> None:
    for batch in batches(asked):
        for question, answer in zip(batch, run_batch(mllm, RankingMode(mode), batch), strict=True):
            to_ranking(mode, question.names, question, answer)


def prepared(mllm: Mllm, batch: Sequence[RankingRequest]):
    """Inputs of the letters prompts."""
    prompts = [letters_prompt(question.shown_names) for question in batch]
    return to_device(mllm.inputs([q.images()[0] for q in batch], prompts), next(mllm.model.parameters()))


@torch.inference_mode()
def forward(mllm: Mllm, inputs: Sequence) -> None:
    for one in inputs:
        mllm.model(**one, logits_to_keep=1)


@torch.inference_mode()
def prefill(mllm: Mllm, asked: Sequence[RankingRequest]) -> None:
    for batch in batches(asked):
        mllm.model(**prepared(mllm, batch), logits_to_keep=1)


def seconds(work: Callable[[], None]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(
    mllm: Mllm, asked: list[RankingRequest], slow: int, modes: Sequence[str], fixed: int | None
) -> dict[str, float]:
    """Images per second by what ranks them.

    Args:
        mllm: The ranker.
        asked: The questions.
        slow: Questions of the released loop.
        modes: Which modes.
        fixed: Tokens of the released loop's replies; None: it ends its turn itself.
    """
    inputs = [prepared(mllm, batch) for batch in batches(asked)]
    work = {mode: (len(asked), lambda mode=mode: ranked(mllm, mode, asked)) for mode in modes}
    work |= {
        "prefill": (len(asked), lambda: prefill(mllm, asked)),
        "forward": (len(asked), lambda: forward(mllm, inputs)),
        "released": (slow, lambda: released(mllm, asked[:slow], fixed)),
    }
    ranked(mllm, "letters", asked[:BATCH])  # warm up
    released(mllm, asked[:1], fixed)
    best = dict.fromkeys(work, float("inf"))
    for _ in range(ROUNDS):
        for name, (_, run) in work.items():
            best[name] = min(best[name], seconds(run))
    return {name: count / best[name] for name, (count, _) in work.items()}


def figures_of(speed: dict[str, float]) -> dict:
    for name, value in speed.items():
        print(f"{name:12s} {value:8.2f} images/s, {value / speed['released']:6.2f} times the released loop")
    return {
        "images_per_s": {name: round(value, 2) for name, value in speed.items()},
        "ratio_to_released": round(speed["letters"] / speed["released"], 2),
        "ratio_to_prefill": round(speed["letters"] / speed["prefill"], 3),
        "ratio_to_forward": round(speed["letters"] / speed["forward"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="fewer images, to try it")
    parser.add_argument("--ckpt", help="a run whose ranker to measure")
    args = parser.parse_args()
    images, slow = (32, 4) if args.small else (128, 16)
    gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        asked = questions(Path(folder), images)
        mllm = tuned(args.ckpt, Path(folder))
        mllm.model.to("cuda" if gpu else "cpu")
        metrics = {
            "images": images,
            "candidates": CANDIDATES,
            **figures_of(measure(mllm, asked, slow, MODES, None)),
            "device": torch.cuda.get_device_name() if gpu else platform.machine(),
            "threads": torch.get_num_threads(),
        }
        if gpu:
            print("7B shape, random weights")
            modes = [mode for mode in MODES if mode != "generate"]
            metrics["shape_7b"] = figures_of(measure(shape_of_7b(), asked, 4, modes, FIXED_REPLY))
            metrics["shape_7b"]["reply_tokens"] = FIXED_REPLY
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
