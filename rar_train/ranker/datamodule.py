"""The data of a training run: exact epochs by sample, from a position that is checkpointed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, Dataset

from data_prep.core.errors import UserError
from data_prep.core.files import read_sealed, write_sealed
from data_prep.leakage.contamination import MINED, read_mined, write_mined
from data_prep.mining.pipeline import build
from data_prep.mining.shards import ShardedExamples, check_files, read_metadata
from data_prep.settings import Recipe
from rar_train.engine.sampler import DataPosition, EpochSampler, SampledExample
from rar_train.models.mllm import Mllm
from rar_train.ranker.collate import RankingBatch, collate
from rar_train.ranker.streaming import ResampledBatches, ShardStream
from rar_train.ranker.token_budget import byte_lengths, check_fits, select_fitting, token_limit


class _Rows(Dataset):
    """Examples by place, so that the epoch's shuffle and the weight reach the collation."""

    def __init__(self, examples: ShardedExamples, numbers: Sequence[int]):
        self.examples, self.numbers = examples, numbers

    def __getitem__(self, place: SampledExample):
        return self.examples[self.numbers[place.row]], place


def _collate(rows: list, **how) -> RankingBatch:
    pairs, places = zip(*rows, strict=True)
    batch = collate(pairs=pairs, epochs=[place.epoch for place in places], **how)
    batch.weights = [place.weight for place in places]
    return batch


def _collate_stream(rows: list, limit: int, **how) -> RankingBatch:
    pairs, draws = zip(*rows, strict=True)
    batch = collate(pairs=pairs, epochs=draws, **how)
    check_fits(batch, limit)
    return batch


def make_examples(recipe: Recipe) -> None:
    """Runs the data stages on one process, and notes in the run's folder what they made and of which images."""
    out = Path(recipe.out)
    # Other machines wait for what this one makes, so it embeds on its own devices alone.
    train, val = build(replace(recipe, trainer=replace(recipe.trainer, num_nodes=1)))
    check_files(train, {name: own for name, own in read_metadata(train)["files"].items() if name == MINED})
    write_mined(out, read_mined(train))  # the run's own copy: evaluation refuses these images
    write_sealed(out / "data.json", {"train": str(train), "val": str(val)})


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

    def prepare_data(self) -> None:
        """Runs the data stages on one process and notes what they made."""
        if self._prepared:
            return
        self._prepared = True
        make_examples(self.recipe)

    def setup(self, stage: str) -> None:
        """Opens the shards, checking their bytes."""
        made = read_sealed(Path(self.recipe.out) / "data.json")
        self.val_set = ShardedExamples(Path(made["val"]))
        self.lengths = None
        if self.recipe.mining.streaming:
            self.train_set = ShardStream(Path(made["train"]))
            self.kept = range(len(self.train_set))
        else:
            self.train_set = ShardedExamples(Path(made["train"]))
            self.lengths = byte_lengths(self.train_set, self.objectives)
            self.kept = select_fitting(self.train_set, self.lengths, self.mllm, self.recipe)
        optim, trainer = self.recipe.optim, self.recipe.trainer
        needed = optim.batch_size * optim.grad_accum_steps * trainer.devices * trainer.num_nodes
        if len(self.kept) < needed:
            raise UserError(
                f"{len(self.kept)} ranking examples do not fill one step of {needed}; "
                "lower optim.batch_size or optim.grad_accum_steps, or tune on more images"
            )

    def state_dict(self) -> dict:
        """The position, for the checkpoint."""
        return asdict(self.position)

    def load_state_dict(self, state: dict) -> None:
        """Goes back to a checkpoint's position."""
        self.position = DataPosition(**state)

    def train_dataloader(self) -> DataLoader:
        """All epochs as one stream of batches, from the position on."""
        optim, workers = self.recipe.optim, self.recipe.trainer.num_workers
        # Gradient checkpointing and the cache that carries a prompt on to its answers exclude each other.
        cached = not self.recipe.trainer.gradient_checkpointing
        if isinstance(self.train_set, ShardStream):
            batches = ResampledBatches(
                self.train_set, optim.batch_size, self.trainer.global_rank, self.recipe.seed, self.position
            )
            made = partial(
                self._collation(_collate_stream, self.objectives, cached), limit=token_limit(self.mllm, self.recipe)
            )
            return DataLoader(batches, batch_size=None, collate_fn=made, num_workers=workers)
        sampler = EpochSampler(
            len(self.kept),
            optim.batch_size,
            self.trainer.global_rank,
            self.trainer.world_size,
            optim.epochs,
            self.recipe.seed,
            self.position,
            self.lengths[self.kept] if optim.group_by_length else None,
            accumulate=optim.grad_accum_steps,
        )
        made = self._collation(_collate, self.objectives, cached)
        return DataLoader(_Rows(self.train_set, self.kept), batch_sampler=sampler, collate_fn=made, num_workers=workers)

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives in use."""
        return tuple(self.recipe.ranker.objectives.weights)

    def _collation(
        self, how: Callable[..., RankingBatch], objectives: Collection[str], cached: bool
    ) -> Callable[[list], RankingBatch]:
        return partial(
            how,
            mllm=self.mllm,
            objectives=objectives,
            seed=self.recipe.seed,
            target=self.recipe.mining.target,
            cached=cached,
        )

    def val_dataloader(self) -> DataLoader:
        """A fixed spread of validation examples, dealt over the processes."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        count = min(self.recipe.trainer.val_examples, len(self.val_set))
        # As many on each process: under ZeRO-3 none can take a step without the others.
        count = max(1, count // world) * world
        chosen = np.linspace(0, len(self.val_set) - 1, count).astype(int).tolist()
        mine = [SampledExample(row, 0, 1.0) for row in chosen[rank::world]]
        size = self.recipe.optim.batch_size
        batches = [mine[start : start + size] for start in range(0, len(mine), size)]
        made = self._collation(_collate, (*self.objectives, "letters", "likelihood"), cached=True)
        return DataLoader(_Rows(self.val_set, range(len(self.val_set))), batch_sampler=batches, collate_fn=made)


def optimizer_steps(recipe: Recipe, examples: int) -> int:
    """Optimiser steps in a whole run."""
    optim, trainer = recipe.optim, recipe.trainer
    world = trainer.devices * trainer.num_nodes
    batches = EpochSampler(
        examples,
        optim.batch_size,
        0,
        world,
        optim.epochs,
        recipe.seed,
        DataPosition(),
        accumulate=optim.grad_accum_steps,
    )
    steps = len(batches) // optim.grad_accum_steps
    return min(steps, optim.max_steps) if optim.max_steps > 0 else steps
