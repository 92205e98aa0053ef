"""A ranker behind a server, for use in programs: requests in, responses out, without files."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data_prep.settings import RankerArgs, TrainerArgs
from eval.ranking.parity import check_parity, local_scores
from eval.ranking.probes import choose_probes
from eval.ranking.request import RankingMode, RankingRequest, Response
from eval.ranking.server import Server, run_async
from eval.ranking.server_messages import Messages, PromptText, served_name, server_kind


class ServedModel:
    """A model on a server. The spending limit is of the object's whole life; calls from several threads take turns.

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
        self.ranker, self.tuned, self.adapter, self.trainer = ranker, tuned, adapter, trainer
        self.server, self.lock = Server(ranker.server), threading.Lock()
        self.is_checked = ranker.server.parity_images == 0
        name, kind = served_name(ranker, tuned), run_async(self._find_kind())
        self.messages = Messages(ranker.server, name, tuned, mode, kind, PromptText(ranker))

    async def _find_kind(self) -> str:
        async with self.server:
            return server_kind(self.ranker.server, await self.server.models())

    def answer(self, requests: Sequence[RankingRequest]) -> list[Response]:
        """Answers requests, several at a time.

        Returns:
            list[Response]: One per request.

        Raises:
            UserError: The server is not the local model, refused or failed a request, or the spending limit is reached.
        """
        with self.lock:
            if not self.is_checked and requests:
                self._check(requests)
            return run_async(self._answer(requests))

    def _check(self, requests: Sequence[RankingRequest]) -> None:
        probes = choose_probes(requests, self.ranker.server.parity_images, self.ranker.server.image_format)
        local = local_scores(self.ranker, self.adapter, self.trainer, probes)

        async def check() -> None:
            async with self.server:
                await check_parity(self.server, self.messages, probes, local)

        run_async(check())
        self.is_checked = True

    async def _answer(self, requests: Sequence[RankingRequest]) -> list[Response]:
        slots = asyncio.Semaphore(self.ranker.server.max_concurrency)

        async def answer_one(request: RankingRequest) -> Response:
            async with slots:
                body = await asyncio.to_thread(self.messages.body, request)
                return await self.server.complete(self.tuned, body, partial(self.messages.read, request))

        async with self.server:
            return list(await asyncio.gather(*map(answer_one, requests)))
