"""Resumable batch inference under ``Trainer.predict``; answers are written to disk batch by batch.

Batches are cut from the full list of requests before the answered ones are left out and before they are distributed to
processes. So a batch holds the same requests however often the command was killed and however many processes there are,
and its answers are bit-identical. An answer is only reused for the same request in the same batch, as in half precision
it depends on the rest of the batch. So the result of an evaluation depends on its models, images and settings, never on
earlier runs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning as L
from torch.utils.data import DataLoader

from data_prep.core.command import quiet_libraries
from data_prep.core.errors import Interrupted, UserError
from data_prep.core.files import REMAKE, file_lock, fingerprint, read_sealed_line, sealed_line, write_text
from data_prep.core.progress import is_interactive
from data_prep.distributed.devices import resolve_accelerator
from data_prep.distributed.spawning import make_predict_trainer, spawn_errors
from data_prep.settings import RankerArgs, TrainerArgs
from eval.ranking.answer_key import models_key
from eval.ranking.modes import run_batch
from eval.ranking.request import RankingMode, RankingRequest, Response
from rar_train.models.lora import load_adapter
from rar_train.models.mllm import load_mllm

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InferenceJob:
    """Requests for one model in one mode.

    Attributes:
        name: Name of its file, ``answers-NAME.jsonl``.
        tuned: Whether to load the adapter; False for the base model alone.
        mode: How to prompt the model.
        requests: Distinct requests.
        batch_size: Images per pass.
    """

    name: str
    tuned: bool
    mode: RankingMode
    requests: Sequence[RankingRequest]
    batch_size: int

    def batches(self) -> dict[str, list[RankingRequest]]:
        """Cuts all requests into batches, keyed by everything but the models that a batch's answers depend on."""
        starts = range(0, len(self.requests), self.batch_size)
        batches = [list(self.requests[start : start + self.batch_size]) for start in starts]
        return {fingerprint([self.tuned, asdict(self.mode), [r.id for r in batch]]): batch for batch in batches}


@dataclass(frozen=True)
class _Batch:
    """A batch to run.

    Attributes:
        job: The job that it belongs to.
        key: Its key; see ``InferenceJob.batches``.
        requests: Its requests.
        missing: Ids of the requests whose answers are not on disk yet.
    """

    job: InferenceJob
    key: str
    requests: list[RankingRequest]
    missing: set[str]


Answers = dict[tuple[str, str], Response]
"""Responses by the key of their batch and the id of their request."""


@contextmanager
def _name_path_in_errors(path: Path) -> Iterator[None]:
    """Turns a disk error into one that names the path.

    Raises:
        UserError: There is no space or no permission, or the folder is gone.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: not writable ({error.strerror}); when it is, the same command resumes from the answers so far"
        ) from None


def _read_answers(path: Path) -> Answers:
    """Reads the complete lines of a file; a last line that was cut short by a kill is ignored.

    Raises:
        UserError: A line was changed after it was written.
    """
    answers: Answers = {}
    if path.exists():
        text = path.read_bytes().decode(errors="replace")
        for number, line in enumerate(text.split("\n")[:-1], 1):
            record = read_sealed_line(line, f"{path}, line {number}", REMAKE)
            answers[record["batch"], record["id"]] = Response(tuple(record["scores"]), record["reply"])
    return answers


def _to_line(batch: str, request_id: str, response: Response) -> str:
    return sealed_line({"batch": batch, "id": request_id} | asdict(response))


def append_answers(path: Path, lines: Sequence[str]) -> None:
    """Appends a batch's lines to a file and syncs it to disk.

    Raises:
        UserError: They can't be written.
    """
    with _name_path_in_errors(path), open(path, "a", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def _merge_answers(job: InferenceJob, folder: Path) -> dict[str, Response]:
    """Merges a job's files into one, in the order of the requests and then all other answers.

    Returns:
        dict[str, Response]: The answers to the job's requests that are on disk, by request id.
    """
    merged = folder / f"answers-{job.name}.jsonl"
    parts = sorted(folder.glob(f"answers-{job.name}.part-*.jsonl"))
    on_disk = {key: response for path in (merged, *parts) for key, response in _read_answers(path).items()}
    job_keys = [(batch, request.id) for batch, requests in job.batches().items() for request in requests]
    answered = {key: on_disk[key] for key in job_keys if key in on_disk}
    with _name_path_in_errors(merged):
        if on_disk:
            write_text(merged, "".join(_to_line(*key, response) for key, response in (answered | on_disk).items()))
        for part in parts:
            part.unlink()
    return {request_id: response for (_, request_id), response in answered.items()}


class InferenceModule(L.LightningModule):
    """Runs batches of requests on one process, and writes each batch's answers as soon as they are computed.

    Args:
        ranker: The base model.
        adapter: The tuned model's adapter.
        folder: Folder of the answers.
        batches: Batches of all jobs; those of the base model come first.
    """

    def __init__(self, ranker: RankerArgs, adapter: Path, folder: Path, batches: list[_Batch]):
        super().__init__()
        self.ranker, self.adapter, self.folder, self.batches = ranker, adapter, folder, batches
        self.mllm, self.model, self.tuned = None, None, False

    def setup(self, stage: str) -> None:
        """Loads the base model, on each process."""
        quiet_libraries()  # a spawned process starts with default settings
        self.mllm = load_mllm(self.ranker)
        self.model = self.mllm.model

    def predict_dataloader(self) -> DataLoader:
        """Returns the indices of this process's batches."""
        indices = range(self.trainer.global_rank, len(self.batches), self.trainer.world_size)
        return DataLoader(indices, batch_size=None)

    def predict_step(self, index: int, _) -> None:
        """Runs one batch."""
        batch = self.batches[index]
        job = batch.job
        if job.tuned and not self.tuned:
            self.mllm = load_adapter(self.mllm, self.adapter)
            self.model = self.mllm.model.to(self.device)
            self.tuned = True
        pairs = zip(batch.requests, run_batch(self.mllm, job.mode, batch.requests), strict=True)
        lines = [
            _to_line(batch.key, request.id, response) for request, response in pairs if request.id in batch.missing
        ]
        append_answers(self.folder / f"answers-{job.name}.part-{self.global_rank}.jsonl", lines)


def _predict(module: InferenceModule, trainer: TrainerArgs) -> None:
    kind = resolve_accelerator(trainer)
    runner = make_predict_trainer(kind, min(trainer.devices, len(module.batches)), progress=is_interactive())
    try:
        with spawn_errors():
            runner.predict(module, return_predictions=False)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        raise Interrupted("interrupted; the same command resumes from the answers that are there") from None


def answer_all(
    jobs: Sequence[InferenceJob], ranker: RankerArgs, adapter: Path, trainer: TrainerArgs, out: Path
) -> dict[str, dict[str, Response]]:
    """Runs jobs, computing only the answers that are not on disk.

    Args:
        jobs: Those of the base model come first.
        ranker: The base model.
        adapter: The tuned model's adapter.
        trainer: ``accelerator``, and ``devices``: the number of processes.
        out: The evaluation's folder; the answers are in ``answers-KEY`` there, a folder for each ``models_key``.

    Returns:
        dict: Responses by job name and request id.

    Raises:
        UserError: A model, an adapter or an image can't be loaded, or answers are damaged or can't be written; answers
            so far are kept.
    """
    folder = out / f"answers-{models_key(ranker, adapter)}"
    with _name_path_in_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder):
        batches = []
        for job in jobs:
            answered = _merge_answers(job, folder)
            if answered:
                log.info("%s: %d of %d answers are there", job.name, len(answered), len(job.requests))
            for key, requests in job.batches().items():
                missing = {request.id for request in requests} - answered.keys()
                if missing:
                    batches.append(_Batch(job, key, requests, missing))
        if batches:
            _predict(InferenceModule(ranker, adapter, folder, batches), trainer)
        answers = {job.name: _merge_answers(job, folder) for job in jobs}
    lost = sum(len(job.requests) - len(answers[job.name]) for job in jobs)
    if lost:
        raise UserError(f"{folder}: {lost} answers were removed in the meantime; run the command again")
    return answers
