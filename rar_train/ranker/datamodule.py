"""The data module of a ranker run: exact epochs over the examples, resumable from a checkpointed position."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, Dataset

from data_prep.core.errors import UserError
from data_prep.core.files import read_sealed, write_sealed
from data_prep.core.pools import loader_options
from data_prep.distributed.devices import resolve_accelerator, resolve_workers
from data_prep.leakage.contamination import MINED, read_mined, write_mined
from data_prep.mining.pipeline import build
from data_prep.mining.shards import ShardedExamples, check_files, read_metadata
from data_prep.settings import SCORED, Recipe
from rar_train.engine.sampler import DataPosition, EpochPlan, EpochSampler, SampledExample
from rar_train.models.mllm import Mllm
from rar_train.ranker.collate import RankingBatch, collate
from rar_train.ranker.streaming import ResampledBatches, ShardStream
from rar_train.ranker.token_budget import byte_lengths, check_fits, select_fitting, token_limit


class _Rows(Dataset):
    """Examples indexed by ``SampledExample``, so that its epoch and weight reach the collation."""

    def __init__(self, examples: ShardedExamples, selected: Sequence[int]):
        self.examples, self.selected = examples, selected

    def __getitem__(self, sampled: SampledExample):
        return self.examples[self.selected[sampled.row]], sampled


def _collate(rows: list, **options) -> RankingBatch:
    pairs, sampled = zip(*rows, strict=True)
    batch = collate(pairs=pairs, epochs=[example.epoch for example in sampled], **options)
    batch.weights = [example.weight for example in sampled]
    return batch


def _collate_stream(rows: list, limit: int, **options) -> RankingBatch:
    pairs, draws = zip(*rows, strict=True)
    batch = collate(pairs=pairs, epochs=draws, **options)
    check_fits(batch, limit)
    return batch


def build_examples(recipe: Recipe) -> None:
    """Runs the data stages on one process, and records in the run's folder the example folders and mined images."""
    out = Path(recipe.out)
    # Other machines wait for these files, so only this machine's devices embed.
    train, val = build(replace(recipe, trainer=replace(recipe.trainer, num_nodes=1)))
    check_files(train, {name: digest for name, digest in read_metadata(train)["files"].items() if name == MINED})
    write_mined(out, read_mined(train))  # a copy in the run's folder: evaluation refuses these images
    write_sealed(out / "data.json", {"train": str(train), "val": str(val)})


class RankingData(L.LightningDataModule):
    """Builds the missing parts of a recipe's data, and loads them.

    Args:
        recipe: The run's recipe.
        mllm: Its processor tokenises prompts and prepares images.
    """

    def __init__(self, recipe: Recipe, mllm: Mllm):
        super().__init__()
        self.recipe, self.mllm = recipe, mllm
        self.position = DataPosition()
        self.prepare_data_per_node = False
        self._prepared = False

    def prepare_data(self) -> None:
        """Runs the data stages on one process and records the folders they wrote."""
        if self._prepared:
            return
        self._prepared = True
        build_examples(self.recipe)

    def setup(self, stage: str) -> None:
        """Opens the shards and verifies their checksums."""
        folders = read_sealed(Path(self.recipe.out) / "data.json")
        self.val_set = ShardedExamples(Path(folders["val"]))
        self.lengths = None
        if self.recipe.mining.streaming:
            self.train_set = ShardStream(Path(folders["train"]))
            self.selected = range(len(self.train_set))
        else:
            self.train_set = ShardedExamples(Path(folders["train"]))
            self.lengths = byte_lengths(self.train_set, self.objectives)
            self.selected = select_fitting(self.train_set, self.lengths, self.mllm, self.recipe)
        optim, trainer = self.recipe.optim, self.recipe.trainer
        needed = optim.batch_size * optim.grad_accum_steps * trainer.devices * trainer.num_nodes
        if len(self.selected) < needed:
            raise UserError(
                f"{len(self.selected)} ranking examples do not fill one step of {needed}; "
                "lower optim.batch_size or optim.grad_accum_steps, or tune on more images"
            )

    def state_dict(self) -> dict:
        """Returns the data position, for the checkpoint."""
        return asdict(self.position)

    def load_state_dict(self, state: dict) -> None:
        """Restores a checkpoint's data position."""
        self.position = DataPosition(**state)

    def train_dataloader(self) -> DataLoader:
        """Returns a loader of all epochs as one stream of batches, starting at the position."""
        optim = self.recipe.optim
        if isinstance(self.train_set, ShardStream):
            batches = ResampledBatches(
                self.train_set, optim.batch_size, self.trainer.global_rank, self.recipe.seed, self.position
            )
            limit = token_limit(self.mllm, self.recipe)
            collate_fn = partial(self._bind_collate(_collate_stream, self.objectives), limit=limit)
            return DataLoader(batches, batch_size=None, collate_fn=collate_fn, **self._loading)
        plan = EpochPlan(
            len(self.selected),
            optim.batch_size,
            self.trainer.world_size,
            optim.epochs,
            self.recipe.seed,
            self.lengths[self.selected] if optim.group_by_length else None,
            accumulate=optim.grad_accum_steps,
        )
        sampler = EpochSampler(plan, self.trainer.global_rank, self.position)
        collate_fn = self._bind_collate(_collate, self.objectives)
        rows = _Rows(self.train_set, self.selected)
        return DataLoader(rows, batch_sampler=sampler, collate_fn=collate_fn, **self._loading)

    @property
    def _loading(self) -> dict[str, Any]:
        """Arguments of the data loaders: worker processes, and pinned memory for a CUDA GPU."""
        trainer = self.recipe.trainer
        return loader_options(resolve_workers(trainer)) | {"pin_memory": resolve_accelerator(trainer) == "cuda"}

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the objectives in use."""
        return tuple(self.recipe.ranker.objectives.weights)

    def _bind_collate(
        self, function: Callable[..., RankingBatch], objectives: Collection[str]
    ) -> Callable[[list], RankingBatch]:
        return partial(
            function,
            mllm=self.mllm.without_model(),  # a spawned worker is sent what it collates with
            objectives=objectives,
            seed=self.recipe.seed,
            target=self.recipe.mining.target,
        )

    @property
    def val_count(self) -> int:
        """Number of examples in a validation, on all processes together."""
        trainer = self.recipe.trainer
        world = trainer.devices * trainer.num_nodes
        # The same number on each process: under ZeRO-3 every forward pass needs all of them.
        return max(1, min(trainer.val_examples, len(self.val_set)) // world) * world

    def val_dataloader(self) -> DataLoader:
        """Returns a loader of evenly spaced validation examples, distributed over the processes."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        chosen = np.linspace(0, len(self.val_set) - 1, self.val_count).astype(int).tolist()
        local = [SampledExample(row, 0, 1.0) for row in chosen[rank::world]]
        size = self.recipe.optim.batch_size
        batches = [local[start : start + size] for start in range(0, len(local), size)]
        validated = {*self.objectives, *({self.recipe.ranker.mode} & set(SCORED))}
        if self.mllm.reranker is None:  # whose own template is no prefix of the others' prompts
            validated |= {"letters", "likelihood"}
        collate_fn = self._bind_collate(_collate, sorted(validated))
        rows = _Rows(self.val_set, range(len(self.val_set)))
        return DataLoader(rows, batch_sampler=batches, collate_fn=collate_fn, **self._loading)


def optimizer_steps(recipe: Recipe, examples: int) -> int:
    """Returns the number of optimiser steps in a complete run."""
    optim, trainer = recipe.optim, recipe.trainer
    world = trainer.devices * trainer.num_nodes
    batches = EpochPlan(examples, optim.batch_size, world, optim.epochs, recipe.seed, accumulate=optim.grad_accum_steps)
    steps = len(batches) // optim.grad_accum_steps
    return min(steps, optim.max_steps) if optim.max_steps > 0 else steps
