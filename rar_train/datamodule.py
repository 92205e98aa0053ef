"""The data of a training run: exact epochs by sample, from a position that is checkpointed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from data_prep.errors import UserError
from data_prep.files import read_json, write_json
from data_prep.held_out import read_mined, write_mined
from data_prep.settings import Recipe
from data_prep.shards import ShardedExamples
from data_prep.stages import build
from rar_train.backend import Mllm
from rar_train.budget import byte_lengths, check_fits, fitting, token_limit
from rar_train.collate import RankingBatch, collate
from rar_train.streaming import DataPosition, ResampledBatches, ShardStream


class EpochSampler(Sampler):
    """Deals out epochs by sample: every example once, and every process as many batches.

    Each epoch is a seeded permutation of all examples, cut into batches that differ by one example at most, none over
    ``batch_size`` per process.

    Args:
        examples: How many there are.
        batch_size: Examples per process and batch, at most.
        rank: This process.
        world: Processes.
        epochs: Passes over the examples.
        seed: Of the permutations.
        position: Where to begin.
        lengths: Of the examples; where given, a batch holds examples of like length.
        full: Whether every batch is as large as it may be, for losses that compare its examples. An epoch then leaves
            out its tail; another epoch leaves out others.
    """

    GROUPED = 50
    """Batches among whose examples like lengths are looked for; the more, the liker, and the less random."""

    def __init__(
        self,
        examples: int,
        batch_size: int,
        rank: int,
        world: int,
        epochs: int,
        seed: int,
        position: DataPosition,
        lengths: np.ndarray | None = None,
        full: bool = False,
    ):
        self.examples, self.lengths = examples, lengths
        self.rank, self.world, self.epochs, self.seed = rank, world, epochs, seed
        self.position = position
        size = batch_size * world
        if full or batch_size == 1:  # one example each: what is over would leave a process without any
            self.edges = np.arange(0, examples + 1, size)
        else:
            self.edges = np.linspace(0, examples, -(-examples // size) + 1).astype(int)

    @property
    def per_epoch(self) -> int:
        """Batches of one process."""
        return len(self.edges) - 1

    def __len__(self) -> int:
        return self.per_epoch * self.epochs

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """An epoch's batches, each of all processes."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self.examples)[: self.edges[-1]]
        if self.lengths is None:
            return np.split(order, self.edges[1:-1])
        pieces = np.split(order, self.edges[self.GROUPED : -1 : self.GROUPED])
        grouped = np.concatenate([piece[np.argsort(self.lengths[piece], kind="stable")] for piece in pieces])
        batches = np.split(grouped, self.edges[1:-1])
        return [batches[place] for place in rng.permutation(len(batches))]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        dealt = -1
        for number in range(self.position.batches, len(self)):
            epoch, batch = divmod(number, self.per_epoch)
            if epoch != dealt:
                batches, dealt = self._batches(epoch), epoch
            yield [(int(row), epoch) for row in batches[batch][self.rank :: self.world]]


class _Rows(Dataset):
    """Examples by (row, epoch), so that the epoch's shuffle reaches the collation."""

    def __init__(self, examples: ShardedExamples, numbers: Sequence[int]):
        self.examples, self.numbers = examples, numbers

    def __getitem__(self, place: tuple[int, int]):
        row, epoch = place
        return self.examples[self.numbers[row]], epoch


def _collate(rows: list, stream_limit: int | None, **how) -> RankingBatch:
    batch = collate(pairs=[pair for pair, _ in rows], epochs=[epoch for _, epoch in rows], **how)
    if stream_limit is not None:
        check_fits(batch, stream_limit)
    return batch


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
        self.development = ShardedExamples(Path(made["development"]))
        self.lengths = None
        if self.recipe.mining.streaming:
            self.tuning = ShardStream(Path(made["tuning"]))
            self.kept = range(len(self.tuning))
        else:
            self.tuning = ShardedExamples(Path(made["tuning"]))
            self.lengths = byte_lengths(self.tuning, self.objectives)
            self.kept = fitting(self.tuning, self.lengths, self.mllm, self.recipe)
        optim, trainer = self.recipe.optim, self.recipe.trainer
        needed = optim.batch_size * optim.accumulate * trainer.devices * trainer.num_nodes
        if len(self.kept) < needed:
            raise UserError(
                f"{len(self.kept)} ranking examples do not fill one step of {needed}; "
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
        # Gradient checkpointing and the cache that carries a prompt on to its answers exclude each other.
        cached = not self.recipe.trainer.gradient_checkpointing
        if isinstance(self.tuning, ShardStream):
            batches = ResampledBatches(
                self.tuning, optim.batch_size, self.trainer.global_rank, self.recipe.seed, self.position
            )
            made = self._collation(self.objectives, cached, token_limit(self.mllm, self.recipe))
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
        )
        made = self._collation(self.objectives, cached)
        return DataLoader(_Rows(self.tuning, self.kept), batch_sampler=sampler, collate_fn=made, num_workers=workers)

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives in use."""
        return tuple(self.recipe.ranker.objectives.weights)

    def _collation(
        self, objectives: Collection[str], cached: bool, stream_limit: int | None = None
    ) -> Callable[[list], RankingBatch]:
        return partial(
            _collate,
            stream_limit=stream_limit,
            mllm=self.mllm,
            objectives=objectives,
            seed=self.recipe.seed,
            target=self.recipe.mining.target,
            cached=cached,
        )

    def val_dataloader(self) -> DataLoader:
        """A fixed spread of development examples, dealt over the processes."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        count = min(self.recipe.trainer.validation_images, len(self.development))
        # As many on each process: under ZeRO-3 none can take a step without the others.
        count = max(1, count // world) * world
        chosen = np.linspace(0, len(self.development) - 1, count).astype(int).tolist()
        mine = [(row, 0) for row in chosen[rank::world]]
        size = self.recipe.optim.batch_size
        batches = [mine[start : start + size] for start in range(0, len(mine), size)]
        made = self._collation((*self.objectives, "letters", "likelihood"), cached=True)
        return DataLoader(_Rows(self.development, range(len(self.development))), batch_sampler=batches, collate_fn=made)


def optimizer_steps(recipe: Recipe, examples: int) -> int:
    """Optimiser steps in a whole run."""
    optim, trainer = recipe.optim, recipe.trainer
    world = trainer.devices * trainer.num_nodes
    batches = len(EpochSampler(examples, optim.batch_size, 0, world, optim.epochs, recipe.seed, DataPosition()))
    steps = batches // optim.accumulate
    return min(steps, optim.max_steps) if optim.max_steps > 0 else steps
