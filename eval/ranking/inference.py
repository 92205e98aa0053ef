"""Resumable batch inference under ``Trainer.predict``: batches are prepared while the model answers, on all processes.

Data-loading workers read, decode and preprocess the next batches while the model runs, and answers are written to disk
batch by batch. Batches are cut from the full list of requests before the answered ones are left out and before they
are distributed to processes. So a batch holds the same requests however often the command was killed and however many
processes and workers there are, and its answers are bit-identical. An answer is only reused for the same request in the
same batch, as in half precision it depends on the rest of the batch. So the result of an evaluation depends on its
models, images and settings, never on earlier runs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning as L
from torch.utils.data import DataLoader, Dataset

from data_prep.core.command import quiet_libraries
from data_prep.core.errors import Interrupted
from data_prep.core.pools import loader_options
from data_prep.core.progress import is_interactive
from data_prep.distributed.devices import resolve_accelerator, resolve_workers
from data_prep.distributed.launch import run_on_all, shared_processes
from data_prep.distributed.spawning import make_predict_trainer, run_predict
from data_prep.settings import RankerArgs, TrainerArgs
from eval.ranking.answers import append_answers, append_time
from eval.ranking.batches import Batch
from eval.ranking.modes import PreparedBatch, answer_batch, prepare_batch
from rar_train.models.loading import load_mllm
from rar_train.models.lora import load_adapter
from rar_train.models.mllm import Mllm


class PreparedBatches(Dataset):
    """Dataset of prepared batches; a worker that reads it needs the processor, not the model.

    Args:
        mllm: The ranker; ``Mllm.without_model`` suffices.
        batches: All batches.
        share: Indices of those to prepare.
    """

    def __init__(self, mllm: Mllm, batches: Sequence[Batch], share: Sequence[int]):
        self.mllm, self.batches, self.share = mllm, batches, share

    def __len__(self) -> int:
        return len(self.share)

    def __getitem__(self, row: int) -> tuple[int, PreparedBatch]:
        """Returns a batch's index among all batches, and the batch.

        Raises:
            UserError: An image is missing or does not decode.
        """
        index = self.share[row]
        batch = self.batches[index]
        return index, prepare_batch(self.mllm, batch.job.mode, batch.read())


class InferenceModule(L.LightningModule):
    """Answers this process's share of the batches, and writes each batch's answers as soon as they are computed.

    Args:
        ranker: The base model.
        adapter: The tuned model's adapter.
        folder: Folder of the answers.
        batches: Batches of all jobs; those of the base model come first.
        args: ``num_workers``, and the number of processes among which ``auto`` divides the cores.
    """

    def __init__(self, ranker: RankerArgs, adapter: Path, folder: Path, batches: list[Batch], args: TrainerArgs):
        super().__init__()
        self.ranker, self.adapter, self.folder, self.batches, self.args = ranker, adapter, folder, batches, args
        self.mllm, self.model, self.tuned = None, None, False
        self.warm: set[str] = set()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # there may be fewer batches than processes

    def setup(self, stage: str) -> None:
        """Loads the base model, on each process."""
        quiet_libraries()  # a spawned process starts with default settings
        self.mllm = load_mllm(self.ranker)
        self.model = self.mllm.model

    def predict_dataloader(self) -> DataLoader:
        """Returns a loader of this process's batches: every ``world_size``-th, starting at its rank."""
        share = range(self.trainer.global_rank, len(self.batches), self.trainer.world_size)
        return DataLoader(
            PreparedBatches(self.mllm.without_model(), self.batches, share),
            batch_size=None,
            pin_memory=self.device.type == "cuda",
            **loader_options(min(resolve_workers(self.args), len(share))),
        )

    def transfer_batch_to_device(self, batch, device, dataloader_idx: int):
        """Leaves the batch where it is: ``answer_batch`` moves what the model needs."""
        return batch

    def predict_step(self, prepared: tuple[int, PreparedBatch], _) -> None:
        """Answers one batch."""
        index, inputs = prepared
        batch = self.batches[index]
        if batch.job.tuned and not self.tuned:
            self.mllm = load_adapter(self.mllm, self.adapter)
            self.model = self.mllm.model.to(self.device)
            self.tuned = True
        started = time.perf_counter()
        responses = answer_batch(self.mllm, inputs)
        seconds = time.perf_counter() - started
        append_answers(self.folder, self.global_rank, batch, responses)
        if batch.job.timed and batch.job.name in self.warm:
            append_time(self.folder, self.global_rank, batch, seconds)
        self.warm.add(batch.job.name)  # a job's first batch also compiles, allocates and loads


def _predict(module: InferenceModule, devices: int, num_nodes: int, launched: bool) -> None:
    """Runs the module in processes of its own, or together with the processes of a launch."""
    kind = resolve_accelerator(module.args)
    runner = make_predict_trainer(kind, devices, num_nodes, progress=is_interactive(), launched=launched)
    try:
        run_predict(runner, module)
        if launched:
            runner.strategy.barrier()  # until all answers are written
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        raise Interrupted("interrupted; the same command resumes from the answers that are there") from None


def run_batches(batches: list[Batch], ranker: RankerArgs, adapter: Path, trainer: TrainerArgs, folder: Path) -> None:
    """Answers batches, each completely, and writes the answers into files of a folder; see ``answer_all``."""
    launched = shared_processes()
    devices, num_nodes = launched or (min(trainer.devices, len(batches)), 1)
    args = replace(trainer, devices=devices, num_nodes=num_nodes)
    module = InferenceModule(ranker, adapter, folder, batches, args)
    run_on_all(partial(_predict, module, devices, num_nodes, launched is not None))
