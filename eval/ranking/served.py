"""A ranker behind a server, for use in programs: requests in, responses out, without files."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.settings import RankerArgs, TrainerArgs
from eval.ranking.parity import ensure_parity
from eval.ranking.request import RankingMode, RankingRequest, Response
from eval.ranking.server import Server, run_async
from eval.ranking.server_messages import Messages, PromptText, served_name, server_kind


def answer_requests(
    server: Server,
    messages: Messages,
    requests: Iterable[RankingRequest],
    keep: Callable[[RankingRequest, Response], None],
) -> None:
    """Answers requests, several at a time; after an error those under way are finished.

    Args:
        server: The server.
        messages: Model and mode.
        requests: Read one by one as they are sent.
        keep: Called with each answer as soon as it is there.

    Raises:
        ServerError: The server refused or failed a request, or the spending limit is reached.
        UserError: A request has too many candidates or an image that does not decode, or ``keep`` raised it.
    """
    errors: list[UserError] = []
    queue = iter(requests)

    async def work() -> None:
        try:
            while not errors and (request := next(queue, None)):
                body = await asyncio.to_thread(messages.body, request)
                keep(request, await server.complete(messages.tuned, body, partial(messages.read, request)))
        except UserError as error:
            errors.append(error)

    async def work_all() -> None:
        async with server:
            await asyncio.gather(*(work() for _ in range(server.args.max_concurrency)))

    run_async(work_all())
    if errors:
        raise errors[0]


class ServedModel:
    """A model on a server; calls from several threads take turns.

    Answers of a call that failed are kept: when it is repeated, they are not requested again.

    Args:
        ranker: The server.
        mode: How to prompt the model.
        tuned: Whether the tuned model is meant, or the base model.
        adapter: The tuned model's adapter.
        trainer: The device of the comparison with the local model, on the first requests.

    Raises:
        UserError: The server does not answer, or has no name for the tuned model.
    """

    def __init__(self, ranker: RankerArgs, mode: RankingMode, tuned: bool, adapter: Path, trainer: TrainerArgs):
        self.ranker, self.adapter, self.trainer = ranker, adapter, trainer
        self.server, self.lock, self.is_checked = Server(ranker.server), threading.Lock(), False
        self.kept: dict[str, Response] = {}
        name, kind = served_name(ranker, tuned), server_kind(ranker.server, self.server.models())
        self.messages = Messages(ranker.server, name, tuned, mode, kind, PromptText(ranker))

    def answer(self, requests: Sequence[RankingRequest]) -> list[Response]:
        """Answers requests, several at a time.

        Returns:
            list[Response]: One per request.

        Raises:
            UserError: The server is not the local model, refused or failed a request, or the spending limit is reached.
        """
        if not requests:
            return []
        with self.lock:
            if not self.is_checked:
                ensure_parity(self.server, [self.messages], requests, self.ranker, self.adapter, self.trainer)
                self.is_checked = True
            ids = [request.id for request in requests]
            left = {key: request for key, request in zip(ids, requests, strict=True) if key not in self.kept}
            answer_requests(self.server, self.messages, left.values(), self._keep)
            kept, self.kept = self.kept, {}
            return [kept[key] for key in ids]

    def _keep(self, request: RankingRequest, response: Response) -> None:
        self.kept[request.id] = response
