"""What is checked of a request before its body is read: the token, and the body's size."""

from __future__ import annotations

import hmac
import time
from contextlib import suppress
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eval.serve.metrics import Metrics

_READING = ("GET", "HEAD", "OPTIONS")
_METHODS = (*_READING, "POST", "DELETE")
_OPEN = "/recognise"
"""The only path where anyone may send something: every other request that is not for reading needs the token."""


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


class _BodyTooLarge(Exception):
    pass


class Gate:
    """An ASGI middleware that refuses requests without a token and bodies that are too large, and counts requests.

    Args:
        app: The application.
        token: Token for changes; empty: nothing may be changed.
        limits: Limits of bodies.
        metrics: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, token: str, limits: Limits, metrics: Metrics):
        self.app, self.limits, self.metrics = app, limits, metrics
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
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        received, is_too_large = 0, False

        async def receive_limited() -> Message:
            nonlocal received, is_too_large
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limits.body_bytes:
                is_too_large = True
                raise _BodyTooLarge
            return message

        async def send_unless_too_large(message: Message) -> None:
            if not is_too_large:  # else FastAPI reports the exception as a damaged form
                await send(message)

        with suppress(_BodyTooLarge):
            await self.app(scope, receive_limited, send_unless_too_large)
        if is_too_large:
            await self._too_large()(scope, receive, send)

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
            return self._too_large()
        return None

    def _too_large(self) -> JSONResponse:
        limit = f"{self.limits.max_images} images of {self.limits.max_bytes / 1e6:g} MB"
        return JSONResponse({"detail": f"the request is too large: at most {limit}"}, 413, {"Connection": "close"})
