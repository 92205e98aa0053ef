"""Benchmarks the speed of the ranking modes against the released loop and against a bare forward pass.

``python benchmarks/ranking.py [--small] [--ckpt RUN]`` ranks the same images and candidates with one tuned ranker:
that of RUN, or one that is tuned first for a few steps. It measures, in images per second:

- each mode in batches, from image files to rankings;
- ``released``: the paper's loop, one image at a time, free greedy text of up to 512 tokens that stops at the end of
  the turn, parsed by this project's parser;
- ``prefill``: the minimal work of any batched ranker: open the images, prepare the letters prompts and run the model on
  them once, ignoring its output; ``forward``: the same with prepared inputs.

The modes run in turn, in several rounds, and the best time of each counts. On a CUDA GPU a LLaVA of 7B with random
weights in bfloat16 is measured too; there the released loop writes a reply of a fixed length, as a random model does
not end its turn. The last line is one JSON object; ``ratio_to_released`` and ``ratio_to_prefill`` are for mode
``letters``.

It also measures how long evaluation waits for images: photographs of 12 megapixels go through ``eval.run``'s data
loading, and in place of the forward the process sleeps for as long as a GPU may take, which leaves the cores free.
``ratio_to_wait`` is the speed with one worker per core over that of the pauses alone, ``ratio_to_wait_without_workers``
what it would be if the process prepared the batches itself.

On 2026-11-28, two x86_64 cores with other work at a lower priority, ``python benchmarks/ranking.py --ckpt
runs/ranker_lora`` in images/s: likelihood 139, letters 124, constrained 20, generate 20; bare prefill 132, released
loop 2.2; ``ratio_to_released`` 56, ``ratio_to_prefill`` 0.94, ``ratio_to_wait`` 0.95 (0.57 without workers).

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
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, LlamaConfig

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.core.command import quiet_libraries
from data_prep.core.pools import available_cores
from data_prep.distributed.spawning import make_predict_trainer, run_predict
from data_prep.prompting.prompts import letters_prompt, list_prompt
from data_prep.prompting.replies import read_list
from data_prep.settings import MODES, RankerArgs, TrainerArgs
from data_prep.settings.loading import load_recipe
from eval.ranking.batches import Batch, InferenceJob, RequestTable
from eval.ranking.inference import InferenceModule
from eval.ranking.modes import PreparedBatch, run_batch
from eval.ranking.parsing import to_ranking
from eval.ranking.ranker import Ranker
from eval.ranking.request import RankingMode, RankingRequest
from rar_train.models.inputs import to_device
from rar_train.models.loading import load_mllm
from rar_train.models.mllm import Mllm
from rar_train.ranker.train import train_ranker

BATCH, CANDIDATES, ROUNDS = 32, 5, 3
PAUSE, PAUSED_BATCH = 0.25, 4  # seconds per image, images per batch
RELEASED_TOKENS, FIXED_REPLY = 512, 64
TUNING = (
    "recipe=ranker_lora data.armory.train_classes=80 data.armory.val_classes=8 data.armory.train_images=4 "
    "data.armory.memory_images=4 data.armory.query_images=1 optim.max_steps=20 trainer.checkpoint_every=20 "
    "trainer.val_examples=8 tracking.wandb=disabled trainer.accelerator=cpu"
)


def make_requests(folder: Path, images: int) -> list[RankingRequest]:
    """Renders images of validation classes, each with its family and others as candidates."""
    classes = draw_classes("val", images + CANDIDATES, 4, seed=0)
    requests = []
    for index in range(images):
        path = folder / f"{index}.png"
        render(classes[index], 96, np.random.default_rng(index)).save(path)
        names = tuple(blazon.name for blazon in classes[index : index + CANDIDATES])
        requests.append(RankingRequest(str(index), str(path), names))
    return requests


def load_tuned(ckpt: str | None, folder: Path) -> Mllm:
    """Loads the ranker of a run, or one that is tuned for a few steps."""
    run = ckpt or train_ranker(load_recipe([*TUNING.split(), f"out={folder / 'run'}", f"cache={folder / 'cache'}"]))
    return Ranker.from_pretrained(run).mllm


def make_random_7b() -> Mllm:
    """Makes a random language model in the shape of LLaVA-1.5-7B's, behind nano-mllm's tower and processor."""
    small = load_mllm(RankerArgs())
    config = small.model.config
    text = config.text_config
    shape = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    config.text_config = LlamaConfig(**(text.to_dict() | shape | {"num_key_value_heads": 32, "head_dim": 128}))
    with torch.device("cuda"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**config.to_dict()), dtype=torch.bfloat16)
    return Mllm(model.eval(), small.processor, small.family, "llava-7b-random")


@torch.inference_mode()
def run_released(mllm: Mllm, requests: Sequence[RankingRequest], fixed_tokens: int | None) -> None:
    """Runs the paper's loop."""
    tokenizer = mllm.processor.tokenizer
    for request in requests:
        names = request.shown_names
        inputs = to_device(mllm.inputs([request.images()[0]], [list_prompt(names)]), next(mllm.model.parameters()))
        written = mllm.model.generate(
            **inputs,
            max_new_tokens=fixed_tokens or RELEASED_TOKENS,
            min_new_tokens=fixed_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        reply = tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        read_list(reply, request.names, names)


def make_batches(requests: Sequence[RankingRequest]) -> list[Sequence[RankingRequest]]:
    return [requests[start : start + BATCH] for start in range(0, len(requests), BATCH)]


def run_mode(mllm: Mllm, mode: str, requests: Sequence[RankingRequest]) -> None:
    for batch in make_batches(requests):
        for request, response in zip(batch, run_batch(mllm, RankingMode(mode), batch), strict=True):
            to_ranking(mode, request.names, request, response)


def prepare(mllm: Mllm, batch: Sequence[RankingRequest]):
    """Makes the inputs of the letters prompts."""
    prompts = [letters_prompt(request.shown_names) for request in batch]
    return to_device(mllm.inputs([request.images()[0] for request in batch], prompts), next(mllm.model.parameters()))


@torch.inference_mode()
def run_forward(mllm: Mllm, batches: Sequence) -> None:
    for inputs in batches:
        mllm.model(**inputs, logits_to_keep=1)


@torch.inference_mode()
def run_prefill(mllm: Mllm, requests: Sequence[RankingRequest]) -> None:
    for batch in make_batches(requests):
        mllm.model(**prepare(mllm, batch), logits_to_keep=1)


def make_photographs(folder: Path, images: int) -> list[RankingRequest]:
    """Writes a few JPEGs of 12 megapixels, and makes requests that use them in turn."""
    rng, paths = np.random.default_rng(0), [folder / f"photograph-{index}.jpg" for index in range(8)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (75, 100, 3), np.uint8))
        coarse.resize((4000, 3000), Image.Resampling.BICUBIC).save(path, quality=90)
    names = tuple(blazon.name for blazon in draw_classes("val", CANDIDATES, 4, seed=0))
    return [RankingRequest(str(index), str(paths[index % len(paths)]), names) for index in range(images)]


class PausedModule(InferenceModule):
    """Evaluation's module with a pause in place of the model.

    Args:
        mllm: Its processor prepares the batches.
        batches: The batches.
        workers: Data-loading workers.
    """

    def __init__(self, mllm: Mllm, batches: list[Batch], workers: int):
        args = TrainerArgs(accelerator="cpu", num_workers=workers)
        super().__init__(RankerArgs(), Path(), Path(), batches, args)
        self.mllm = mllm

    def setup(self, stage: str) -> None:
        """Loads nothing."""

    def on_predict_start(self) -> None:
        """Starts the clock."""
        self.began = time.perf_counter()

    def predict_step(self, prepared: tuple[int, PreparedBatch], _) -> None:
        """Sleeps for as long as a GPU may take for the batch."""
        time.sleep(PAUSE * len(self.batches[prepared[0]].rows))

    def on_predict_end(self) -> None:
        """Stops the clock."""
        self.seconds = time.perf_counter() - self.began


def measure_waiting(mllm: Mllm, folder: Path, images: int) -> dict:
    """Measures evaluation's speed with pauses for the model, with and without workers.

    Args:
        mllm: Its processor prepares the batches.
        folder: The photographs are written into it.
        images: Number of images.
    """
    quiet_libraries()
    table = RequestTable([[request] for request in make_photographs(folder, images)])
    batches = InferenceJob("waiting", False, RankingMode("letters"), table, PAUSED_BATCH).batches()
    speeds = []
    for workers in (available_cores(), 0):
        module = PausedModule(mllm, batches, workers)
        run_predict(make_predict_trainer("cpu", 1), module)
        speeds.append(images / module.seconds)
        print(f"{workers} workers   {speeds[-1]:8.2f} images/s, of {1 / PAUSE:.2f} by the pauses alone")
    return {
        "ratio_to_wait": round(speeds[0] * PAUSE, 3),
        "ratio_to_wait_without_workers": round(speeds[1] * PAUSE, 3),
        "waiting": {"images": images, "workers": available_cores(), "pause_s": PAUSE},
    }


def time_run(run: Callable[[], None]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(
    mllm: Mllm, requests: list[RankingRequest], num_released: int, modes: Sequence[str], fixed_tokens: int | None
) -> dict[str, float]:
    """Measures the speed of each mode and reference.

    Args:
        mllm: The ranker.
        requests: The requests.
        num_released: Number of requests for the released loop, which is slow.
        modes: The modes to measure.
        fixed_tokens: Tokens of the released loop's replies; None: the model ends its turn itself.

    Returns:
        dict[str, float]: Images per second by name.
    """
    inputs = [prepare(mllm, batch) for batch in make_batches(requests)]
    runs = {mode: (len(requests), lambda mode=mode: run_mode(mllm, mode, requests)) for mode in modes}
    runs |= {
        "prefill": (len(requests), lambda: run_prefill(mllm, requests)),
        "forward": (len(requests), lambda: run_forward(mllm, inputs)),
        "released": (num_released, lambda: run_released(mllm, requests[:num_released], fixed_tokens)),
    }
    run_mode(mllm, "letters", requests[:BATCH])  # warm up
    run_released(mllm, requests[:1], fixed_tokens)
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS):
        for name, (_, run) in runs.items():
            best[name] = min(best[name], time_run(run))
    return {name: count / best[name] for name, (count, _) in runs.items()}


def report_speed(speed: dict[str, float]) -> dict:
    """Prints the speeds, and returns them with their ratios."""
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
    parser.add_argument("--small", action="store_true", help="fewer images, for a quick test")
    parser.add_argument("--ckpt", help="the run whose ranker is measured")
    parser.add_argument(
        "--no-waiting", action="store_true", help="leave out the waiting for images, which needs no GPU"
    )
    args = parser.parse_args()
    images, num_released, photographs = (32, 4, 24) if args.small else (128, 16, 96)
    gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        requests = make_requests(Path(folder), images)
        mllm = load_tuned(args.ckpt, Path(folder))
        waiting = {} if args.no_waiting else measure_waiting(mllm, Path(folder), photographs)
        mllm.model.to("cuda" if gpu else "cpu")
        metrics = {
            "images": images,
            "candidates": CANDIDATES,
            **report_speed(measure(mllm, requests, num_released, MODES, None)),
            **waiting,
            "device": torch.cuda.get_device_name() if gpu else platform.machine(),
            "threads": torch.get_num_threads(),
        }
        if gpu:
            print("7B shape, random weights")
            modes = [mode for mode in MODES if mode != "generate"]
            metrics["shape_7b"] = report_speed(measure(make_random_7b(), requests, 4, modes, FIXED_REPLY))
            metrics["shape_7b"]["reply_tokens"] = FIXED_REPLY
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
