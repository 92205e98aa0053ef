"""How fast the ranking modes are, against the paper's: writing the sorted list token by token.

``python benchmarks/ranking_modes.py [images] [candidates]`` ranks the same questions by each mode with
the embedded ranker, the modes in turn and each twice, and keeps the better time. The last line is one
JSON object: images per second by mode, and ``ratio_to_released``, the speed of ``letters`` (one forward
pass) against ``generate`` (the paper's).
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from data_prep.blazon import draw_classes
from data_prep.settings import MODES, RankerArgs
from data_prep.shields import render
from eval.ranking import Question, ask
from rar_train.backend import load_mllm

BATCH = 32
ROUNDS = 2


def questions(folder: Path, images: int, candidates: int) -> list[Question]:
    """Pictures of development classes, each with its family and others as candidates."""
    classes = draw_classes("development", images + candidates, 4, seed=0)
    made = []
    for number in range(images):
        path = folder / f"{number}.png"
        render(classes[number], 96, np.random.default_rng(number)).save(path)
        names = tuple(b.name for b in classes[number : number + candidates])
        made.append(Question(str(number), str(path), names))
    return made


def main(images: int = 128, candidates: int = 5) -> None:
    """Times the modes and prints the figures."""
    mllm = load_mllm(RankerArgs())
    mllm.model.to("cuda" if torch.cuda.is_available() else "cpu")
    seconds = dict.fromkeys(MODES, float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        asked = questions(Path(folder), images, candidates)
        for mode in MODES:
            ask(mllm, mode, asked[:BATCH])  # warm up
        for _ in range(ROUNDS):
            for mode in MODES:
                start = time.perf_counter()
                for first in range(0, images, BATCH):
                    ask(mllm, mode, asked[first : first + BATCH])
                seconds[mode] = min(seconds[mode], time.perf_counter() - start)
    speed = {mode: images / value for mode, value in seconds.items()}
    for mode, value in speed.items():
        print(f"{mode:10s} {value:8.1f} images/s, {value / speed['generate']:5.2f} times generate")
    figures = {
        "images": images,
        "candidates": candidates,
        "images_per_s": {mode: round(value, 2) for mode, value in speed.items()},
        "ratio_to_released": round(speed["letters"] / speed["generate"], 2),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
