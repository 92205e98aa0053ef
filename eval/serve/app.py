"""The service's routes: recognises images, and lists, adds and removes classes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, File, Form, Request, Response, Security, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from data_prep.core.errors import UserError
from data_prep.embedding.image_inputs import OpenedImage, describe_reason
from data_prep.settings import check
from eval.recognizer.kept import KeptClasses, NoSuchClass
from eval.recognizer.recognizer import Recognizer
from eval.recognizer.result import Recognition
from eval.recognizer.uploads import check_size, check_upload_name, open_upload, upload_pixels
from eval.serve import schema
from eval.serve.admission import Admission, Busy, TooLarge
from eval.serve.batching import Batcher
from eval.serve.gate import Gate, Limits, busy_response
from eval.serve.metrics import Metrics

_WAITING_BATCHES = 8
_WAITING_BYTES = 2**31
_BODY_BYTES = 2**30

_ERRORS = {code: {"model": schema.Failure} for code in (413, 422, 503)}
_CHANGE_ERRORS = _ERRORS | {code: {"model": schema.Failure} for code in (401, 403)}


@dataclass(frozen=True)
class Upload:
    """An uploaded file.

    Attributes:
        name: The file name that was sent; at most 200 characters of it.
        data: Its content.
    """

    name: str
    data: bytes


class Service:
    """A recognizer with what it takes to serve it.

    Args:
        recognizer: Recognises, and has the memory.
        folder: Where the memory is kept; None: nowhere.
        limits: Limits of requests.

    Attributes:
        bodies: Admits bodies of requests, before they are read.
        admission: Admits images, before they are copied from the bodies and decoded.
    """

    def __init__(self, recognizer: Recognizer, folder: Path | None, limits: Limits):
        self.recognizer, self.limits = recognizer, limits
        self.metrics = Metrics()
        self.classes = KeptClasses(recognizer, folder)
        self.batcher = Batcher(recognizer, self.metrics.count_batch)
        waiting = max(_WAITING_BATCHES * recognizer.recipe.eval.batch_size, limits.max_images)
        self.admission = Admission(waiting, _WAITING_BYTES)
        self.bodies = Admission(0, max(_BODY_BYTES, limits.body_bytes))  # no images: those are admitted later

    @asynccontextmanager
    async def reading(self, files: Sequence[UploadFile]) -> AsyncIterator[list[Upload]]:
        """Reads the files of a request, and holds room for them while the block runs.

        Raises:
            TooLarge: There are too many, or one is too large.
            Busy: Too much waits already.
        """
        if len(files) > self.limits.max_images:
            raise TooLarge(f"{len(files)} images: at most {self.limits.max_images} at a time")
        names = [(file.filename or f"image {index}")[:200] for index, file in enumerate(files)]
        sizes = [file.size or 0 for file in files]
        for name, size in zip(names, sizes, strict=True):
            try:
                check_size(size, name, self.limits.max_bytes)
            except UserError as error:
                raise TooLarge(str(error)) from None
        with self.admission.admit(len(files), sum(sizes)):
            yield [Upload(name, await file.read()) for name, file in zip(names, files, strict=True)]

    async def recognise(self, uploads: Sequence[Upload], k: int | None) -> list[Recognition]:
        """Recognises images together with those of other requests; an image that can't be read has an ``error``.

        Raises:
            TooLarge: They take more memory than there is.
            Busy: Too much waits already.
        """
        pixels = await run_in_threadpool(lambda: [_pixels_or_reason(upload) for upload in uploads])
        with self.admission.admit(0, 3 * sum(count for count in pixels if isinstance(count, int))):
            opened = await run_in_threadpool(self._open, uploads, pixels)
            images = [image for image in opened if isinstance(image, OpenedImage)]
            recognised = iter(await asyncio.wrap_future(self.batcher.submit(images, k)) if images else [])
        results = [Recognition.from_error(i) if isinstance(i, str) else next(recognised) for i in opened]
        self.metrics.count_images(Counter(map(_outcome, results)))
        return results

    def _open(self, uploads: Sequence[Upload], pixels: Sequence[int | str]) -> list[OpenedImage | str]:
        opened: list[OpenedImage | str] = []
        for upload, count in zip(uploads, pixels, strict=True):
            if isinstance(count, str):
                opened.append(count)
                continue
            try:
                opened.append(open_upload(upload.data, upload.name, self.limits.max_bytes))
            except UserError as error:
                opened.append(describe_reason(error))
        return opened

    def add(self, name: str, uploads: Sequence[Upload]) -> dict:
        """Adds a class, or images to one; see ``KeptClasses.add``.

        Raises:
            UserError: The name or an image is not accepted; nothing is added then.
        """
        check_upload_name(name)
        with self.admission.admit(0, 3 * sum(upload_pixels(upload.data, upload.name) for upload in uploads)):
            images = [open_upload(upload.data, upload.name, self.limits.max_bytes) for upload in uploads]
            return asdict(self.classes.add(name, images))


def _pixels_or_reason(upload: Upload) -> int | str:
    try:
        return upload_pixels(upload.data, upload.name)
    except UserError as error:
        return describe_reason(error)


def _outcome(result: Recognition) -> str:
    return "failed" if result.error else "ranked" if result.ranked else "gated"


def build_app(service: Service, token: str) -> FastAPI:
    """Builds the application; the models' thread ends with it.

    Args:
        service: What it serves.
        token: Token for changes of classes; empty: they can't be changed.
    """

    @asynccontextmanager
    async def run_batcher(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.batcher.close)

    app = FastAPI(
        title="Retrieve and rank",
        description="Finds candidates for an image in a memory of classes, and ranks them with an MLLM.",
        lifespan=run_batcher,
    )
    app.add_middleware(Gate, token=token, limits=service.limits, bodies=service.bodies, metrics=service.metrics)
    _add_recognition(app, service)
    _add_classes(app, service)
    _add_status(app, service)
    _add_error_handlers(app)
    return app


def _add_recognition(app: FastAPI, service: Service) -> None:
    @app.post("/recognise", response_model=schema.Results, responses=_ERRORS)
    async def recognise(
        images: Annotated[list[UploadFile], File(description="PNG, JPEG, WebP, BMP, GIF or TIFF")],
        top: Annotated[int | None, Form(ge=1, description="candidates in the response; by default all")] = None,
        k: Annotated[int | None, Form(ge=1, description="candidates that the ranker sees")] = None,
    ) -> JSONResponse:
        """Recognises images among the classes. Status 422 where none of them can be read."""
        max_k = service.recognizer.max_k
        check(k is None or k <= max_k, f"k={k}: at most {max_k}")
        async with service.reading(images) as uploads:
            results = await service.recognise(uploads, k)
        named = [{"file": u.name} | r.to_dict(top) for u, r in zip(uploads, results, strict=True)]
        if all(result.error for result in results):
            return JSONResponse({"detail": "no image can be recognised", "results": named}, 422)
        return JSONResponse({"results": named})


def _add_classes(app: FastAPI, service: Service) -> None:
    token = Security(HTTPBearer(auto_error=False, description="RAR_SERVE_TOKEN of the service"))  # checked by the gate

    @app.get("/classes", response_model=schema.Classes)
    def list_classes() -> dict:
        """Lists the classes."""
        return {"classes": [{"name": name, "images": count} for name, count in service.classes.list().items()]}

    @app.post("/classes", response_model=schema.AddedClass, responses=_CHANGE_ERRORS, dependencies=[token])
    async def add_class(name: Annotated[str, Form()], images: Annotated[list[UploadFile], File()] = []) -> dict:  # noqa: B006
        """Adds a class by its name and, if given, images; or adds images to a class. Nothing is trained."""
        async with service.reading(images) as uploads:
            return await run_in_threadpool(service.add, name, uploads)

    @app.delete(
        "/classes/{name:path}",
        response_model=schema.ClassEntry,
        responses=_CHANGE_ERRORS | {404: {"model": schema.Failure}},
        dependencies=[token],
    )
    def remove_class(name: str) -> dict:
        """Removes a class."""
        return service.classes.remove(name)


def _add_status(app: FastAPI, service: Service) -> None:
    def count_classes() -> int:
        return len(service.recognizer.memory.memories.names)

    @app.get("/health", response_model=schema.Health)
    async def health(response: Response) -> dict:
        """Says whether the service works; status 503 where it does not."""
        is_alive = service.batcher.is_alive
        response.status_code = 200 if is_alive else 503
        status = "ok" if is_alive else "the models' thread has ended; start the service again"
        return {"status": status, "classes": count_classes(), "waiting_images": service.admission.images}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Counts and times, in Prometheus's text format."""
        gauges = {
            "rar_classes": ("Classes in the memory.", count_classes()),
            "rar_waiting_images": ("Images that wait or are being recognised.", service.admission.images),
        }
        return PlainTextResponse(service.metrics.text(gauges), media_type="text/plain; version=0.0.4")


def _add_error_handlers(app: FastAPI) -> None:
    statuses = {UserError: 422, NoSuchClass: 404, TooLarge: 413}

    def report(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, statuses.get(type(error), 422))

    for kind in statuses:
        app.add_exception_handler(kind, report)

    @app.exception_handler(Busy)
    async def report_busy(_: Request, __: Busy) -> JSONResponse:
        return busy_response()
