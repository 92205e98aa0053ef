"""Labels images: lists them, opens the memory of classes, runs the recognizer on all processes, writes the file."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from data_prep.core.errors import Interrupted
from data_prep.core.files import file_hash, file_lock, read_json, read_sealed
from data_prep.distributed.devices import resolve_accelerator
from data_prep.distributed.spawning import make_predict_trainer, run_predict
from data_prep.embedding.embedding import count_workers
from data_prep.embedding.encoder import load_encoder
from data_prep.memory.memory import Memory
from data_prep.settings import RankerArgs, Recipe, check
from data_prep.settings.loading import load_saved_recipe
from data_prep.settings.notes import embedded_model_note
from eval.calibration.store import choices_path
from eval.predict.inputs import check_inputs, list_items
from eval.predict.job import Job
from eval.predict.module import PredictModule
from eval.predict.page import MAX_IMAGES, write_page
from eval.predict.sharing import Sharing
from eval.predict.summary import MIN_CANDIDATES, Summary
from eval.predict.writing import WRITERS, check_output
from eval.recognizer.class_lists import check_classes, read_test_classes
from eval.recognizer.class_memory import ClassMemory
from eval.recognizer.recognizer import Recognizer
from rar_train.engine.run_folder import find_adapter
from rar_train.models.adapter_manifest import read_adapter_manifest, shortfall

log = logging.getLogger(__name__)

_LOCK_SECONDS = 5
_WORKER_BATCH = 16  # images; ``count_workers`` wants eight such batches for each worker
# Settings of a server that leave its answers as they are, so a job can be continued with others.
_REQUEST_SETTINGS = ("base_url", "adapter_url", "max_concurrency", "timeout_s", "max_retries", "max_requests")


@dataclass(frozen=True)
class Request:
    """What to label, and how.

    Attributes:
        ckpt: A run's folder, or one of its checkpoints.
        inputs: Images; see ``list_items``.
        output: The file to write.
        classes: A path of classes, as ``Recognizer`` takes it; None for the run's test classes.
        image_root: Folder that the image names of annotation files are relative to; None for the file's own.
        top: Candidates per line; None for ``eval.k``, or 5 where that is ``auto``.
        page: Whether to write the page of the most uncertain labels too.
        settings: Settings that override the run's recipe, as ``key.sub=value``.
    """

    ckpt: Path
    inputs: Sequence[Path]
    output: Path
    classes: Path | None = None
    image_root: Path | None = None
    top: int | None = None
    page: bool = False
    settings: Sequence[str] = ()


def label_images(request: Request) -> Summary | None:
    """Labels images, and writes a line for each of them in their order.

    Killed and called again, it continues. Several processes and machines share the work; the last one to end writes the
    file.

    Returns:
        Summary | None: Counts; None where another command of the job writes the file.

    Raises:
        UserError: The file exists, an input or a model can't be read, or the job was begun with other images or
            settings.
    """
    adapter, run = find_adapter(request.ckpt)
    recipe = load_saved_recipe(run / "recipe.yaml", list(request.settings))
    most = recipe.eval.k_max if isinstance(recipe.eval.k, str) else recipe.eval.k
    top = recipe.eval.fixed_k if request.top is None else request.top
    check(1 <= top <= most, f"--top {top}: must be in 1..{most}; for more candidates, raise eval.k")
    check_output(request.output)
    check_inputs(request.inputs)
    labelling = _Labelling(request, recipe, adapter, run, top)
    for path in (request.output, *[request.output.with_suffix(".html")] * request.page):
        check(labelling.job.exists or not path.exists(), f"{path}: exists; give another --to FILE, or move it away")
    sharing = labelling.sharing
    _check_limit(recipe.ranker, sharing.processes)
    with sharing.coordinate(Path(recipe.cache), request.output) as processes, labelling.lock():
        processes.after_first("list of images", labelling.begin)
        labelling.predict()
        return labelling.finish()


def _check_limit(ranker: RankerArgs, processes: int) -> None:
    """Checks that a spending limit is that of the whole job: processes count their requests each on its own."""
    limit = ranker.server.max_requests if ranker.backend == "openai" else None
    check(
        limit is None or processes == 1,
        f"ranker.server.max_requests={limit}: limits one process, and {processes} would share the images; label them "
        "with one process (trainer.devices=1, no launcher), or set ranker.server.max_requests=null",
    )


class _Labelling:
    """The steps of labelling: the first command of a job takes all of them, the others the last two.

    Args:
        request: What to label.
        recipe: The run's recipe with the request's settings.
        adapter: The run's adapter.
        run: The run's folder.
        top: Candidates per line.
    """

    def __init__(self, request: Request, recipe: Recipe, adapter: Path, run: Path, top: int):
        self.request, self.recipe, self.adapter, self.run, self.top = request, recipe, adapter, run, top
        self.sharing, self.job = Sharing.find(recipe.trainer), Job(request.output)
        self.classes = check_classes(request.classes)
        self.load = partial(Recognizer.from_pretrained, request.ckpt, self.classes, *request.settings)
        self.recognizer: Recognizer | None = None

    def lock(self) -> AbstractContextManager[None]:
        """Keeps a second call of the first command out."""
        is_first = self.sharing.command == 0
        return file_lock(self.job.folder / "job", _LOCK_SECONDS) if is_first else nullcontext()

    def begin(self) -> None:
        """Lists the images and opens the memory, and checks both against those that the job was begun with."""
        retriever = self.recipe.retriever
        left_out: Counter[str] = Counter()
        items = list_items(self.request.inputs, self.request.image_root, left_out)
        is_new = not self.job.exists
        try:
            state = self.job.write_list(items, max(retriever.batch_size, self.recipe.eval.batch_size))
            if left_out:
                counts = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
                entries = "1 file or folder" if left_out.total() == 1 else f"{left_out.total()} files and folders"
                log.info("images: passed over %s (%s)", entries, counts)
            pending = self.job.begin(state, self._dependencies())
        except BaseException:
            if is_new:
                self.job.remove()
            raise
        done = self.job.images - self.job.count_images(pending)
        log.info("images: %d to label%s", self.job.images, f", of which {done} are labelled already" if done else "")

    def _open_memory(self) -> ClassMemory:
        """Opens the memory once, before other processes do; alone, with the recognizer that then labels."""
        if self.sharing.processes == 1:
            self.recognizer = self.load()
            return self.recognizer.memory
        recipe, classes, texts = replace(self.recipe), self.classes, None
        encoder = load_encoder(recipe.retriever, replace(recipe.trainer, num_nodes=1))
        if classes is None:
            recipe.retriever, classes, texts = read_test_classes(recipe)
        return ClassMemory(encoder, recipe, classes, texts)

    def _dependencies(self) -> dict:
        """Returns everything but the images that the lines depend on."""
        memory, recipe = self._open_memory(), self.recipe
        choices = choices_path(self.run, recipe.ranker.mode_label, self.adapter)
        ranker, retriever, evaluation = asdict(recipe.ranker), asdict(recipe.retriever), asdict(recipe.eval)
        for key in _REQUEST_SETTINGS:
            del ranker["server"][key]
        for key in ("batch_size", "num_workers"):
            retriever.pop(key, None)
            evaluation.pop(key, None)
        return {
            "adapter": read_json(self.adapter / "manifest.json")["adapter"],
            "encoder": memory.encoder.id,
            "classes": _memory_hash(memory),
            "choices": file_hash(choices) if choices.exists() else None,
            "top": self.top,
            "ranker": ranker,
            "retriever": retriever,
            "eval": evaluation,
        }

    def predict(self) -> None:
        """Labels this command's share of the missing parts."""
        job, sharing, recognizer = self.job, self.sharing, self.recognizer
        job.load()
        pending = job.pending()
        first = sharing.command * sharing.devices
        share = [part for i, part in enumerate(pending) if 0 <= i % sharing.processes - first < sharing.devices]
        if not share:
            return
        workers = count_workers(self.recipe.retriever.num_workers, sharing.on_machine, job.images // _WORKER_BATCH)
        load = self.load if recognizer is None else lambda: recognizer
        kept = max(self.top, MIN_CANDIDATES)
        module = PredictModule(load, job, pending, sharing.processes, first, workers, kept)
        trainer = make_predict_trainer(resolve_accelerator(self.recipe.trainer), sharing.devices)
        started = time.monotonic()
        try:
            run_predict(trainer, module)
        except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
            raise Interrupted("interrupted; the same command goes on from the images that are labelled") from None
        count, seconds = job.count_images(share), time.monotonic() - started
        log.info("labelled %d images in %.1f s, %.1f images/s", count, seconds, count / seconds)

    def finish(self) -> Summary | None:
        """Writes the file, if this is the last command to end."""
        job, output = self.job, self.request.output
        if not job.exists:
            return None
        with file_lock(job.folder / "file"):
            if not job.exists:  # another command has just written the file, and the lock made the folder again
                job.remove()
                return None
            if self.sharing.commands > 1 and not job.is_complete:
                log.info("process %d: done; the last one to end writes %s", self.sharing.command, output)
                return None
            summary = Summary(keep=MAX_IMAGES if self.request.page else 0, notes=self._notes())
            WRITERS[output.suffix](output, _records(job, summary, self.top), self.top)
            if self.request.page:
                write_page(output.with_suffix(".html"), job, summary, self.recipe.retriever.regions)
            job.remove()
        return summary

    def _notes(self) -> list[str]:
        """Says what to know before believing the labels.

        That models are embedded ones, where the classes are the user's own, or the run's data are; and that the ranker
        was below the retriever in its training's last validation, where no evaluation has chosen between the two.
        """
        classes, data, run = self.request.classes, self.recipe.data, self.run
        name = data.name if classes is None else classes.name
        notes = [embedded_model_note(replace(self.recipe, data=replace(data, name=name)))]
        path = choices_path(run, self.recipe.ranker.mode_label, self.adapter)
        choices = read_sealed(path)["choices"].values() if path.exists() else ()
        if not any(choice["curve"] for choice in choices):
            notes.append(shortfall(self.recipe, read_adapter_manifest(self.adapter)))
        return [note for note in notes if note]


def _records(job: Job, summary: Summary, top: int) -> Iterator[list[dict]]:
    """Yields the records of each part with the candidates to write, and counts them."""
    for lines in job.parts():
        records = [json.loads(line) for line in lines]
        for record in records:
            summary.add(record)
            del record["candidates"][top:]
        yield records


def _memory_hash(memory: ClassMemory) -> str:
    """Hashes the entries of a memory, wherever its images lie."""
    digest = hashlib.sha256()
    parts: tuple[Memory | None, ...] = (memory.memories.names, memory.memories.images)
    for part in parts:
        for entry in part.entries if part else ():
            digest.update(repr((entry.label, entry.digest or entry.key)).encode())
    return digest.hexdigest()[:16]
