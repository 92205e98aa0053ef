"""What the parity check of a server measures: nano-mllm against itself with one thing changed.

``python benchmarks/parity.py [--images 32]`` ranks generated shields by letters, and prints for each change the mean
difference of a letter's log-probability on the shields and on the check's patterns, the larger of which
``ranker.server.parity_tolerance`` limits, and the share of shields whose first candidate changes. The model sees 64
pixels. The last line is one JSON object: all by change; ``ratio_of_faults``, the smallest difference of a fault (a chat
template with a system prompt, a missing adapter, images of 48 pixels) over the tolerance, at least 1 or the check would
let it pass; and ``ratio_of_rounding``, that of bfloat16 over the tolerance, below 1.
"""

from __future__ import annotations

import argparse
import io
import json
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.settings import LoraArgs, RankerArgs, ServerArgs
from eval.ranking.modes import run_batch
from eval.ranking.parity import difference
from eval.ranking.probes import choose_probes
from eval.ranking.request import RankingMode, RankingRequest, Response
from rar_train.models.loading import load_mllm
from rar_train.models.lora import add_lora
from rar_train.models.mllm import Mllm

FAULTS = ("system prompt", "adapter", "48 pixels")


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=quality)
    return Image.open(buffer).convert("RGB")


def with_adapter() -> Mllm:
    """Returns nano-mllm with a random adapter that changes about as much as a training does."""
    mllm, generator = add_lora(load_mllm(RankerArgs()), LoraArgs()), torch.Generator().manual_seed(0)
    for name, parameter in mllm.model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.04 * torch.randn(parameter.shape, generator=generator)
    mllm.model.eval()
    return mllm


def with_system_prompt() -> Mllm:
    mllm = load_mllm(RankerArgs())
    mllm.letter_ids(26)  # before the change: scores are of the same tokens
    mllm.processor.chat_template = "A chat between a user and an assistant. " + mllm.processor.chat_template
    return mllm


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=32)
    count = parser.parse_args().images
    blazons = draw_classes("val", count + 4, 4, 0)
    images = [render(blazons[index], 96, np.random.default_rng(index)) for index in range(count)]
    names = [tuple(blazon.name for blazon in blazons[index : index + 5]) for index in range(count)]
    requests = [RankingRequest(f"{index}", *pair) for index, pair in enumerate(zip(images, names, strict=True))]
    probes = choose_probes(requests, count, "png")

    def answer(mllm: Mllm, change=lambda image: image) -> list[Response]:
        changed = [replace(probe, image=change(probe.image)) for probe in probes.requests]
        batches = [changed[start : start + 8] for start in range(0, len(changed), 8)]
        return [response for batch in batches for response in run_batch(mllm, RankingMode("letters"), batch)]

    nano = load_mllm(RankerArgs())
    expected = answer(nano)
    changes = {
        "bfloat16": answer(load_mllm(RankerArgs(dtype="bfloat16"))),
        "jpeg, quality 95": answer(nano, lambda image: as_jpeg(image, 95)),
        **{
            f"{edge} pixels": answer(nano, lambda image, edge=edge: image.resize((edge, edge))) for edge in (48, 32, 16)
        },
        "adapter": answer(with_adapter()),
        "system prompt": answer(with_system_prompt()),
    }
    figures = {}
    for name, actual in changes.items():
        pairs = list(zip(expected[:count], actual[:count], strict=True))
        changed = float(np.mean([np.argmax(a.scores) != np.argmax(b.scores) for a, b in pairs]))
        parts = difference(expected[:count], actual[:count]), difference(expected[count:], actual[count:])
        figures[name] = dict(
            zip(("images", "patterns", "changed"), (round(x, 4) for x in (*parts, changed)), strict=True)
        )
        print(
            f"{name:18} images {parts[0]:6.3f}, patterns {parts[1]:6.3f} nats; first candidate changed {changed:6.1%}"
        )
    tolerance = ServerArgs().parity_tolerance
    ratios = {name: max(row["images"], row["patterns"]) / tolerance for name, row in figures.items()}
    summary = {"changes": figures, "tolerance": tolerance, "ratio_of_faults": min(ratios[name] for name in FAULTS)}
    print(json.dumps(summary | {"ratio_of_rounding": ratios["bfloat16"]}))


if __name__ == "__main__":
    main()
