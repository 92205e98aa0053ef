"""Readers: from a layout on disk to samples by part.

Every data set has five parts. ``tuning`` is mined for ranking examples. ``development`` and
``test`` are recognised, against memories drawn from ``development_memory`` and ``test_memory``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from data_prep.datasets.armory import read_armory
from data_prep.datasets.dataset import Dataset
from data_prep.datasets.folder import read_folder
from data_prep.datasets.synonyms import read_synonyms
from data_prep.errors import UserError
from data_prep.names import told_apart
from data_prep.settings import DataArgs

READERS = {"armory": read_armory, "folder": read_folder}


def read_dataset(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads the parts of the recipe's data set. Classes of one name are numbered, so that a reply can tell them apart.

    Args:
        args: Which data set, and its settings.
        cache: Folder of caches.
        parts: The parts that are needed; armory draws no others.

    Raises:
        UserError: An unknown data set, or data that a user must mend.
    """
    if args.name not in READERS:
        raise UserError(f"data.name={args.name}: there are {', '.join(READERS)}")
    dataset = READERS[args.name](args, cache, parts)
    synonyms = read_synonyms(Path(args.root), dataset.names) if args.root else {}
    return replace(dataset, names=told_apart(dataset.names), synonyms=synonyms)


__all__ = ["READERS", "Dataset", "read_dataset"]
