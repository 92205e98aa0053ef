"""Runs the service: loads the recognizer and its memory, and listens until Ctrl-C or SIGTERM."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.settings import check
from eval.recognizer.class_lists import check_classes
from eval.recognizer.kept import choose_classes, lock_kept
from eval.recognizer.recognizer import Recognizer
from eval.recognizer.uploads import is_loopback

log = logging.getLogger(__name__)

TOKEN = "RAR_SERVE_TOKEN"
"""Environment variable with the token for changes of classes."""

_SECONDS_TO_END = 30


@dataclass(frozen=True)
class Options:
    """The command line.

    Attributes:
        ckpt: A run's folder, or one of its checkpoints.
        settings: Changes to the run's recipe.
        classes: A path of classes, as ``Recognizer`` takes it; None for the run's own test split.
        memory: Folder where the memory is kept; None: changes are lost.
        host: Address to listen on.
        port: Its port.
        max_mb: Size limit of an image, in megabytes.
        max_images: Images in a request.
    """

    ckpt: Path
    settings: Sequence[str] = ()
    classes: Path | None = None
    memory: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    max_mb: float = 10
    max_images: int = 32

    def __post_init__(self) -> None:
        check(0 < self.port < 65536, f"--port {self.port}: must be in 1..65535")
        check(self.max_mb > 0, f"--max-mb {self.max_mb}: must be above 0")
        check(self.max_images > 0, f"--max-images {self.max_images}: must be above 0")
        check_classes(self.classes)


def load_recognizer(options: Options) -> Recognizer:
    """Loads the recognizer with the kept memory, or at the first start with the given classes.

    Raises:
        UserError: A part can't be loaded.
    """
    classes = choose_classes(check_classes(options.classes), options.memory, "--memory")
    return Recognizer.from_pretrained(options.ckpt, classes, *options.settings)


def _listen(host: str, port: int) -> socket.socket:
    """Binds the socket before the models are loaded, so that a port that is taken is reported at once.

    Nobody can connect before uvicorn listens.

    Raises:
        UserError: The port is taken, or the address is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # asyncio sends small responses at once only where the protocol is given; otherwise each takes 40 ms more.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        return listener
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: can't listen there ({error}); give another") from None


def serve(options: Options) -> None:
    """Loads a run and serves it until Ctrl-C or SIGTERM; requests that are being answered are finished.

    Raises:
        UserError: FastAPI or uvicorn is missing, another service keeps the same memory, or a part can't be loaded.
    """
    for package in ("fastapi", "uvicorn", "python_multipart"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"eval.serve needs {package}; pip install 'rar-train[serve]'")
    with _listen(options.host, options.port) as listener, lock_kept(options.memory):
        _serve_on(listener, options)


def _serve_on(listener: socket.socket, options: Options) -> None:
    import uvicorn

    from eval.serve.app import Service, build_app
    from eval.serve.gate import Limits

    token = os.environ.get(TOKEN, "")
    limits = Limits(int(options.max_mb * 1e6), options.max_images)
    service = Service(load_recognizer(options), options.memory, limits)
    _log_start(options, bool(token), len(service.classes.list()))
    # No access log: names of classes are in paths. The metrics count requests.
    config = uvicorn.Config(
        build_app(service, token),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    with suppress(KeyboardInterrupt):  # raised again by uvicorn once it has ended
        uvicorn.Server(config).run(sockets=[listener])
    log.info("serve: ended")


def _log_start(options: Options, has_token: bool, classes: int) -> None:
    if not has_token:
        log.info("serve: classes can't be changed, as %s is not set", TOKEN)
    if options.memory is None:
        log.info("serve: changes of classes are lost when the service ends; --memory FOLDER keeps them")
    if not is_loopback(options.host):
        log.warning(
            "serve: everyone who reaches %s can have images recognised and see the names of classes; requests and the "
            "token are not encrypted, so put a proxy with TLS before it",
            options.host,
        )
    host = f"[{options.host}]" if ":" in options.host else options.host
    log.info("serve: http://%s:%d with %d classes; Ctrl-C ends it", host, options.port, classes)
