"""Writes an evaluation's folder with class names that try to break an HTML page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.core.results_file import write_results
from eval.report.reading import FILES

# Characters that occur in real class names, and ones that would end a script or a tag.
NAMES = ["</script><script>alert(1)</script>", 'd\'or & "argent"', "<b>gules</b>", "紋章 🛡️", "azure"]


def line_of(number: int, method: str, task: str, shots: int, seed: int) -> dict:
    names = [NAMES[(number + step) % 5] for step in range(3)]
    ranking = names[::-1] if method == "rar" else names
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
    return {"dataset": "armory", "task": task, "shots": shots, "seed": seed, "method": method, "n": 6} | shares | staged


def write_evaluation(parent: Path) -> Path:
    """Writes a folder as eval.run does, with the zero-shot task and two numbers of shots by two seeds."""
    folder = parent / "run" / "eval" / "test-letters"
    folder.mkdir(parents=True)
    tasks = [("zero_shot", 0, 0), *(("few_shot", shots, seed) for shots in (1, 4) for seed in (1, 2))]
    methods = ("rar_untuned", "rar")
    lines = [line_of(n, m, *task) for m in methods for task in tasks for n in range(6)]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    gain = {"mean": 0.1, "low": -0.05, "high": 0.25}
    summary = [
        {
            "task": task,
            "shots": shots,
            "methods": {m: {"mean": 0.5, "sd": 0.01, "low": 0.4, "high": 0.6} for m in ("clip_knn", *methods)},
            "rar_minus_retriever": gain | {"reference": "clip_knn"},
            "rar_minus_untuned": gain | {"reference": "rar_untuned"},
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
    write_results(folder, results, FILES)
    return folder
