"""Settings of a server that runs the ranker (section ``ranker.server``)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from data_prep.settings.validate import bounded, check, one_of

CONSTRAINTS = ("auto", "vllm", "sglang", "llama.cpp", "json_schema")


@dataclass
class ServerArgs:
    """A server with OpenAI's chat completions, which runs the ranker where ``ranker.backend=openai``.

    Its API key is read from the environment alone: ``RAR_API_KEY``, or for api.openai.com also ``OPENAI_API_KEY``.
    """

    base_url: str | None = None
    """URL of the API, such as ``http://127.0.0.1:8000/v1``. Images and class names are sent there."""
    adapter_url: str | None = None
    """URL of the API that has the tuned model, where that is another server, as for a merged model next to its base.
    Null: ``base_url``."""
    served_model: str | None = None
    """The base model's name on the server. Null: ``ranker.model``."""
    served_adapter: str | None = None
    """The tuned model's name on the server: that of its adapter, or of a merged model. Required to rank with it."""
    constraint: str = "auto"
    """How mode ``constrained`` restricts replies to permutations: by a grammar in the field that ``vllm``, ``sglang``
    or ``llama.cpp`` reads, or by a ``json_schema``, which other servers take and which does not exclude repeats.
    ``auto``: by what the server says of itself, else ``json_schema``."""
    extra_body: str = ""
    """JSON object whose keys are added to every request, such as
    ``{"chat_template_kwargs": {"enable_thinking": false}}``."""
    image_format: str = "png"
    """Encoding of images: ``png`` (lossless) or ``jpeg`` (quality 95, smaller)."""
    max_concurrency: int = 16
    """Number of requests at a time, at least 1."""
    timeout_s: float = 120
    """Seconds until an attempt at a request is given up, above 0."""
    max_retries: int = 6
    """Number of times a failed request is repeated, with exponential back-off, at least 0. One whose reply ignores
    ``constraint`` is repeated once."""
    max_requests: int | None = None
    """Spending limit: number of requests that a command, or a Python process, may send to ``base_url`` and
    ``adapter_url``, repeated ones and those of the parity check included. At the limit it stops, with the answers so
    far. Null: no limit."""
    parity_images: int = 8
    """Number of images, evenly spaced, about which server and local model are compared, at least 0: once per model in
    a command or Python process, before anything is ranked. It needs ``ranker.model`` on this machine. 0: no
    comparison."""
    parity_tolerance: float = 0.1
    """Largest mean difference of a letter's log-probability (nats, centred per image) at which they count as the same
    model, above 0."""

    @property
    def extra(self) -> dict[str, Any]:
        """The object of ``extra_body``."""
        return json.loads(self.extra_body) if self.extra_body else {}

    def __post_init__(self) -> None:
        section = "ranker.server"
        one_of(f"{section}.constraint", self.constraint, CONSTRAINTS)
        one_of(f"{section}.image_format", self.image_format, ("png", "jpeg"))
        bounded(section, self, {"max_concurrency": 1, "max_retries": 0, "parity_images": 0})
        for key, value in (("timeout_s", self.timeout_s), ("parity_tolerance", self.parity_tolerance)):
            check(value > 0, f"{section}.{key}={value}: must be above 0")
        limit = self.max_requests
        check(limit is None or limit >= 1, f"{section}.max_requests={limit}: must be at least 1, or null")
        for key, url in (("base_url", self.base_url), ("adapter_url", self.adapter_url)):
            if url is not None:
                _check_url(f"{section}.{key}", url)
        try:
            is_object = isinstance(self.extra, dict)
        except ValueError:
            is_object = False
        check(is_object, f'{section}.extra_body={self.extra_body}: give a JSON object, such as {{"top_k": 1}}')


def _check_url(key: str, url: str) -> None:
    parts = urlsplit(url)
    is_web = parts.scheme in ("http", "https") and bool(parts.hostname)
    # Never repeated in the message: it may hold a password.
    has_secret = bool(parts.username or parts.password or parts.query)
    check(not has_secret, f"{key}: give the key as RAR_API_KEY in the environment, not in the URL")
    check(is_web, f"{key}={url}: give an address such as http://127.0.0.1:8000/v1")
