"""The projector's data: tower features, training pairs of image and name, and validation by choice among names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Rows

from data_prep.core.errors import UserError
from data_prep.core.images import open_image
from data_prep.core.pools import loader_options
from data_prep.core.records import Sample
from data_prep.core.rng import evenly_spaced
from data_prep.datasets import Dataset
from data_prep.distributed.devices import resolve_workers
from data_prep.prompting.prompts import NAMING
from data_prep.settings import Recipe
from rar_train.engine.sampler import DataPosition, EpochPlan, EpochSampler, SampledExample
from rar_train.models.forest import Conversation, Forest
from rar_train.models.mllm import Mllm
from rar_train.models.planting import plant
from rar_train.projector.augment import augment

_CHOICES = 5  # names per validation image to choose from; chance accuracy is 1 in 5


def augmented_view(sample: Sample, view: int) -> Image.Image:
    """Returns a view of an image: view 0 is the image itself, other views are augmented, each differently."""
    image = open_image(sample.path)
    # The seed comes from the image's bytes, so that cached features are valid whatever the rest of the data set is.
    return augment(image, int(sample.digest[:12], 16) + view) if view else image


@torch.no_grad()
def projector_inputs(mllm: Mllm, samples: Sequence[Sample], view: int = 0) -> Tensor:
    """Returns the inputs of the model's projector: tower features of shape ``[n, positions, channels]``."""
    images = [augmented_view(sample, view) for sample in samples]
    pixels = mllm.processor.image_processor(images, return_tensors="pt").pixel_values
    projector, captured = mllm.base.get_submodule(mllm.family.connector), []
    hook = projector.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    try:
        mllm.base.get_image_features(pixel_values=pixels.to(mllm.device, mllm.base.dtype))
    finally:
        hook.remove()
    return captured[0]


class _Named(Rows):
    """Training images with their names."""

    def __init__(self, samples: Sequence[Sample], names: Sequence[str], views: int):
        self.samples, self.names, self.views = samples, names, views

    def __getitem__(self, sampled: SampledExample) -> tuple[Image.Image, str]:
        sample = self.samples[sampled.row]
        return augmented_view(sample, (sampled.row + sampled.epoch) % self.views), self.names[sample.label]


class _Choices(Rows):
    """Validation images, each with its own name first and then randomly sampled other names."""

    def __init__(self, samples: Sequence[Sample], labels: Sequence[int], names: Sequence[str]):
        self.samples, self.labels, self.names = samples, labels, names

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Image.Image, list[str]]:
        sample = self.samples[row]
        others = [label for label in self.labels if label != sample.label]
        count = min(_CHOICES - 1, len(others))
        sampled = np.random.default_rng(row).choice(others, count, replace=False).tolist()
        return open_image(sample.path), [self.names[label] for label in (sample.label, *sampled)]


def _make_conversations(pairs: list[tuple[Image.Image, str]], mllm: Mllm) -> Forest:
    images, names = zip(*pairs, strict=True)
    return plant(mllm, images, [[Conversation(NAMING, name)] for name in names])


class NamingData(L.LightningDataModule):
    """Images and names, starting at an optimiser step.

    Args:
        recipe: The run's recipe.
        mllm: Its processor prepares both.
        dataset: Data set with the parts ``train`` and ``val``.
        start: Number of optimiser steps done before.
    """

    def __init__(self, recipe: Recipe, mllm: Mllm, dataset: Dataset, start: int):
        super().__init__()
        self.recipe, self.mllm, self.dataset = recipe, mllm, dataset
        self.position = DataPosition(start * recipe.optim.grad_accum_steps)

    def _make_sampler(self, world: int, rank: int) -> EpochSampler:
        optim, images = self.recipe.optim, len(self.dataset.parts["train"])
        plan = EpochPlan(images, optim.batch_size, world, optim.epochs, self.recipe.seed, full=True)
        return EpochSampler(plan, rank, self.position)

    @property
    def steps(self) -> int:
        """Number of optimiser steps in the complete run.

        Raises:
            UserError: The images do not fill a step.
        """
        optim, trainer = self.recipe.optim, self.recipe.trainer
        steps = len(self._make_sampler(trainer.devices * trainer.num_nodes, 0)) // optim.grad_accum_steps
        if not steps:
            raise UserError(
                f"{len(self.dataset.parts['train'])} training images do not fill a step of optim.batch_size"
            )
        return min(steps, optim.max_steps) if optim.max_steps > 0 else steps

    def train_dataloader(self) -> DataLoader:
        """Returns a loader of all epochs as one stream of labelled conversations, starting at the position."""
        rows = _Named(self.dataset.parts["train"], self.dataset.texts, self.recipe.trainer.feature_views)
        sampler = self._make_sampler(self.trainer.world_size, self.trainer.global_rank)
        loading = loader_options(resolve_workers(self.recipe.trainer))
        # A spawned worker is sent what it collates with.
        collate_fn = partial(_make_conversations, mllm=self.mllm.without_model())
        return DataLoader(rows, batch_sampler=sampler, collate_fn=collate_fn, **loading)

    def val_dataloader(self) -> DataLoader:
        """Returns a loader of evenly spaced validation images."""
        samples = self.dataset.parts["val"]
        chosen = [samples[index] for index in evenly_spaced(len(samples), self.recipe.trainer.val_examples)]
        rows = _Choices(chosen, self.dataset.labels("val"), self.dataset.names)
        return DataLoader(rows, self.recipe.optim.batch_size, collate_fn=list)
