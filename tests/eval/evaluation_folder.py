"""Writes an evaluation's folder with class names that try to break an HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from data_prep.core.results_file import write_results
from eval.report.predictions import write_predictions
from eval.report.reading import FILES

# Characters that occur in real class names, and ones that would end a script or a tag.
NAMES = ["</script><script>alert(1)</script>", 'd\'or & "argent"', "<b>gules</b>", "紋章 🛡️", "azure"]


_BINS = [{"confidence": 0.4, "accuracy": 0.5, "count": 2}, {"confidence": 0.9, "accuracy": 0.75, "count": 4}]


def choice_of(method: str, k: int, speed: float | None = 41.25) -> dict:
    """What is chosen for a memory on validation images: four numbers of candidates, from two sources."""
    curve = [
        {"k": count, "recall": 0.7 + count / 100, "rar": 0.71, "rar_fused": 0.73 + count / 100, "images_per_s": speed}
        for count in (1, 4, 5, 10)
    ]
    sources = [{"source": source, "k": k, "recall": 0.8, "retriever": 0.5} for source in ("image", "fused")]
    head = {"method": method, "source": "fused", "k": k, "permutations": 1, "reason": "highest top-1 on 9 images"}
    return head | {"curve": curve, "sources": sources, "fusion": {}}


CHOICES = {
    "choice": {"few_shot-4": choice_of("rar_fused", 10), "zero_shot-0": choice_of("retriever", 5, None)},
    "calibration": {
        "few_shot-4": {
            method: {
                "before": {"ece": 0.141, "ece_given_hit": 0.132, "bins": _BINS},
                "after": {"ece": 0.023, "ece_given_hit": None, "bins": _BINS},
            }
            for method in ("rar", "rar_fused")
        }
    },
}
"""What was chosen for two of the three memories of ``write_evaluation``, and calibration figures for one."""


def line_of(number: int, method: str, task: str, shots: int, seed: int) -> dict:
    names = [NAMES[(number + step) % 5] for step in range(3)]
    ranking = {"rar": names[::-1], "rar_fused": [names[1], names[0], names[2]]}.get(method, names)
    return {
        "key": f"image-{number}",
        "task": task,
        "shots": shots,
        "seed": seed,
        "method": method,
        "truth": names[number % 3],
        "candidates": [{"name": name, "score": 0.9 - 0.1 * rank} for rank, name in enumerate(names)],
        "ranking": ranking,
        "probabilities": [0.2, 0.3, 0.5],
        "outcome": "unreadable" if number == 0 else "ok",
        "reply": "<i>no list</i>" if number == 0 else "",
    }


def row_of(task: str, shots: int, seed: int, method: str) -> dict:
    shares = {"top1": 0.5 + 0.01 * seed, "top5": 1.0, "recall_at_k": 1.0}
    staged = {"top1_given_hit": 0.5, "corrected": 3, "broken": 1} if method.startswith("rar") else {}
    head = {"dataset": "armory", "task": task, "shots": shots, "seed": seed, "method": method}
    return head | {"k": 3, "n": 6} | shares | staged


def write_evaluation(parent: Path, fused: bool = False, choices: Mapping = MappingProxyType({})) -> Path:
    """Writes a folder as eval.run does, with the zero-shot task and two numbers of shots by two seeds.

    Args:
        parent: Folder for it.
        fused: Also has the method ``rar_fused``.
        choices: Further keys of ``results.json``, such as ``CHOICES``.
    """
    folder = parent / "run" / "eval" / "test-letters"
    folder.mkdir(parents=True)
    tasks = [("zero_shot", 0, 0), *(("few_shot", shots, seed) for shots in (1, 4) for seed in (1, 2))]
    methods = ("rar_untuned", "rar", *(("rar_fused",) if fused else ()))
    lines = [line_of(n, m, *task) for m in methods for task in tasks for n in range(6)]
    write_predictions(folder, NAMES, lines)
    gain = {"mean": 0.1, "low": -0.05, "high": 0.25}
    summary = [
        {
            "task": task,
            "shots": shots,
            "methods": {m: {"mean": 0.5, "sd": 0.01, "low": 0.4, "high": 0.6} for m in ("clip_knn", *methods)},
            "rar_minus_retriever": gain | {"reference": "clip_knn"},
            "rar_minus_untuned": gain | {"reference": "rar_untuned"},
            **({"rar_fused_minus_retriever": gain | {"reference": "clip_knn", "low": 0.05}} if fused else {}),
        }
        for task, shots in (("zero_shot", 0), ("few_shot", 1), ("few_shot", 4))
    ]
    by_place = [{"place": place, "n": 2, "top1": 0.5, "chosen": 0.3} for place in (1, 2, 3)]
    results = {
        "dataset": "armory",
        "split": "test",
        "mode": "letters",
        "k": 3,
        "rows": [row_of(*task, method) for task in tasks for method in ("clip_knn", *methods)],
        "summary": summary,
        "by_place": {"rar": {"retrieved": by_place}},
    }
    image = parent / "shield.png"
    Image.fromarray(np.zeros((90, 60, 3), np.uint8)).save(image)
    pictures = {"images": {f"image-{n}": str(image) for n in range(5)}, "classes": {NAMES[0]: str(image)}}
    (folder / "pictures.json").write_text(json.dumps(pictures))
    write_results(folder, results | choices, FILES)
    return folder
