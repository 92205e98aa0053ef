"""What is checked of a request before its body is read: the token, the body's size, and the room for it in memory."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eval.serve.admission import Admission, Busy
from eval.serve.metrics import Metrics

_READING = ("GET", "HEAD", "OPTIONS")
_METHODS = (*_READING, "POST", "DELETE")
_OPEN = "/recognise"
"""The only path where anyone may send something: every other request that is not for reading needs the token."""

_RETRY_SECONDS = 1
_CLOSE = {"Connection": "close"}  # the rest of the body is not read
_STEP = 2**20  # bytes; room for a body of unknown length is taken in such steps


@dataclass(frozen=True)
class Limits:
    """Limits of requests.

    Attributes:
        max_bytes: Size of an image.
        max_images: Number of images.
    """

    max_bytes: int
    max_images: int

    @property
    def body_bytes(self) -> int:
        """Size of a request's body, with some room for the form around the images."""
        return self.max_bytes * self.max_images + 2**20


def busy_response(headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Returns the response to a request that will be accepted later.

    Args:
        headers: Further headers.
    """
    retry = {"Retry-After": str(_RETRY_SECONDS)} | dict(headers or {})
    return JSONResponse({"detail": "too many images wait already; try again"}, 503, retry)


def _too_large_response(limits: Limits) -> JSONResponse:
    limit = f"{limits.max_images} images of {limits.max_bytes / 1e6:g} MB"
    return JSONResponse({"detail": f"the request is too large: at most {limit}"}, 413, _CLOSE)


class _Refused(Exception):
    pass


class _Body:
    """The body of a request, which the application receives while there is room for it.

    Args:
        limits: Limits of its size.
        bodies: Admits it.
        receive: Receives messages from the server.
        send: Sends messages to the server.

    Attributes:
        room: The room that it takes, until this is closed.
        refusal: The response that replaces the application's; None while the body is accepted.
    """

    def __init__(self, limits: Limits, bodies: Admission, receive: Receive, send: Send):
        self.limits, self.bodies, self.room = limits, bodies, ExitStack()
        self.refusal: JSONResponse | None = None
        self._receive, self._send = receive, send
        self._received = self._admitted = 0

    def admit(self, size: int) -> None:
        """Takes room for some more bytes.

        Raises:
            _Refused: There is none at present.
        """
        try:
            self.room.enter_context(self.bodies.admit(0, size))
        except Busy:
            self.refusal = busy_response(_CLOSE)
            raise _Refused from None
        self._admitted += size

    async def receive(self) -> Message:
        """Receives a message for the application, and takes room for more than was announced.

        Raises:
            _Refused: The body is too large, or there is no room for it.
        """
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._received > self.limits.body_bytes:
            self.refusal = _too_large_response(self.limits)
            raise _Refused
        if self._received > self._admitted:
            self.admit(min(self._received + _STEP, self.limits.body_bytes) - self._admitted)
        return message

    async def send(self, message: Message) -> None:
        """Sends a message of the application."""
        if self.refusal is None:  # else FastAPI reports the exception as a damaged form
            await self._send(message)


class Gate:
    """An ASGI middleware that refuses requests without a token or room for their bodies, and counts requests.

    Args:
        app: The application.
        token: Token for changes; empty: nothing may be changed.
        limits: Limits of bodies.
        bodies: Admits bodies: at once by their announced length, else as they arrive.
        metrics: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, token: str, limits: Limits, bodies: Admission, metrics: Metrics):
        self.app, self.limits, self.bodies, self.metrics = app, limits, bodies, metrics
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 500

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._handle(scope, receive, send_counted)
        finally:
            route = scope.get("route")
            path = route.path if route is not None else "other"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self.metrics.count_request(method, path, status, time.monotonic() - began)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        refusal = self._refuse(scope, headers)
        if refusal is None:
            body = _Body(self.limits, self.bodies, receive, send)
            with suppress(_Refused), body.room:
                body.admit(int(headers.get("content-length", "0")))
                await self.app(scope, body.receive, body.send)
            refusal = body.refusal
        if refusal is not None:
            await refusal(scope, receive, send)

    def _refuse(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        """Returns the response to a request that is refused by its headers."""
        if scope["method"] not in _READING and scope["path"] != _OPEN:
            if not self._token:
                return JSONResponse({"detail": "classes can't be changed: the service has no token"}, 403)
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self._token):
                headers_of_refusal = {"WWW-Authenticate": "Bearer"}
                return JSONResponse({"detail": "needs the token"}, 401, headers_of_refusal)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.limits.body_bytes:
            return _too_large_response(self.limits)
        return None
