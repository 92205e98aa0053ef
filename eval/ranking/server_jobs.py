"""Inference jobs run by a server, resumable: an answer is on disk as soon as it arrives, and never requested again.

The answers of a job are in ``answers-NAME.jsonl``, one line per request. A server forms its own batches, so here an
answer is reused for the same request alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from data_prep.core.errors import Interrupted, UserError
from data_prep.core.files import REMAKE, file_lock, fingerprint, read_sealed_line, sealed_line
from data_prep.core.progress import progress_bar
from data_prep.core.rng import evenly_spaced
from data_prep.settings import RankerArgs, TrainerArgs
from eval.ranking.answer_key import answers_folder
from eval.ranking.answers import append_lines, name_path_in_errors
from eval.ranking.batches import InferenceJob
from eval.ranking.parity import Scores, check_parity, local_scores
from eval.ranking.probes import Probes, choose_probes
from eval.ranking.request import Response
from eval.ranking.server import Server, run_async
from eval.ranking.server_messages import Messages, PromptText, served_name, server_kind

log = logging.getLogger(__name__)


def _mode_key(job: InferenceJob) -> str:
    return fingerprint([job.tuned, asdict(job.mode)])


def _read_answers(path: Path, job: InferenceJob) -> dict[str, Response]:
    """Reads a job's answers by request id; a last line that a kill cut short is removed.

    Raises:
        UserError: A line was changed after it was written.
    """
    answers: dict[str, Response] = {}
    if not path.exists():
        return answers
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if len(complete) < len(content):
        os.truncate(path, len(complete))
    for number, line in enumerate(complete.decode(errors="replace").splitlines(), 1):
        record = read_sealed_line(line, f"{path}, line {number}", REMAKE)
        if record["mode"] == _mode_key(job):
            answers[record["id"]] = Response(tuple(record["scores"]), record["reply"])
    return answers


@dataclass(frozen=True)
class _Pending:
    """What is left of a job.

    Attributes:
        job: The job.
        path: The file of its answers.
        indices: Indices of its requests without an answer.
    """

    job: InferenceJob
    path: Path
    indices: list[int]


async def _answer_pending(server: Server, messages: Messages, pending: _Pending) -> None:
    """Answers requests concurrently and appends each answer to the file; after an error, those under way are finished.

    Raises:
        UserError: A request failed for good, or the spending limit is reached.
    """
    errors: list[UserError] = []
    queue, head = iter(pending.indices), {"mode": _mode_key(pending.job)}
    bar = progress_bar(messages.model, total=len(pending.indices))

    async def work() -> None:
        for index in queue:
            if errors:
                return
            (request,) = pending.job.requests.read(range(index, index + 1))
            try:
                body = await asyncio.to_thread(messages.body, request)
                response = await server.complete(messages.tuned, body, partial(messages.read, request))
                append_lines(pending.path, [sealed_line(head | {"id": request.id} | asdict(response))])
            except UserError as error:
                errors.append(error)
                return
            bar.update()

    await asyncio.gather(*(work() for _ in range(server.args.max_concurrency)))
    bar.close()
    if errors:
        raise errors[0]


async def _run(jobs: Sequence[_Pending], ranker: RankerArgs, probes: Probes, local: dict[bool, Scores]) -> None:
    text = PromptText(ranker)
    async with Server(ranker.server) as server:
        kind = server_kind(ranker.server, await server.models())
        try:
            for pending in jobs:
                job = pending.job
                messages = Messages(ranker.server, served_name(ranker, job.tuned), job.tuned, job.mode, kind, text)
                if probes.count:
                    await check_parity(server, messages, probes, local)
                await _answer_pending(server, messages, pending)
        finally:
            log.info("%s: %s", ranker.server.base_url, server.summary())


def answer_all_by_server(
    jobs: Sequence[InferenceJob], ranker: RankerArgs, adapter: Path, trainer: TrainerArgs, out: Path
) -> dict[str, dict[str, Response]]:
    """Runs jobs on a server, requesting only the answers that are not on disk.

    Args:
        jobs: What to answer; ``batch_size`` has no effect.
        ranker: The server, and the local model that it is compared with.
        adapter: The tuned model's adapter.
        trainer: The device of the comparison.
        out: The evaluation's folder; the answers are in ``answers-KEY`` there, a folder for each ``models_key``.

    Returns:
        dict: Responses by job name and request id.

    Raises:
        UserError: The server is not the local model, refused or failed a request, or the spending limit is reached;
            answers so far are kept.
    """
    folder = answers_folder(out, ranker, adapter)
    with name_path_in_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder):
        left = []
        for job in jobs:
            path = folder / f"answers-{job.name}.jsonl"
            answered = _read_answers(path, job)
            if answered:
                log.info("%s: %d answers are there", job.name, len(answered))
            ids = job.requests.hex_ids(range(len(job.requests)))
            indices = [index for index, request_id in enumerate(ids) if request_id not in answered]
            if indices:
                left.append(_Pending(job, path, indices))
        if left:
            _ask(left, ranker, adapter, trainer)
        return {job.name: _read_answers(folder / f"answers-{job.name}.jsonl", job) for job in jobs}


def _ask(left: Sequence[_Pending], ranker: RankerArgs, adapter: Path, trainer: TrainerArgs) -> None:
    """Compares server and local model, and requests what is left."""
    count, local = ranker.server.parity_images, dict[bool, Scores]()
    indices = [left[0].indices[position] for position in evenly_spaced(len(left[0].indices), count)]
    requests = [request for index in indices for request in left[0].job.requests.read(range(index, index + 1))]
    probes = choose_probes(requests, count, ranker.server.image_format)
    try:
        if probes.count:
            local = local_scores(ranker, adapter, trainer, probes)
        run_async(_run(left, ranker, probes, local))
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command resumes from the answers that are there") from None
