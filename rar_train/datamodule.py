"""The data of a training run: exact epochs by sample, from a position that is checkpointed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from data_prep.build import build
from data_prep.errors import UserError
from data_prep.files import read_json, write_json
from data_prep.held_out import read_mined, write_mined
from data_prep.settings import Recipe
from data_prep.shards import ShardedExamples
from rar_train.backend import Mllm
from rar_train.collate import RankingBatch, collate
from rar_train.streaming import DataPosition, ResampledBatches, ShardStream


class EpochSampler(Sampler):
    """Deals out epochs by sample: every process gets as many, and none gets another's.

    Each epoch is a seeded permutation of all examples. Its tail that does not fill a batch on
    every process is left out; another epoch leaves out others.

    Args:
        examples: How many there are.
        batch_size: Examples per process and batch.
        rank: This process.
        world: Processes.
        epochs: Passes over the examples.
        seed: Of the permutations.
        position: Where to begin.
    """

    def __init__(
        self, examples: int, batch_size: int, rank: int, world: int, epochs: int, seed: int, position: DataPosition
    ):
        self.examples, self.batch_size = examples, batch_size
        self.rank, self.world, self.epochs, self.seed = rank, world, epochs, seed
        self.position = position
        self.per_epoch = examples // (batch_size * world)

    def __len__(self) -> int:
        return self.per_epoch * self.epochs

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number in range(self.position.batches, len(self)):
            epoch, batch = divmod(number, self.per_epoch)
            order = np.random.default_rng([self.seed, epoch]).permutation(self.examples)
            first = batch * self.batch_size * self.world
            mine = order[first : first + self.batch_size * self.world][self.rank :: self.world]
            yield [(int(row), epoch) for row in mine]


class _Rows(Dataset):
    """Examples by (number, epoch), so that the epoch's shuffle reaches the collation."""

    def __init__(self, examples: ShardedExamples):
        self.examples = examples

    def __getitem__(self, place: tuple[int, int]):
        number, epoch = place
        return self.examples[number], epoch


def _collate(rows: list, mllm: Mllm, objectives: tuple[str, ...], seed: int, target: str) -> RankingBatch:
    return collate(mllm, [pair for pair, _ in rows], objectives, seed, [epoch for _, epoch in rows], target)


class RankingData(L.LightningDataModule):
    """Makes what is missing of a recipe's data, and loads it.

    Args:
        recipe: The run's recipe.
        mllm: Tokenises and prepares images.
    """

    def __init__(self, recipe: Recipe, mllm: Mllm):
        super().__init__()
        self.recipe, self.mllm = recipe, mllm
        self.position = DataPosition()
        self.prepare_data_per_node = False
        self._prepared = False

    @property
    def _made(self) -> Path:
        return Path(self.recipe.out) / "data.json"

    def prepare_data(self) -> None:
        """Runs the data stages on one process and notes what they made."""
        if self._prepared:
            return
        self._prepared = True
        # Other machines wait for what this one makes, so it embeds on its own devices alone.
        tuning, development = build(replace(self.recipe, trainer=replace(self.recipe.trainer, num_nodes=1)))
        write_mined(Path(self.recipe.out), read_mined(tuning))  # the run's own copy: evaluation refuses these images
        write_json(self._made, {"tuning": str(tuning), "development": str(development)})

    def setup(self, stage: str) -> None:
        """Opens the shards, checking their bytes."""
        made = read_json(self._made)
        opened = ShardStream if self.recipe.mining.streaming else ShardedExamples
        self.tuning = opened(Path(made["tuning"]))
        self.development = ShardedExamples(Path(made["development"]))
        optim, trainer = self.recipe.optim, self.recipe.trainer
        needed = optim.batch_size * optim.accumulate * trainer.devices * trainer.num_nodes
        if len(self.tuning) < needed:
            raise UserError(
                f"{len(self.tuning)} ranking examples do not fill one step of {needed}; "
                "lower optim.batch_size or optim.accumulate, or tune on more images"
            )

    def state_dict(self) -> dict:
        """The position, for the checkpoint."""
        return asdict(self.position)

    def load_state_dict(self, state: dict) -> None:
        """Goes back to a checkpoint's position."""
        self.position = DataPosition(**state)

    def train_dataloader(self) -> DataLoader:
        """All epochs as one stream of batches, from the position on."""
        optim, workers = self.recipe.optim, self.recipe.trainer.workers
        weights = asdict(self.recipe.ranker.objectives)
        objectives = tuple(name for name, weight in weights.items() if weight > 0)
        made = partial(
            _collate, mllm=self.mllm, objectives=objectives, seed=self.recipe.seed, target=self.recipe.mining.target
        )
        if isinstance(self.tuning, ShardStream):
            batches = ResampledBatches(
                self.tuning, optim.batch_size, self.trainer.global_rank, self.recipe.seed, self.position
            )
            return DataLoader(batches, batch_size=None, collate_fn=made, num_workers=workers)
        sampler = EpochSampler(
            len(self.tuning),
            optim.batch_size,
            self.trainer.global_rank,
            self.trainer.world_size,
            optim.epochs,
            self.recipe.seed,
            self.position,
        )
        return DataLoader(_Rows(self.tuning), batch_sampler=sampler, collate_fn=made, num_workers=workers)

    def val_dataloader(self) -> DataLoader:
        """A fixed spread of development examples, dealt over the processes."""
        count = min(self.recipe.trainer.validation_images, len(self.development))
        chosen = np.linspace(0, len(self.development) - 1, count).astype(int).tolist()
        # Every process needs a batch, or the others wait for it.
        mine = [(row, 0) for row in chosen[self.trainer.global_rank :: self.trainer.world_size] or chosen[:1]]
        size = self.recipe.optim.batch_size
        batches = [mine[start : start + size] for start in range(0, len(mine), size)]
        made = partial(
            _collate,
            mllm=self.mllm,
            objectives=("letters", "likelihood"),
            seed=self.recipe.seed,
            target=self.recipe.mining.target,
        )
        return DataLoader(_Rows(self.development), batch_sampler=batches, collate_fn=made)


def optimizer_steps(recipe: Recipe, examples: int) -> int:
    """Optimiser steps in a whole run."""
    optim, trainer = recipe.optim, recipe.trainer
    batches = examples // (optim.batch_size * trainer.devices * trainer.num_nodes) * optim.epochs
    steps = batches // optim.accumulate
    return min(steps, optim.max_steps) if optim.max_steps > 0 else steps
