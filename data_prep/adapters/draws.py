"""Draws of few-shot images: what an encoder is tuned on for one memory, and the folder of a run that holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data_prep.core.files import fingerprint
from data_prep.core.records import Sample
from data_prep.datasets import Dataset
from data_prep.datasets.shots import part_shots
from data_prep.memory.memories import with_templates
from data_prep.settings import Recipe

DRAWS = "draws"
"""Folder of a run's draws."""


@dataclass(frozen=True)
class Draw:
    """The images of one few-shot memory, with the classes to tell apart.

    Attributes:
        shots: Images per class.
        seed: Seed of the sampling.
        samples: The images.
        labels: The classes.
        texts: The classes' names as the encoder reads them.
        template: The prompt around a name: the first of the recipe's, or else of the data set's.
    """

    shots: int
    seed: int
    samples: Sequence[Sample]
    labels: Sequence[int]
    texts: Sequence[str]
    template: str

    @cached_property
    def digest(self) -> str:
        """Hash of images, classes and prompt, whatever the labels' numbers: equal for equal training data."""
        by_label = dict(zip(self.labels, self.texts, strict=True))
        images = [[sample.digest, by_label[sample.label]] for sample in self.samples]
        return fingerprint([images, list(self.texts), self.template])

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"shots-{self.shots}-seed-{self.seed}-{self.digest[:8]}"

    @property
    def prompts(self) -> list[str]:
        """The prompt of each class."""
        return [self.template.format(text) for text in self.texts]

    def folder(self, run: Path) -> Path:
        """Returns the folder of this draw in a run that tunes encoders on draws."""
        return run / DRAWS / self.name

    def describe(self) -> dict:
        """Describes the draw, for a manifest."""
        return {
            "shots": self.shots,
            "seed": self.seed,
            "digest": self.digest,
            "images": len(self.samples),
            "template": self.template,
            "classes": list(self.texts),
        }


def load_draw(recipe: Recipe, dataset: Dataset, part: str, shots: int, seed: int) -> Draw:
    """Samples the images of a few-shot memory, as ``load_memories`` does.

    Args:
        recipe: Data and retriever settings, and the cache.
        dataset: Data set with the part.
        part: ``val_memory`` or ``test_memory``.
        shots: Images per class.
        seed: Seed of the sampling.
    """
    samples = part_shots(dataset, part, shots, seed, recipe.data.draw, Path(recipe.cache))
    labels = dataset.labels(part)
    template = with_templates(recipe.retriever, dataset).templates[0]
    return Draw(shots, seed, samples, labels, [dataset.texts[label] for label in labels], template)
