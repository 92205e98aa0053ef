"""Multiple choice among the true class and the classes that are most similar to the image, as FOCI asks it.

Source: FOCI (arXiv 2406.14496, section 3; https://github.com/gregor-ge/FOCI-Benchmark), whose questions Fine-R1 (arXiv
2602.07605) asks too: of all class names, the true one and the three wrong ones that are nearest to the image by CLIP's
cosine of image and prompted name. FOCI's encoder is open_clip's ``ViT-L-14`` with ``laion2b_s32b_b82k`` and its prompt
``an image of a {}``; here both are the recipe's.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from data_prep.core.rng import rng_for
from data_prep.datasets import Dataset
from data_prep.embedding.encoder import Encoder, embed_queries
from data_prep.memory.memories import load_memories, to_candidates
from data_prep.settings import Recipe, check
from eval.metrics.summary import CHOICE
from eval.recognition.tasks import EvalTask, find_similarities, make_kind

log = logging.getLogger(__name__)


def put_truths(labels: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Puts the true class among the nearest ones: in the last place where it is missing.

    Args:
        labels: The nearest classes per image, best first, shape ``[n, k]``.
        truths: Shape ``[n]``.
    """
    choices = labels.copy()
    missing = (labels != truths[:, None]).all(1)
    choices[missing, -1] = truths[missing]
    return choices


def make_choice_task(recipe: Recipe, encoder: Encoder, dataset: Dataset) -> EvalTask:
    """Makes the task of ``eval.choices``: each image's candidates, in an order that says nothing of their similarity.

    The retriever's row, ``clip_zero_shot``, takes the nearest of the same candidates.

    Args:
        recipe: Settings.
        encoder: Embeds images and names.
        dataset: With the evaluated split and its memory pool, whose classes are those to choose from.

    Raises:
        UserError: There are fewer classes than choices, or images of the split are of other classes.
    """
    args, part = recipe.eval, f"{recipe.eval.split}_memory"
    classes, samples = dataset.labels(part), dataset.parts[args.split]
    count = args.choices
    check(len(classes) >= count, f"eval.choices={count}: {dataset.name} has {len(classes)} classes; give that at most")
    truths = np.array([sample.label for sample in samples])
    foreign = sorted(set(truths.tolist()) - set(classes))
    names = ", ".join(dataset.names[label] for label in foreign[:3])
    check(not foreign, f"eval.choices: no class of {part} is the true one of images of {args.split}: {names}")
    xq = embed_queries(encoder, samples, recipe.retriever, Path(recipe.cache))
    memories = load_memories(recipe, encoder, dataset, part, 0, 0)
    labels = put_truths(memories.search("name", xq, count, recipe.retriever)[1], truths)
    scores = memories.scores("name", xq, labels, recipe.retriever)
    best_first = np.take_along_axis(labels, np.argsort(-scores, axis=1, kind="stable"), axis=1)
    orders = np.stack([rng_for(recipe.seed, CHOICE, sample.key).permutation(count) for sample in samples])
    labels, scores = (np.take_along_axis(table, orders, axis=1) for table in (labels, scores))
    log.info("choice: %d candidates per image, chance is %.1f %%", count, 100 / count)
    return EvalTask(
        CHOICE,
        0,
        0,
        make_kind(CHOICE, 0),
        args.fixed_permutations,
        to_candidates(scores, labels, dataset.names),
        find_similarities(memories, xq, labels, recipe.retriever, "name"),
        {"clip_zero_shot": best_first.tolist()},
    )
