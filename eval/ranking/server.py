"""Client of an OpenAI-compatible server: concurrent requests with retries, time-outs and a spending limit.

A reply of status 200 can still be cut short or be something else, so a reply is read inside the loop of retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from data_prep.core.errors import UserError
from data_prep.settings import ServerArgs

log = logging.getLogger(__name__)

T = TypeVar("T")

BACKOFF_S = 0.5
"""Seconds before the first repetition; doubled with each, up to a minute, times a random number from 0.5 to 1."""
_MAX_BACKOFF_S = 60
_MAX_RETRY_AFTER_S = 600  # a server's own wish is followed up to here
_REPEATED = {408, 409, 425, 429}  # and all from 500
_MAX_IGNORED = 2
# What reading a reply that is no JSON, or has other fields, raises.
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
_SHOWN = 200  # characters of a server's message

SENT = Counter[str]()
"""Number of requests that this process sent, repeated ones included, by ``base_url``."""
_SPENDING = threading.Lock()


class ServerError(UserError):
    """A server that refused or failed a request, or the spending limit."""


class BadReply(Exception):
    """A reply that is not what was requested; the request is repeated."""


class IgnoredConstraint(BadReply):
    """A reply outside its grammar; the request is repeated once, as greedy decoding hardly varies."""


def _base(args: ServerArgs, tuned: bool) -> str:
    """Returns the address of the base or the tuned model, without a slash at its end."""
    return str((tuned and args.adapter_url) or args.base_url).rstrip("/")


def _shorten(text: str, key: str) -> str:
    """Shortens a server's message, and removes the key, which some servers repeat."""
    text = " ".join((text.replace(key, "***") if key else text).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _api_key(url: str) -> str:
    """Reads the key from the environment; OpenAI's own goes to OpenAI alone, whatever server a recipe names."""
    is_openai = urlsplit(url).hostname == "api.openai.com"
    return os.environ.get("RAR_API_KEY") or (os.environ.get("OPENAI_API_KEY", "") if is_openai else "")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end, also where this thread already runs an event loop, as a notebook's does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


class Server:
    """Open connections to the server of the base model and that of the tuned one; use it in ``async with``.

    Args:
        args: Addresses and limits.

    Attributes:
        sent: Number of requests sent, repeated ones included.
        failures: Number of failed attempts by reason.
    """

    def __init__(self, args: ServerArgs):
        try:
            import httpx
        except ImportError:
            raise UserError("ranker.backend=openai: needs httpx; pip install 'rar-train[serving]'") from None
        self.args, self.sent, self.failures, self._httpx = args, 0, Counter[str](), httpx

    async def __aenter__(self) -> Server:
        limits = self._httpx.Limits(max_connections=self.args.max_concurrency)
        # The time limit is of a whole attempt, so that a server that sends a byte now and then does not hold it open.
        self._client = self._httpx.AsyncClient(limits=limits, timeout=None)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    def models(self) -> list[dict[str, Any]]:
        """Connects, and returns the models that the servers list; empty where they have no list.

        Raises:
            ServerError: A server does not answer.
        """

        def read(reply: Any) -> list[dict[str, Any]]:
            entries = reply.get("data") if isinstance(reply, dict) else None
            if not isinstance(entries, list):
                raise BadReply("not a list of models")
            return [entry for entry in entries if isinstance(entry, dict)]

        async def list_all() -> list[dict[str, Any]]:
            urls = dict.fromkeys(f"{_base(self.args, tuned)}/models" for tuned in (False, True))
            async with self:
                return [model for url in urls for model in await self._send("GET", url, None, read, missing=[])]

        return run_async(list_all())

    async def complete(self, tuned: bool, body: dict[str, Any], read: Callable[[dict[str, Any]], T]) -> T:
        """Sends a chat completion, and reads its first choice.

        Args:
            tuned: Whether it is for the server of the tuned model.
            body: The request.
            read: Turns the choice into a result; it raises ``BadReply``, or an error of a missing key, for anything
                else than a complete reply.

        Raises:
            ServerError: The server refused the request, failed each time, or the spending limit is reached.
        """
        url = f"{_base(self.args, tuned)}/chat/completions"
        return await self._send("POST", url, body | self.args.extra, lambda reply: read(reply["choices"][0]))

    async def _send(
        self, method: str, url: str, body: dict | None, read: Callable[[Any], T], missing: T | None = None
    ) -> T:
        reason, ignored, key = "", 0, _api_key(url)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        for attempt in range(self.args.max_retries + 1):
            if body is not None:
                self._spend()
            retry_after = 0.0
            try:
                async with asyncio.timeout(self.args.timeout_s):
                    reply = await self._client.request(method, url, json=body, headers=headers)
                if reply.status_code == 404 and missing is not None:
                    return missing
                if reply.status_code == 200:
                    return read(json.loads(reply.content))
                reason, retry_after = f"HTTP {reply.status_code}", _retry_after(reply.headers.get("retry-after", ""))
                if reply.status_code < 500 and reply.status_code not in _REPEATED:
                    raise ServerError(f"{url}: refused with {reason}: {_shorten(reply.text, key)}")
            except TimeoutError:
                reason = f"no reply in {self.args.timeout_s:g} s"
            except BadReply as error:
                reason = f"unusable reply ({_shorten(str(error), key)})"
                ignored += isinstance(error, IgnoredConstraint)
            except (*_UNREADABLE, self._httpx.DecodingError) as error:
                reason = f"unusable reply ({type(error).__name__})"
            except self._httpx.RequestError as error:
                reason = f"no connection ({type(error).__name__})"
            self.failures[reason] += 1
            if attempt == self.args.max_retries or ignored == _MAX_IGNORED:
                break
            backoff = min(BACKOFF_S * 2**attempt, _MAX_BACKOFF_S) * random.uniform(0.5, 1)
            await asyncio.sleep(max(backoff, retry_after))
        raise ServerError(
            f"ranker.server (limits: timeout_s, max_retries, max_concurrency): {url}: {reason}, "
            f"after {attempt + 1} attempts"
        )

    def _spend(self) -> None:
        limit, url = self.args.max_requests, str(self.args.base_url)
        with _SPENDING:
            if limit is not None and SENT[url] >= limit:
                raise ServerError(f"ranker.server.max_requests={limit}: reached")
            SENT[url] += 1
        self.sent += 1

    def summary(self) -> str:
        """Returns the numbers of requests and of failed attempts, for the log."""
        failures = ", ".join(f"{reason}: {count}" for reason, count in self.failures.most_common())
        return f"{self.sent} requests" + (f", failed attempts: {failures}" if failures else "")


def _retry_after(value: str) -> float:
    """Returns the seconds of a ``Retry-After`` header, which is a number or a date; 0 if it is neither."""
    seconds = 0.0
    with contextlib.suppress(ValueError, TypeError):
        seconds = float(value) if value.strip().isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S)
