"""The retriever's data module: labelled images with their class names as captions."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Rows

from data_prep.core.errors import UserError
from data_prep.core.pools import loader_options
from data_prep.core.records import Sample
from data_prep.datasets import Dataset
from data_prep.distributed.devices import resolve_workers
from data_prep.memory.memories import with_templates
from data_prep.settings import Recipe
from rar_train.engine.sampler import DataPosition, EpochPlan, EpochSampler, SampledExample
from rar_train.retriever.views import Features, Pixels


class _Pairs(Rows):
    """Pairs of image and caption; crop and template depend only on seed, epoch and row."""

    def __init__(self, recipe: Recipe, views: Pixels | Features, samples: Sequence[Sample], dataset: Dataset):
        self.views, self.samples, self.names, self.seed = views, samples, dataset.texts, recipe.seed
        self.templates = with_templates(recipe.retriever, dataset).templates

    def __getitem__(self, sampled: SampledExample) -> tuple[Tensor, Tensor, int]:
        row, epoch, _ = sampled
        sample = self.samples[row]
        rng = np.random.default_rng([self.seed, epoch, row])
        caption = self.templates[rng.integers(len(self.templates))].format(self.names[sample.label])
        return self.views.train_view(sample, int(rng.integers(1 << 31))), self.views.texts([caption])[0], sample.label


class _Queries(Rows):
    """Validation images, and the index of each one's class among the validation classes."""

    def __init__(self, views: Pixels | Features, samples: Sequence[Sample], class_index: dict[int, int]):
        self.views, self.samples, self.class_index = views, samples, class_index

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        sample = self.samples[row]
        return self.views.val_view(sample), self.class_index[sample.label]


class RetrieverData(L.LightningDataModule):
    """Batches for training and validation.

    Args:
        recipe: The run's recipe.
        views: Prepares the model's inputs from images and texts.
        dataset: Data set with the parts ``train`` and ``val``.
        start: Number of optimiser steps done before.
    """

    def __init__(self, recipe: Recipe, views: Pixels | Features, dataset: Dataset, start: int):
        super().__init__()
        self.recipe, self.views, self.dataset = recipe, views, dataset
        self.position = DataPosition(start * recipe.optim.grad_accum_steps)
        self.labels = dataset.labels("val")

    @property
    def steps(self) -> int:
        """Number of optimiser steps in the complete run.

        Raises:
            UserError: The images do not fill a step.
        """
        optim, trainer = self.recipe.optim, self.recipe.trainer
        images = len(self.dataset.parts["train"])
        batches = images // (optim.batch_size * trainer.devices * trainer.num_nodes) * optim.epochs
        if batches < optim.grad_accum_steps:
            raise UserError(
                f"{images} training images do not fill one step; lower optim.batch_size or optim.grad_accum_steps"
            )
        steps = batches // optim.grad_accum_steps
        return min(steps, optim.max_steps) if optim.max_steps > 0 else steps

    def name_ids(self) -> Tensor:
        """Returns the model's inputs for the names of the validation classes, shape ``[classes, templates, …]``."""
        templates = with_templates(self.recipe.retriever, self.dataset).templates
        texts = [template.format(self.dataset.texts[label]) for label in self.labels for template in templates]
        return self.views.texts(texts).unflatten(0, (len(self.labels), len(templates)))

    def train_dataloader(self) -> DataLoader:
        """Returns a loader of all epochs as one stream of batches, starting at the position."""
        optim, samples = self.recipe.optim, self.dataset.parts["train"]
        world, rank = self.trainer.world_size, self.trainer.global_rank
        plan = EpochPlan(len(samples), optim.batch_size, world, optim.epochs, self.recipe.seed, full=True)
        sampler = EpochSampler(plan, rank, self.position)
        rows = _Pairs(self.recipe, self.views, samples, self.dataset)
        return DataLoader(rows, batch_sampler=sampler, **loader_options(resolve_workers(self.recipe.trainer)))

    def val_dataloader(self) -> DataLoader:
        """Returns a loader of evenly spaced validation images, distributed over the processes."""
        samples = self.dataset.parts["val"]
        count = min(self.recipe.trainer.val_examples, len(samples))
        chosen = np.linspace(0, len(samples) - 1, count).astype(int)
        # Every process needs an image, or the others would wait for it.
        local = chosen[self.trainer.global_rank :: self.trainer.world_size]
        local = local if len(local) else chosen[:1]
        class_index = {label: index for index, label in enumerate(self.labels)}
        rows = _Queries(self.views, [samples[i] for i in local], class_index)
        return DataLoader(rows, self.recipe.retriever.batch_size)
