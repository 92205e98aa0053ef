"""The data module of few-shot tuning: the images of a draw, with the index of each one's class."""

from __future__ import annotations

import lightning as L
import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Rows

from data_prep.adapters.draws import Draw
from data_prep.core.pools import loader_options
from data_prep.core.rng import evenly_spaced
from data_prep.distributed.devices import resolve_workers
from data_prep.settings import Recipe
from rar_train.engine.sampler import DataPosition, EpochPlan, EpochSampler, SampledExample
from rar_train.retriever.views import Pixels


class _Images(Rows):
    """A draw's images; in training a crop depends only on seed, epoch and row."""

    def __init__(self, views: Pixels, draw: Draw, seed: int):
        self.views, self.samples, self.seed = views, draw.samples, seed
        self.indices = {label: index for index, label in enumerate(draw.labels)}

    def __getitem__(self, sampled: SampledExample) -> tuple[Tensor, int, float]:
        row, epoch, weight = sampled
        sample = self.samples[row]
        crop = np.random.default_rng([self.seed, epoch, row]).integers(1 << 31)
        return self.views.train_view(sample, int(crop)), self.indices[sample.label], weight


class _Uncropped(_Images):
    """The complete images."""

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Tensor, int, float]:
        sample = self.samples[row]
        return self.views.val_view(sample), self.indices[sample.label], 1.0


class FewShotData(L.LightningDataModule):
    """Batches of one draw.

    Args:
        recipe: The run's recipe.
        views: Prepares the model's inputs from images and texts.
        draw: The images and classes.
        start: Number of optimiser steps done before.
    """

    def __init__(self, recipe: Recipe, views: Pixels, draw: Draw, start: int):
        super().__init__()
        self.recipe, self.views, self.draw = recipe, views, draw
        self.position = DataPosition(start * recipe.optim.grad_accum_steps)

    @property
    def steps(self) -> int:
        """Number of optimiser steps in the complete run."""
        steps, most = self.recipe.retriever.tuning.iterations_per_shot * self.draw.shots, self.recipe.optim.max_steps
        return min(steps, most) if most > 0 else steps

    @property
    def plan(self) -> EpochPlan:
        """The batches of the complete run."""
        optim, count = self.recipe.optim, len(self.draw.samples)
        one = EpochPlan(count, optim.batch_size, 1, 1, self.recipe.seed, accumulate=optim.grad_accum_steps)
        epochs = -(-self.steps * optim.grad_accum_steps // one.per_epoch)
        return EpochPlan(count, optim.batch_size, 1, epochs, self.recipe.seed, accumulate=optim.grad_accum_steps)

    def train_dataloader(self) -> DataLoader:
        """Returns a loader of all epochs as one stream of batches, starting at the position."""
        rows = _Images(self.views, self.draw, self.recipe.seed)
        sampler = EpochSampler(self.plan, 0, self.position)
        return DataLoader(rows, batch_sampler=sampler, **loader_options(resolve_workers(self.recipe.trainer)))

    def val_dataloader(self) -> DataLoader:
        """Returns a loader of evenly spaced images of the draw, without crops."""
        rows, count = _Uncropped(self.views, self.draw, self.recipe.seed), self.recipe.trainer.val_examples
        chosen = evenly_spaced(len(self.draw.samples), count)
        return DataLoader(rows, self.recipe.retriever.batch_size, sampler=chosen)
