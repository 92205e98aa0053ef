"""Answers on disk: appended batch by batch, one file per process, and merged into one file per job."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import REMAKE, read_sealed_line, sealed_line, write_text
from eval.ranking.batches import Batch, InferenceJob
from eval.ranking.request import Response


@contextmanager
def name_path_in_errors(path: Path) -> Iterator[None]:
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


def read_answers(path: Path) -> dict[tuple[str, str], Response]:
    """Reads the complete lines of a file; a last line that was cut short by a kill is ignored.

    Returns:
        dict: Responses by the key of their batch and the id of their request.

    Raises:
        UserError: A line was changed after it was written.
    """
    answers = {}
    if path.exists():
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.endswith(b"\n"):
                    text = line[:-1].decode(errors="replace")
                    record = read_sealed_line(text, f"{path}, line {number}", REMAKE)
                    answers[record["batch"], record["id"]] = Response(tuple(record["scores"]), record["reply"])
    return answers


def to_line(batch: str, request_id: str, response: Response) -> str:
    """Formats an answer as ``read_answers`` reads it."""
    return sealed_line({"batch": batch, "id": request_id} | asdict(response))


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Appends lines to a file and syncs it to disk.

    Raises:
        UserError: They can't be written.
    """
    with name_path_in_errors(path), open(path, "a", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def append_answers(folder: Path, process: int, batch: Batch, responses: Sequence[Response]) -> None:
    """Appends a batch's answers, except those that are on disk, to the file of one process.

    Args:
        folder: Folder of the answers.
        process: Rank of the process that ran the batch.
        batch: The batch.
        responses: One per request.

    Raises:
        UserError: They can't be written.
    """
    pairs = zip(batch.ids, responses, strict=True)
    lines = [to_line(batch.key, key, response) for key, response in pairs if key not in batch.answered]
    append_lines(folder / f"answers-{batch.job.name}.part-{process}.jsonl", lines)


def append_time(folder: Path, process: int, batch: Batch, seconds: float) -> None:
    """Appends the time that the model took for a batch to the file of one process."""
    images = len({request.key for request in batch.read()})
    line = json.dumps({"images": images, "seconds": round(seconds, 6)}) + "\n"
    append_lines(folder / f"times-{batch.job.name}.part-{process}.jsonl", [line])


def read_speed(folder: Path, job: str) -> float | None:
    """Returns the images/s of a timed job on all its processes; None where nothing was timed."""
    rates = []
    for path in sorted(folder.glob(f"times-{job}.part-*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rates.append(sum(row["images"] for row in rows) / sum(row["seconds"] for row in rows))
    return sum(rates) or None


def merge_answers(job: InferenceJob, folder: Path) -> dict[str, Response]:
    """Merges the files of all processes into one, in the order of the job's requests and then all other answers.

    Returns:
        dict[str, Response]: The answers to the job's requests that are on disk, by request id.
    """
    merged = folder / f"answers-{job.name}.jsonl"
    parts = sorted(folder.glob(f"answers-{job.name}.part-*.jsonl"))
    on_disk = {key: response for path in (merged, *parts) for key, response in read_answers(path).items()}
    keys = ((batch.key, request_id) for batch in job.batches() for request_id in batch.ids)
    answered = {key: on_disk[key] for key in keys if key in on_disk}
    if parts:
        with name_path_in_errors(merged):
            if on_disk:
                write_text(merged, (to_line(*key, response) for key, response in (answered | on_disk).items()))
            for part in parts:
                part.unlink()
    return {request_id: response for (_, request_id), response in answered.items()}
