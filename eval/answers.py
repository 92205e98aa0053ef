"""Answers on disk: written batch by batch under ``Trainer.predict``, so that a killed evaluation goes on.

Batches are cut from the whole list of questions before the known ones are left out and before they
are dealt to processes. So a batch holds the same questions whatever was killed and however many
processes there are, and its answers are the same to the last bit.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning as L
from torch.utils.data import DataLoader

from data_prep.command import quiet_libraries
from data_prep.devices import accelerator_of
from data_prep.errors import Interrupted
from data_prep.files import write_text
from data_prep.progress import watched
from data_prep.settings import RankerArgs, TrainerArgs
from data_prep.spawning import predicting_strategy, spawning
from eval.modes import ask
from eval.questions import Answer, Manner, Question
from rar_train.adapter import load_adapter
from rar_train.backend import load_mllm

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
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
    manner: Manner
    questions: Sequence[Question]
    batch_size: int

    def batches(self) -> list[list[Question]]:
        """All of its questions, cut into batches."""
        starts = range(0, len(self.questions), self.batch_size)
        return [list(self.questions[start : start + self.batch_size]) for start in starts]


def _read(path: Path) -> dict[str, Answer]:
    """Reads whole lines; a line that a kill cut short is not one."""
    answers: dict[str, Answer] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            record = json.loads(line)
            answers[record["id"]] = Answer(tuple(record["scores"]), record["reply"])
    return answers


def _line(key: str, answer: Answer) -> str:
    return json.dumps({"id": key} | asdict(answer)) + "\n"


def _gathered(job: Job, folder: Path) -> dict[str, Answer]:
    """A job's answers from all files, put into one: in the order of the questions, then those to others."""
    whole = folder / f"answers-{job.name}.jsonl"
    parts = sorted(folder.glob(f"answers-{job.name}.part-*.jsonl"))
    found = {key: answer for path in (whole, *parts) for key, answer in _read(path).items()}
    known = {q.id: found[q.id] for q in job.questions if q.id in found}
    if found:
        write_text(whole, "".join(_line(key, answer) for key, answer in (known | found).items()))
    for part in parts:
        part.unlink()
    return known


class Asker(L.LightningModule):
    """Asks batches of questions on one process, and writes each batch's answers as it has them.

    Args:
        ranker: The base model.
        adapter: The tuned model's adapter.
        folder: Of the answers.
        batches: Each a job, its questions and those whose answers are wanted; the base model's first.
    """

    def __init__(
        self,
        ranker: RankerArgs,
        adapter: Path,
        folder: Path,
        batches: list[tuple[Job, list[Question], set[str]]],
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
        job, questions, wanted = self.batches[number]
        if job.tuned and not self.tuned:
            self.mllm = load_adapter(self.mllm, self.adapter)
            self.model = self.mllm.model.to(self.device)
            self.tuned = True
        answers = ask(self.mllm, job.manner, questions)
        with open(self.folder / f"answers-{job.name}.part-{self.global_rank}.jsonl", "a", encoding="utf-8") as file:
            for question, answer in zip(questions, answers, strict=True):
                if question.id in wanted:
                    file.write(_line(question.id, answer))
            file.flush()
            os.fsync(file.fileno())


def _predict(asker: Asker, trainer: TrainerArgs) -> None:
    kind = accelerator_of(trainer)
    processes = min(trainer.devices, len(asker.batches))
    runner = L.Trainer(
        strategy=predicting_strategy(kind, processes > 1),
        accelerator=kind,
        devices=processes,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=watched(),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    try:
        with spawning():
            runner.predict(asker, return_predictions=False)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        raise Interrupted("interrupted; the same command goes on from the answers that are there") from None


def answer_all(
    jobs: Sequence[Job], ranker: RankerArgs, adapter: Path, trainer: TrainerArgs, folder: Path
) -> dict[str, dict[str, Answer]]:
    """Answers questions, asking only what the files do not hold.

    Args:
        jobs: The base model's first.
        ranker: The base model.
        adapter: The tuned model's adapter.
        trainer: ``accelerator``, and ``devices``: how many processes ask.
        folder: Of the answers; it belongs to these models and settings.

    Returns:
        dict: Answers by the question's id, by the job's name.

    Raises:
        UserError: A model, an adapter or an image can't be had; answers so far are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    batches = []
    for job in jobs:
        known = _gathered(job, folder)
        if known:
            log.info("%s: %d of %d answers are there", job.name, len(known), len(job.questions))
        for questions in job.batches():
            wanted = {question.id for question in questions} - known.keys()
            if wanted:
                batches.append((job, questions, wanted))
    if batches:
        _predict(Asker(ranker, adapter, folder, batches), trainer)
    return {job.name: _gathered(job, folder) for job in jobs}
