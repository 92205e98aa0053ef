"""One pass over prefix trees against separate passes: training, orders and memories, ties, and memory of a list step.

    python benchmarks/one_pass.py [--small] [--trl]

``ratio_train``: examples/s of letters, likelihood and list together, forward and backward with gradient checkpointing,
of one tree over a pass for each conversation (at least 3.5). ``ratio_orders``: images/s in mode ``letters`` with 4
orders and 4 memories (at least 3). Both on the random LLaVA of ``benchmarks/random_llava.py``; rounds alternate, and
medians are compared. ``ratio_objectives_to_trl``, with ``--trl`` and ``pip install trl``: examples/s of the three
objectives of this project over those of TRL's one (at least 1.0).

``tied``, ``agreement``: share of lists whose best two of five letters tie, and share whose best letter is that of the
same model in float32, with the model's own bfloat16 logits (``before``) and with the head in float32 (``after``), for
nano-mllm and for a random model with a vocabulary of 150,000. ``list_step_mb``: peak memory of a list step's forward
and backward pass on the latter, beyond that of the model and its inputs, from logits at all of the answer's positions
and from those that are read.

2026-11-28, two x86_64 cores with other work at a lower priority, ``--trl``: ``ratio_train`` 3.64 (0.37 and 0.10
examples/s), ``ratio_orders`` 4.12 (0.50 and 0.12 images/s), ``ratio_objectives_to_trl`` 1.14 (five rounds);
``list_step_mb`` 1,673 before and 874 after. nano-mllm has no ties either way and agrees in 99.9 % before and 99.8 %
after; the wide model ties in 0.4 % before and in none after, and agrees in 90.0 and 88.8 %. Without that other work
0.92 and 0.26 examples/s, 1.21 and 0.32 images/s were measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from random_llava import Size, choose_size, make_examples, make_model
from train_step import read_peak_memory, settings
from transformers import LlavaForConditionalGeneration

from data_prep.armory.blazon import draw_classes
from data_prep.prompting.prompts import letters_prompt, list_answer, list_prompt
from data_prep.settings import RankerArgs
from data_prep.settings.loading import load_recipe
from eval.ranking.modes import run_batch
from eval.ranking.request import RankingMode, RankingRequest
from rar_train.families.table import FAMILIES
from rar_train.models import scoring
from rar_train.models.forest import Conversation
from rar_train.models.loading import load_mllm
from rar_train.models.mllm import Mllm
from rar_train.models.planting import plant
from rar_train.ranker.collate import collate
from rar_train.ranker.losses import compute_losses
from rar_train.ranker.module import RankerModule

OBJECTIVES = ("letters", "likelihood", "list")
THREE = [f"ranker.objectives.{name}=1" for name in OBJECTIVES]
ROUNDS, IMAGES, ORDERS, MEMORIES, K = 3, 4, 4, 4, 5


def seconds(run: Callable[[], object]) -> float:
    """Returns how long a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(run: Callable[[], object]) -> tuple[float, float]:
    """Returns the median seconds of a call that scores trees: in one pass, and in a pass for each conversation."""
    together, alone = [], []
    for _ in range(ROUNDS):
        together.append(seconds(run))
        with mock.patch.object(scoring, "takes_trees", lambda _: False):
            alone.append(seconds(run))
    return statistics.median(together), statistics.median(alone)


def compare_training(size: Size) -> dict[str, float]:
    """Compares steps of all three objectives with gradient checkpointing."""
    model, processor = make_model(size)
    recipe = load_recipe([*settings(size, "unused"), *THREE, "trainer.gradient_checkpointing=true"])
    module = RankerModule(recipe, Mllm(model, processor, FAMILIES["llava"], "random"), 1).train()
    batch = collate(module.mllm, make_examples(size.batch), OBJECTIVES, 0, [0] * size.batch)

    def step() -> None:
        losses = compute_losses(module.mllm, batch, recipe.ranker.objectives).values
        sum(loss.mean() for loss in losses.values()).backward()

    step()
    together, alone = compare(step)
    rates = {"train_examples_per_s": size.batch / together, "train_separate_examples_per_s": size.batch / alone}
    return {"ratio_train": alone / together} | rates


def compare_orders(size: Size) -> dict[str, float]:
    """Compares mode ``letters`` with several orders and memories."""
    model, processor = make_model(size)
    mllm = Mllm(model.eval(), processor, FAMILIES["llava"], "random")
    names = [blazon.name for blazon in draw_classes("train", 40, 4, 0)]
    requests = [
        RankingRequest(f"{index}", image, tuple(np.random.default_rng([index, memory]).choice(names, K, False)), order)
        for index, (_, image) in enumerate(make_examples(IMAGES))
        for memory in range(MEMORIES)
        for order in range(ORDERS)
    ]
    run_batch(mllm, RankingMode("letters"), requests[: ORDERS * MEMORIES])
    together, alone = compare(lambda: run_batch(mllm, RankingMode("letters"), requests))
    rates = {"orders_images_per_s": IMAGES / together, "orders_separate_images_per_s": IMAGES / alone}
    return {"ratio_orders": alone / together} | rates


def compare_trl(small: bool) -> dict[str, float]:
    """Compares three objectives here with TRL's one, by ``benchmarks/train_step.py``."""
    script = Path(__file__).with_name("train_step.py")
    command = [sys.executable, str(script), "--sides", "objectives", "trl", *(["--small"] if small else [])]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    metrics = json.loads(result.stdout.splitlines()[-1])
    return {"ratio_objectives_to_trl": metrics["examples_ratio_to_trl"]}


def make_wide() -> Mllm:
    """Makes nano-mllm's architecture with random weights, a width of 256 and a vocabulary of 150,000."""
    nano = load_mllm(RankerArgs())
    config = type(nano.base.config).from_dict(nano.base.config.to_dict())
    changes = {"vocab_size": 150_000, "hidden_size": 256, "head_dim": 64, "initializer_range": 0.2}
    for key, value in changes.items():
        setattr(config.text_config, key, value)
    torch.manual_seed(0)
    return Mllm(LlavaForConditionalGeneration(config).eval(), nano.processor, nano.family, "wide")


@torch.inference_mode()
def compare_ties(mllm: Mllm, count: int) -> dict[str, dict[str, float]]:
    """Compares letters of ``count`` lists in bfloat16 with those in float32."""
    examples = make_examples(count)
    scores: dict[str, list[torch.Tensor]] = {"before": [], "after": [], "float32": []}
    letters = mllm.letter_ids(K)
    for dtype in (torch.float32, torch.bfloat16):
        mllm.model.to(dtype)
        for start in range(0, count, 20):
            batch = examples[start : start + 20]
            images = [image for _, image in batch]
            prompts = [letters_prompt([candidate.name for candidate in example.candidates]) for example, _ in batch]
            forest = plant(mllm, images, [[Conversation(prompt)] for prompt in prompts])
            key = "float32" if dtype is torch.float32 else "after"
            scores[key].append(scoring.score(mllm, forest, letters).letters)
            if dtype is torch.bfloat16:
                inputs = mllm.inputs(images, prompts)
                inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
                scores["before"].append(mllm.model(**inputs, logits_to_keep=1).logits[:, -1, letters].float())
    tables = {key: torch.cat(parts) for key, parts in scores.items()}
    best = {key: table.topk(2).values for key, table in tables.items()}
    sides = ("before", "after")
    return {
        "tied": {key: (best[key][:, 0] == best[key][:, 1]).float().mean().item() for key in sides},
        "agreement": {
            key: (tables[key].argmax(1) == tables["float32"].argmax(1)).float().mean().item() for key in sides
        },
    }


def list_step(side: str, count: int) -> dict[str, float]:
    """Runs a list step on the wide model, and returns its peak memory beyond that of model and inputs."""
    mllm = make_wide()
    mllm.model.requires_grad_(False)
    mllm.base.get_submodule(mllm.family.connector).requires_grad_(True)
    examples = make_examples(count)
    if side == "after":
        batch = collate(mllm, examples, ["list"], 0, [0] * count)
        assert scoring.takes_trees(mllm)
    else:
        names = [[candidate.name for candidate in example.candidates] for example, _ in examples]
        answers = [list_answer(row) for row in names]
        inputs = mllm.labelled([image for _, image in examples], [list_prompt(row) for row in names], answers)
        labels = inputs.pop("labels")[:, 1:]
    before = read_peak_memory()
    if side == "after":
        scores = scoring.score(mllm, batch.forest)
        loss = -(scores.answers / scores.lengths).mean()
    else:
        first = int((labels != -100).int().argmax(1).min())
        logits = mllm.model(**inputs, logits_to_keep=labels.shape[1] - first + 1).logits[:, :-1].float()
        loss = F.cross_entropy(logits.flatten(0, 1), labels[:, first:].flatten())
    loss.backward()
    return {"mb": (read_peak_memory() - before) / 1e6}


def measure_list_steps(count: int) -> dict[str, dict[str, float]]:
    """Measures list steps before and after, each in a process of its own."""
    peaks = {}
    for side in ("before", "after"):
        command = [sys.executable, __file__, "--list-step", side, "--examples", str(count)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        peaks[side] = json.loads(result.stdout.splitlines()[-1])["mb"]
    return {"list_step_mb": peaks}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--trl", action="store_true")
    parser.add_argument("--list-step", choices=("before", "after"))
    parser.add_argument("--examples", type=int, default=8)
    args = parser.parse_args()
    if args.list_step:
        print(json.dumps(list_step(args.list_step, args.examples)))
        return
    size, lists = choose_size(args.small, False), 40 if args.small else 1000
    results = compare_training(size) | compare_orders(size)
    results |= {"nano": compare_ties(load_mllm(RankerArgs()), lists), "wide": compare_ties(make_wide(), lists // 4)}
    results |= measure_list_steps(2 if args.small else args.examples)
    results |= compare_trl(args.small) if args.trl else {}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(json.dumps(results | {"device": device}))


if __name__ == "__main__":
    main()
