"""Answers on disk: written batch by batch under ``Trainer.predict``, so that a killed evaluation goes on.

Batches are cut from the whole list of questions before the known ones are left out and before they
are dealt to processes. So a batch holds the same questions whatever was killed and however many
processes there are, and its answers are the same to the last bit. An answer is reused for the same
question in the same batch alone: in half precision it depends on its company. So what an evaluation
gives depends on its models, pictures and settings, never on what was asked before.
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
from data_prep.distributed.spawning import predicting_strategy, spawning
from data_prep.settings import RankerArgs, TrainerArgs
from eval.ranking.answer_key import models_key
from eval.ranking.modes import run_batch
from eval.ranking.request import RankingMode, RankingRequest, Response
from rar_train.models.lora import load_adapter
from rar_train.models.mllm import load_mllm

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InferenceJob:
    """Questions for one model in one manner.

    Attributes:
        name: Of its file, ``answers-NAME.jsonl``.
        tuned: With the adapter, or the base model alone.
        manner: How to ask.
        questions: Distinct.
        batch_size: Images per pass.
    """

    name: str
    tuned: bool
    manner: RankingMode
    questions: Sequence[RankingRequest]
    batch_size: int

    def batches(self) -> dict[str, list[RankingRequest]]:
        """All of its questions, cut into batches, by what answers to each depend on beside the models."""
        starts = range(0, len(self.questions), self.batch_size)
        cut = [list(self.questions[start : start + self.batch_size]) for start in starts]
        return {fingerprint([self.tuned, asdict(self.manner), [q.id for q in own]]): own for own in cut}


Known = dict[tuple[str, str], Response]
"""Answers by their batch and their question's id."""


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Has an error of the disk name what was written.

    Raises:
        UserError: There is no space or no permission, or the folder is gone.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: not writable ({error.strerror}); when it is, the same command goes on from the answers so far"
        ) from None


def _read(path: Path) -> Known:
    """Reads whole lines; a line that a kill cut short is not one.

    Raises:
        UserError: A line is not what was written.
    """
    known: Known = {}
    if path.exists():
        text = path.read_bytes().decode(errors="replace")
        for number, line in enumerate(text.split("\n")[:-1], 1):
            record = read_sealed_line(line, f"{path}, line {number}", REMAKE)
            known[record["batch"], record["id"]] = Response(tuple(record["scores"]), record["reply"])
    return known


def _line(batch: str, question: str, answer: Response) -> str:
    return sealed_line({"batch": batch, "id": question} | asdict(answer))


def append_answers(path: Path, lines: Sequence[str]) -> None:
    """Adds a batch's lines to a file, and sees that they reach the disk.

    Raises:
        UserError: They can't be written.
    """
    with _naming(path), open(path, "a", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def _gathered(job: InferenceJob, folder: Path) -> dict[str, Response]:
    """A job's answers from all files, put into one: in the order of the questions, then all others."""
    whole = folder / f"answers-{job.name}.jsonl"
    parts = sorted(folder.glob(f"answers-{job.name}.part-*.jsonl"))
    found = {key: answer for path in (whole, *parts) for key, answer in _read(path).items()}
    asked = [(batch, question.id) for batch, own in job.batches().items() for question in own]
    known = {key: found[key] for key in asked if key in found}
    with _naming(whole):
        if found:
            write_text(whole, "".join(_line(*key, answer) for key, answer in (known | found).items()))
        for part in parts:
            part.unlink()
    return {question: answer for (_, question), answer in known.items()}


class InferenceModule(L.LightningModule):
    """Asks batches of questions on one process, and writes each batch's answers as it has them.

    Args:
        ranker: The base model.
        adapter: The tuned model's adapter.
        folder: Of the answers.
        batches: Each a job, the batch's key, its questions and those whose answers are wanted; the base model's first.
    """

    def __init__(
        self,
        ranker: RankerArgs,
        adapter: Path,
        folder: Path,
        batches: list[tuple[InferenceJob, str, list[RankingRequest], set[str]]],
    ):
        super().__init__()
        self.ranker, self.adapter, self.folder, self.batches = ranker, adapter, folder, batches
        self.mllm, self.model, self.tuned = None, None, False

    def setup(self, stage: str) -> None:
        """Loads the base model, on each process."""
        quiet_libraries()  # a spawned process starts anew
        self.mllm = load_mllm(self.ranker)
        self.model = self.mllm.model

    def predict_dataloader(self) -> DataLoader:
        """Numbers of this process's batches."""
        mine = range(self.trainer.global_rank, len(self.batches), self.trainer.world_size)
        return DataLoader(mine, batch_size=None)

    def predict_step(self, number: int, _) -> None:
        """Asks one batch."""
        job, batch, questions, wanted = self.batches[number]
        if job.tuned and not self.tuned:
            self.mllm = load_adapter(self.mllm, self.adapter)
            self.model = self.mllm.model.to(self.device)
            self.tuned = True
        answers = zip(questions, run_batch(self.mllm, job.manner, questions), strict=True)
        lines = [_line(batch, question.id, answer) for question, answer in answers if question.id in wanted]
        append_answers(self.folder / f"answers-{job.name}.part-{self.global_rank}.jsonl", lines)


def _predict(asker: InferenceModule, trainer: TrainerArgs) -> None:
    kind = resolve_accelerator(trainer)
    processes = min(trainer.devices, len(asker.batches))
    runner = L.Trainer(
        strategy=predicting_strategy(kind, processes > 1),
        accelerator=kind,
        devices=processes,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=is_interactive(),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    try:
        with spawning():
            runner.predict(asker, return_predictions=False)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        raise Interrupted("interrupted; the same command goes on from the answers that are there") from None


def answer_all(
    jobs: Sequence[InferenceJob], ranker: RankerArgs, adapter: Path, trainer: TrainerArgs, out: Path
) -> dict[str, dict[str, Response]]:
    """Answers questions, asking only what the files do not hold.

    Args:
        jobs: The base model's first.
        ranker: The base model.
        adapter: The tuned model's.
        trainer: ``accelerator``, and ``devices``: how many processes ask.
        out: The evaluation's folder; the answers lie in ``answers-KEY`` there, a folder for each ``models_key``.

    Returns:
        dict: Answers by the question's id, by the job's name.

    Raises:
        UserError: A model, an adapter or an image can't be had, or answers are damaged or can't be written; answers so
            far are kept.
    """
    folder = out / f"answers-{models_key(ranker, adapter)}"
    with _naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder):
        batches = []
        for job in jobs:
            known = _gathered(job, folder)
            if known:
                log.info("%s: %d of %d answers are there", job.name, len(known), len(job.questions))
            for batch, questions in job.batches().items():
                wanted = {question.id for question in questions} - known.keys()
                if wanted:
                    batches.append((job, batch, questions, wanted))
        if batches:
            _predict(InferenceModule(ranker, adapter, folder, batches), trainer)
        found = {job.name: _gathered(job, folder) for job in jobs}
    missing = sum(len(job.questions) - len(found[job.name]) for job in jobs)
    if missing:
        raise UserError(f"{folder}: {missing} answers were taken away meanwhile; run the command again")
    return found
