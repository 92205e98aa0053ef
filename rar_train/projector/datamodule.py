"""What a projector is given, trained on (pictures and their names) and validated on (names to choose from)."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Rows
from transformers import BatchFeature

from data_prep.core.errors import UserError
from data_prep.core.images import open_image
from data_prep.core.records import Sample
from data_prep.datasets import Dataset
from data_prep.prompting.prompts import NAMING
from data_prep.settings import Recipe
from rar_train.engine.sampler import DataPosition, EpochSampler, SampledExample
from rar_train.models.mllm import Mllm
from rar_train.projector.augment import augment

_CHOICES = 5  # names that a validation chooses from; chance is one in so many


def augmented_view(sample: Sample, view: int) -> Image.Image:
    """A view of a picture: the 0th is itself, others are altered, each in its own way."""
    image = open_image(sample.path)
    # By the picture's bytes, so that features of it are found again whatever stands beside it.
    return augment(image, int(sample.digest[:12], 16) + view) if view else image


@torch.no_grad()
def projector_inputs(mllm: Mllm, samples: Sequence[Sample], view: int = 0) -> Tensor:
    """What the model gives its projector of pictures: tower features of shape ``[n, places, channels]``."""
    images = [augmented_view(sample, view) for sample in samples]
    pixels = mllm.processor.image_processor(images, return_tensors="pt").pixel_values
    projector, seen = mllm.base.get_submodule(mllm.family.connector), []
    hook = projector.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        mllm.base.get_image_features(pixel_values=pixels.to(mllm.device, mllm.base.dtype))
    finally:
        hook.remove()
    return seen[0]


class _Named(Rows):
    """Picture and name by place."""

    def __init__(self, samples: Sequence[Sample], names: Sequence[str], views: int):
        self.samples, self.names, self.views = samples, names, views

    def __getitem__(self, place: SampledExample) -> tuple[Image.Image, str]:
        sample = self.samples[place.row]
        return augmented_view(sample, (place.row + place.epoch) % self.views), self.names[sample.label]


class _Choices(Rows):
    """Development pictures, each with its name first and others by lot."""

    def __init__(self, samples: Sequence[Sample], labels: Sequence[int], names: Sequence[str]):
        self.samples, self.labels, self.names = samples, labels, names

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[Image.Image, list[str]]:
        sample = self.samples[number]
        others = [label for label in self.labels if label != sample.label]
        count = min(_CHOICES - 1, len(others))
        drawn = np.random.default_rng(number).choice(others, count, replace=False).tolist()
        return open_image(sample.path), [self.names[label] for label in (sample.label, *drawn)]


class NamingData(L.LightningDataModule):
    """Pictures and names, from an optimiser step on.

    Args:
        recipe: The run's recipe.
        mllm: Prepares both.
        dataset: With the parts ``train`` and ``val``.
        start: Optimiser steps that are done already.
    """

    def __init__(self, recipe: Recipe, mllm: Mllm, dataset: Dataset, start: int):
        super().__init__()
        self.recipe, self.mllm, self.dataset = recipe, mllm, dataset
        self.position = DataPosition(start * recipe.optim.grad_accum_steps)

    def _sampler(self, world: int, rank: int) -> EpochSampler:
        optim, images = self.recipe.optim, len(self.dataset.parts["train"])
        return EpochSampler(
            images, optim.batch_size, rank, world, optim.epochs, self.recipe.seed, self.position, full=True
        )

    @property
    def steps(self) -> int:
        """Optimiser steps in the whole run.

        Raises:
            UserError: The pictures do not fill a step.
        """
        optim, trainer = self.recipe.optim, self.recipe.trainer
        steps = len(self._sampler(trainer.devices * trainer.num_nodes, 0)) // optim.grad_accum_steps
        if not steps:
            raise UserError(
                f"{len(self.dataset.parts['train'])} training images do not fill a step of optim.batch_size"
            )
        return min(steps, optim.max_steps) if optim.max_steps > 0 else steps

    def train_dataloader(self) -> DataLoader:
        """All epochs as one stream of labelled conversations, from the position on."""
        rows = _Named(self.dataset.parts["train"], self.dataset.texts, self.recipe.trainer.feature_views)
        sampler = self._sampler(self.trainer.world_size, self.trainer.global_rank)
        return DataLoader(rows, batch_sampler=sampler, collate_fn=self._conversations)

    def _conversations(self, pairs: list[tuple[Image.Image, str]]) -> BatchFeature:
        images, names = zip(*pairs, strict=True)
        return self.mllm.labelled(images, [NAMING] * len(names), names)

    def val_dataloader(self) -> DataLoader:
        """A fixed spread of validation pictures."""
        samples = self.dataset.parts["val"]
        count = min(self.recipe.trainer.val_examples, len(samples))
        chosen = [samples[place] for place in np.linspace(0, len(samples) - 1, count).astype(int)]
        rows = _Choices(chosen, self.dataset.labels("val"), self.dataset.names)
        return DataLoader(rows, self.recipe.optim.batch_size, collate_fn=list)
