"""Measures the few-shot adapters: time to fit, time to choose hyperparameters, and top-1 beside the retriever's.

``python benchmarks/adapters.py [recipe=NAME] [key=value …]`` classifies the test images by names, images, both, and by
each adapter of ``eval.adapters``, with 1, 4 and 16 shots and three seeds unless ``eval.shots`` and ``eval.seeds`` say
otherwise. Hyperparameters are chosen on ``eval.fit_images`` validation images with the validation classes' memory, as
``eval.run`` does. Embeddings come from the recipe's cache; fits and choices are made again. The last line is one JSON
object: numbers of ``classes`` and ``images``, and ``rows``, one for each number of shots and method, with the mean
``top1`` over seeds and its standard deviation ``sd`` in per cent, and of an adapter the hyperparameters ``chosen``,
and CPU seconds: ``choose_s`` for all seeds together, and ``fit_s``, the mean over the seeds' test memories. Seeds that
draw the same images share a fit. The first choice includes the import of PyTorch's optimizers, about a second.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.adapters.choosing import choose_for_memories
from data_prep.adapters.sources import usable_adapters, with_adapters
from data_prep.core.rng import evenly_spaced
from data_prep.datasets import Dataset, read_dataset
from data_prep.embedding.encoder import Encoder, embed_queries, load_encoder
from data_prep.memory.memories import Memories, load_memories
from data_prep.settings import Recipe
from data_prep.settings.loading import load_recipe
from eval.recognition.tasks import retriever_methods


def load_part(recipe: Recipe, encoder: Encoder, dataset: Dataset, part: str, shots: int) -> list[Memories]:
    """Loads the memories of a part's classes, one for each seed."""
    return [load_memories(recipe, encoder, dataset, f"{part}_memory", shots, seed) for seed in recipe.eval.seeds]


def measure(recipe: Recipe, encoder: Encoder, dataset: Dataset, shots: int, cache: Path) -> list[dict]:
    """Measures every method with one number of shots."""
    samples = {part: dataset.parts[part] for part in ("val", "test")}
    count = len(samples["val"])
    samples["val"] = [samples["val"][index] for index in evenly_spaced(count, recipe.eval.fit_images or count)]
    queries = {
        part: embed_queries(encoder, of_part, recipe.retriever, Path(recipe.cache)) for part, of_part in samples.items()
    }
    truths = {part: np.array([sample.label for sample in of_part]) for part, of_part in samples.items()}
    memories = {part: load_part(recipe, encoder, dataset, part, shots) for part in samples}
    accelerator = recipe.trainer.accelerator
    rows = []

    def add_row(method: str, by_seed: list[Memories], source: str, **figures: object) -> None:
        results = [of_seed.search(source, queries["test"], 1, recipe.retriever) for of_seed in by_seed]
        top1 = [100 * float((labels[:, 0] == truths["test"]).mean()) for _, labels in results]
        sd = float(np.std(top1, ddof=1)) if len(top1) > 1 else 0.0
        rows.append(
            {"shots": shots, "method": method, "top1": round(float(np.mean(top1)), 1), "sd": round(sd, 1)} | figures
        )
        print(rows[-1], file=sys.stderr)

    for method, source in retriever_methods(memories["test"][0]).items():
        add_row(method, memories["test"], source)
    for name in usable_adapters(recipe.eval.adapters, memories["val"][0]):
        start = time.process_time()
        chosen = choose_for_memories([name], memories["val"], queries["val"], truths["val"], cache, accelerator)
        choose_s = time.process_time() - start
        adapted = [with_adapters(of_seed, chosen, cache) for of_seed in memories["test"]]
        start = time.process_time()
        for of_seed in adapted:
            of_seed.sources[name].prepare(of_seed)
        fit_s = (time.process_time() - start) / len(adapted)
        add_row(name, adapted, name, chosen=chosen[name], choose_s=round(choose_s, 2), fit_s=round(fit_s, 2))
    return rows


def main(settings: list[str]) -> None:
    """Measures with each number of shots, and prints the rows."""
    named = any(setting.startswith("recipe=") for setting in settings)
    recipe = load_recipe([*([] if named else ["recipe=ranker_lora"]), "eval.shots=[1,4,16]", *settings])
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("val_memory", "val", "test_memory", "test"))
    encoder = load_encoder(recipe.retriever, replace(recipe.trainer, num_nodes=1))
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for shots in recipe.eval.shots for row in measure(recipe, encoder, dataset, shots, Path(folder))]
    sizes = {"classes": len(dataset.labels("test_memory")), "images": len(dataset.parts["test"])}
    print(json.dumps(sizes | {"seeds": len(recipe.eval.seeds), "rows": rows}))


if __name__ == "__main__":
    main(sys.argv[1:])
