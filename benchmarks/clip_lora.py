"""Measures CLIP-LoRA beside the other rows without a ranker, on the same few-shot memories.

``python benchmarks/clip_lora.py RUN [recipe=NAME] [key=value …]`` evaluates the encoders that ``python -m rar_train.fit
recipe=retriever_clip_lora out=RUN`` has tuned; settings are those of that command (``eval.split``, ``eval.shots``,
``eval.seeds``, ``cache``, ``data``). Adapters have their papers' values, since nothing is chosen here. It prints a
table of top-1 and recall at 5 in per cent, means over seeds with the standard deviation of top-1. The last line is one
JSON object: ``classes``, ``images``, ``split``, and under ``rows``, by shots and method, ``top1``, ``sd`` and
``recall_at_5``.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.adapters.hyperparameters import Hyperparameters
from data_prep.adapters.sources import usable_adapters, with_adapters
from data_prep.embedding.encoder import embed_queries, load_encoder
from data_prep.settings.loading import load_recipe
from eval.recognition.tasks import load_task_memories, retriever_methods
from rar_train.retriever.draws import read_draws

K = 5


def main(arguments: list[str]) -> None:
    """Retrieves the evaluated images' classes from every memory and source, and prints the accuracies."""
    run, *settings = arguments
    named = any(setting.startswith("recipe=") for setting in settings)
    recipe = load_recipe([*([] if named else ["recipe=retriever_clip_lora"]), *settings])
    recipe = replace(recipe, eval=replace(recipe.eval, clip_lora=run))
    dataset, encoder, args = read_draws(recipe), load_encoder(recipe.retriever), recipe.eval
    samples, cache = dataset.parts[args.split], Path(recipe.cache)
    xq, truths = embed_queries(encoder, samples, recipe.retriever, cache), np.array([s.label for s in samples])
    rows: dict[int, dict[str, dict]] = {}
    for shots in args.shots:
        hits: dict[str, list[np.ndarray]] = defaultdict(list)
        for seed in args.seeds:
            memories = load_task_memories(recipe, encoder, dataset, "few_shot", shots, seed)
            adapters = {name: Hyperparameters().of(name) for name in usable_adapters(args.adapters, memories)}
            memories = with_adapters(memories, adapters, cache)
            for method, source in retriever_methods(memories).items():
                _, labels = memories.search(source, xq, K, recipe.retriever)
                hits[method].append(labels == truths[:, None])
        rows[shots] = {}
        for method, of_seed in hits.items():
            top1 = [100 * float(found[:, 0].mean()) for found in of_seed]
            recall = [100 * float(found.any(1).mean()) for found in of_seed]
            means = {"top1": np.mean(top1), "sd": np.std(top1, ddof=1) if len(top1) > 1 else 0.0}
            rows[shots][method] = {key: round(float(value), 1) for key, value in means.items()}
            rows[shots][method]["recall_at_5"] = round(float(np.mean(recall)), 1)
            print(f"{shots:3} shots  {method:16}" + "  ".join(f"{k} {v:5.1f}" for k, v in rows[shots][method].items()))
    summary = {"classes": len(dataset.labels(f"{args.split}_memory")), "images": len(samples), "split": args.split}
    print(json.dumps(summary | {"rows": rows}))


if __name__ == "__main__":
    main(sys.argv[1:])
