"""Inference jobs run by a server, resumable: an answer is on disk as soon as it arrives, and never requested again.

The answers of a job are in ``answers-NAME.jsonl``, one line per request. A server forms its own batches, so here an
answer is reused for the same request alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.core.errors import Interrupted, UserError
from data_prep.core.files import file_lock, fingerprint
from data_prep.core.progress import progress_bar
from data_prep.core.rng import evenly_spaced
from data_prep.settings import RankerArgs, TrainerArgs
from eval.ranking.answer_key import answers_folder
from eval.ranking.answers import append_lines, name_path_in_errors, read_answers, to_line
from eval.ranking.batches import InferenceJob
from eval.ranking.parity import ensure_parity
from eval.ranking.request import RankingRequest, Response
from eval.ranking.served import answer_requests
from eval.ranking.server import Server, ServerError
from eval.ranking.server_messages import Messages, PromptText, served_name, server_kind

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Stored:
    """A job's answers on disk.

    Attributes:
        job: The job.
        path: The file of its answers.
        key: Hash of model and mode, under which they are stored.
    """

    job: InferenceJob
    path: Path
    key: str

    def read(self) -> dict[str, Response]:
        """Reads the answers by request id.

        Raises:
            UserError: A line was changed after it was written.
        """
        answers = read_answers(self.path).items()
        return {request_id: response for (key, request_id), response in answers if key == self.key}

    def missing(self) -> list[int]:
        """Returns the indices of the requests without an answer; a last line that a kill cut short is removed."""
        answered, requests = self.read(), self.job.requests
        if answered:
            log.info("%s: %d answers are there", self.job.name, len(answered))
        content = self.path.read_bytes() if self.path.exists() else b""
        if content and not content.endswith(b"\n"):
            os.truncate(self.path, content.rfind(b"\n") + 1)
        ids = requests.hex_ids(range(len(requests)))
        return [index for index, request_id in enumerate(ids) if request_id not in answered]

    def requests(self, indices: Iterable[int]) -> Iterator[RankingRequest]:
        """Builds some of the requests, one by one."""
        return (request for index in indices for request in self.job.requests.read(range(index, index + 1)))

    def ask(self, server: Server, messages: Messages, indices: Sequence[int]) -> None:
        """Requests answers and appends each to the file.

        Raises:
            UserError: A request failed for good, or the spending limit is reached.
        """
        with progress_bar(messages.model, total=len(indices)) as bar:

            def keep(request: RankingRequest, response: Response) -> None:
                append_lines(self.path, [to_line(self.key, request.id, response)])
                bar.update()

            try:
                answer_requests(server, messages, self.requests(indices), keep)
            except ServerError as error:
                raise UserError(f"{error}; answers so far are kept, and the same command resumes") from None


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
        stored = [_store(job, folder) for job in jobs]
        left = [(answers, missing) for answers in stored if (missing := answers.missing())]
        if left:
            _ask(left, ranker, adapter, trainer)
        return {answers.job.name: answers.read() for answers in stored}


def _store(job: InferenceJob, folder: Path) -> _Stored:
    return _Stored(job, folder / f"answers-{job.name}.jsonl", fingerprint([job.tuned, asdict(job.mode)]))


def _ask(left: Sequence[tuple[_Stored, list[int]]], ranker: RankerArgs, adapter: Path, trainer: TrainerArgs) -> None:
    """Compares server and local models, and requests the answers of these indices."""
    server, text = Server(ranker.server), PromptText(ranker)
    kind, jobs = server_kind(ranker.server, server.models()), [answers.job for answers, _ in left]
    models = [Messages(ranker.server, served_name(ranker, job.tuned), job.tuned, job.mode, kind, text) for job in jobs]
    first, missing = left[0]
    compared = [missing[position] for position in evenly_spaced(len(missing), ranker.server.parity_images)]
    try:
        ensure_parity(server, models, list(first.requests(compared)), ranker, adapter, trainer)
        for messages, (answers, indices) in zip(models, left, strict=True):
            answers.ask(server, messages, indices)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command resumes from the answers that are there") from None
    finally:
        log.info("%s: %s", ranker.server.base_url, server.summary())
