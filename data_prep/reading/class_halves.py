"""The two halves of a data set's classes, for base-to-new generalisation: tuned on one, evaluated on both.

Source: CoOp's ``subsample_classes`` (https://github.com/KaiyangZhou/CoOp), the protocol of CoCoOp (arXiv 2203.05557,
section 4.1): by ascending label, the first ``ceil(n / 2)`` classes are ``base``, and the others ``new``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from data_prep.core.errors import UserError
from data_prep.reading.dataset import Dataset
from data_prep.settings import DataArgs

HALVES = ("base", "new")
TUNED_PARTS = ("train", "val_memory", "val")
"""Parts that a model is tuned on or chosen on; ``test`` and ``test_memory`` are evaluated."""


def half_labels(classes: int, half: str) -> range:
    """Returns the labels of a half of the classes.

    Args:
        classes: Number of classes.
        half: ``base`` or ``new``.
    """
    middle = (classes + 1) // 2
    return range(middle) if half == "base" else range(middle, classes)


def limit_classes(dataset: Dataset, half: str, parts: Collection[str], setting: str) -> Dataset:
    """Returns the data set with parts limited to a half of its classes; labels and names stay as they are.

    Shots are still sampled among all classes, as CoOp does, so that a class has the same ones with and without the
    others; see ``Dataset.pools``.

    Args:
        dataset: With parts that share their classes.
        half: ``base`` or ``new``.
        parts: Parts to limit; those that were not read are passed over.
        setting: The setting that limits them, for the error message.

    Raises:
        UserError: The half has a single class, or a part has no image of it.
    """
    labels = half_labels(len(dataset.names), half)
    if len(labels) < 2:
        raise UserError(
            f"{setting}: of the {len(dataset.names)} classes of {dataset.name}, the {half} half has {len(labels)}, and "
            "at least two are needed; it takes four classes"
        )
    limited, pools = {}, {}
    for part in parts:
        if part not in dataset.parts:
            continue
        samples = dataset.parts[part]
        limited[part] = [sample for sample in samples if sample.label in labels]
        if not limited[part]:
            raise UserError(
                f"{setting}: {part} of {dataset.name} has no image of the {half} classes, which are "
                f"{len(labels)} of {len(dataset.names)} by label; base-to-new needs parts that share their classes"
            )
        pools[part] = dataset.pools.get(part, samples)
    return replace(dataset, parts=dataset.parts | limited, pools=dataset.pools | pools)


def tuned_labels(args: DataArgs, dataset: Dataset, part: str) -> list[int]:
    """Returns the labels that were tuned on, where a part also has others by ``data.val_only_classes``; else none.

    Args:
        args: Says which classes are tuned on.
        dataset: With the part.
        part: ``val_memory``.
    """
    labels = dataset.labels(part) if args.val_only_classes else []
    return labels[: len(labels) - round(args.val_only_classes * len(labels))]


def leave_out_of_train(dataset: Dataset, fraction: float) -> Dataset:
    """Returns the data set with the last of the tuned classes left out of ``train``; ``val`` and its memory keep them.

    Args:
        dataset: With any parts; which classes are tuned follows from ``train``, and without it nothing changes.
        fraction: ``data.val_only_classes``.

    Raises:
        UserError: Fewer than two classes are left to tune on.
    """
    if "train" not in dataset.parts:
        return dataset
    labels = dataset.labels("train")
    left = labels[: len(labels) - round(fraction * len(labels))]
    if len(left) < 2:
        raise UserError(
            f"data.val_only_classes={fraction}: leaves {len(left)} of the {len(labels)} tuned classes of "
            f"{dataset.name} in train, and at least two are needed; lower it"
        )
    kept = set(left)
    train = [sample for sample in dataset.parts["train"] if sample.label in kept]
    return replace(dataset, parts=dataset.parts | {"train": train})
