"""Answers on disk: written chunk by chunk, so that a killed evaluation goes on where it stopped."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from data_prep.files import fingerprint, write_text
from eval.ranking import Answer, Question, ask
from rar_train.backend import Mllm

log = logging.getLogger(__name__)


def question_id(question: Question) -> str:
    """Identifies a question by image and names."""
    return fingerprint([question.key, question.names])


def _read(path: Path) -> dict[str, Answer]:
    """Reads whole lines; a line that a kill cut short is not one."""
    answers: dict[str, Answer] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            record = json.loads(line)
            answers[record["id"]] = Answer(tuple(record["scores"]), record["reply"])
    return answers


def answer_all(mllm: Mllm, mode: str, questions: Sequence[Question], batch_size: int, path: Path) -> dict[str, Answer]:
    """Answers questions, asking only what the file does not hold.

    Batches are cut from the whole list before the known ones are left out, so a resumed run asks
    in the same batches and gives the same numbers to the last bit.

    Args:
        mllm: The ranker.
        mode: How to rank.
        questions: Distinct questions.
        batch_size: Images per pass.
        path: A JSON-lines file of answers; it belongs to this model, mode and list of questions.

    Returns:
        dict[str, Answer]: By ``question_id``.
    """
    known = _read(path)
    ids = [question_id(question) for question in questions]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        log.info("%s: %d of %d answers are there", path.name, len(known.keys() & set(ids)), len(ids))
        lines = [json.dumps({"id": key} | asdict(answer)) for key, answer in known.items()]
        write_text(path, "".join(f"{line}\n" for line in lines))  # without a line that a kill cut short
    with open(path, "a", encoding="utf-8") as file:
        for start in range(0, len(questions), batch_size):
            batch = slice(start, start + batch_size)
            if all(key in known for key in ids[batch]):
                continue
            answers = ask(mllm, mode, questions[batch])
            for key, answer in zip(ids[batch], answers, strict=True):
                if key not in known:
                    known[key] = answer
                    file.write(json.dumps({"id": key} | asdict(answer)) + "\n")
            file.flush()
            os.fsync(file.fileno())
    return known
