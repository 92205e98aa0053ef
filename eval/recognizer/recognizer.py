"""Retrieve-and-rank recognition as a class: a memory of the user's classes, a retriever and a ranker."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import RLock

import numpy as np
from PIL import Image

from data_prep.core.command import quiet_calls
from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.records import Candidate, Ranking
from data_prep.embedding.encoder import Encoder, load_encoder
from data_prep.embedding.image_inputs import ImageInput, OpenedImage, check_is_list, describe_reason, open_batches
from data_prep.embedding.pair import for_images
from data_prep.prompting.prompts import LETTERS
from data_prep.settings import check
from data_prep.settings.validate import check_whole
from eval.calibration.choice import Choice, apply_settings
from eval.calibration.fusion import mark_new
from eval.calibration.open_set import Refusal, open_set_signals
from eval.calibration.store import choices_path, load_choices
from eval.ranking.ranker import Ranker
from eval.recognizer.class_lists import Classes, ClassTexts, read_test_classes
from eval.recognizer.class_memory import ClassMemory
from eval.recognizer.new_images import query_uncached
from eval.recognizer.result import Recognition
from eval.recognizer.saved import Origin, read_origin, write_origin
from rar_train.engine.run_folder import find_adapter

log = logging.getLogger(__name__)


class Recognizer:
    """Recognises images among classes that it was never trained on.

    Several threads may use it: the models and the memory are used by one of them at a time (``lock``), images are
    decoded by all.

    Args:
        ranker: Ranks what is retrieved; its recipe has the retriever's settings.
        encoder: Embeds images and names.
        classes: The classes of the memory; see ``remember``.
        choices: How to rank, chosen on validation images, by kind of memory; without any, the settings are used, the
            ranker's order is kept and every image is ranked.
        refusal: Fitted threshold for unknown classes, or None.
        texts: What the encoder reads of the classes; None: their names and, in a folder, ``descriptions.json``.

    Example:
        >>> from eval import Recognizer
        >>> recognizer = Recognizer.from_pretrained("runs/ranker_lora", "photographs", "eval.k=2")
        >>> result = recognizer.predict(["photographs/cross/0.png"])[0]
        >>> result.name in ("bend", "cross", "saltire")
        True
        >>> recognizer.memory.add("fess", ["photographs/cross/1.png"])  # a new class; nothing is trained
        1
        >>> recognizer.memory.remove("fess")
        1
        >>> recognizer.save("memory")  # and later, perhaps in another process:
        >>> sorted(Recognizer.load("memory").memory.classes)
        ['bend', 'cross', 'saltire']
    """

    def __init__(
        self,
        ranker: Ranker,
        encoder: Encoder,
        classes: Classes,
        choices: Mapping[str, Choice] | None = None,
        refusal: Refusal | None = None,
        texts: ClassTexts | None = None,
    ):
        self.ranker, self.encoder, self.recipe = ranker, encoder, ranker.recipe
        self.choices, self.refusal = choices or {}, refusal
        self.lock = RLock()
        self.origin: Origin | None = None
        self.remember(classes, texts)

    @classmethod
    @quiet_calls()
    def from_pretrained(cls, run: str | Path, classes: Classes | None = None, *settings: str) -> Recognizer:
        """Loads a run's retriever and ranker, and remembers classes.

        What ``eval.run`` chose on the run's validation split is used: source and number of candidates (where
        ``eval.candidates`` and ``eval.k`` are ``auto``), fusion and gate (unless ``eval.fusion=false``), and the
        threshold for unknown classes where there is one.

        Args:
            run: A folder that ``rar_train.fit`` wrote, or one of its checkpoints.
            classes: See ``remember``; None for those of the run's own test split.
            *settings: As on the command line, such as ``eval.k=10``.

        Raises:
            UserError: A part can't be loaded, or ``eval.fusion=true`` is set but nothing was fitted.
        """
        ranker = Ranker.from_pretrained(run, *settings)
        adapter, folder = find_adapter(Path(run))
        recipe = ranker.recipe
        path = choices_path(folder, recipe.ranker.mode_label, adapter)
        encoder = load_encoder(recipe.retriever)
        choices, refusal = load_choices(path, read_json(adapter / "manifest.json")["adapter"], encoder.id)
        command = f"python -m eval.run --ckpt {run} --split val --mode {recipe.ranker.mode}"
        if recipe.eval.fusion and not any(choice.fusion for choice in choices.values()):
            raise UserError(f"{path}: nothing fitted yet; first run {command} eval.fusion=true")
        if not choices and recipe.fuses:
            count = recipe.eval.fixed_k
            log.warning("nothing chosen yet: %d candidates, without fusion. To choose the best: %s", count, command)
        texts = None
        if classes is None:
            recipe.retriever, classes, texts = read_test_classes(recipe)
        recognizer = cls(ranker, encoder, classes, choices, refusal, texts)
        recognizer.origin = Origin.of(Path(run), adapter, settings)
        return recognizer

    def save(self, folder: str | Path) -> None:
        """Writes the memory to a folder, with a note of the run; the run's models stay where they are.

        The folder can also be given as classes, to this class and to commands. Images are kept as vectors alone, so
        there are no examples afterwards. What is there is replaced atomically.
        """
        with self.lock:
            self.memory.save(Path(folder))
            write_origin(Path(folder), self.origin)

    @classmethod
    def load(cls, folder: str | Path, run: str | Path | None = None, *settings: str) -> Recognizer:
        """Loads what ``save`` wrote.

        Args:
            folder: The folder.
            run: The run, where it has been moved since; its adapter must be the same.
            *settings: Settings that override those of the saved recognizer.

        Raises:
            UserError: The run is not there or was trained again since, the memory is damaged, or the saved settings
                name a path that this user never gave.
        """
        origin = read_origin(Path(folder), settings)
        run = run or origin.run
        origin.check_adapter(Path(run), Path(folder))
        return cls.from_pretrained(run, folder, *origin.settings, *settings)

    @quiet_calls()
    def remember(self, classes: Classes, texts: ClassTexts | None = None) -> None:
        """Replaces the memory; nothing is trained. ``memory.add`` and ``memory.remove`` change it by a class.

        Args:
            classes: The path of a folder per class, a folder of splits or a table (whose training images are taken), a
                list of names, or a kept memory; image files by class name; or names alone.
            texts: What the encoder reads of the classes; None: their names and, in a folder, ``descriptions.json``.

        Raises:
            UserError: An image is missing or does not decode; with ``data.on_error=skip`` it is left
                out and counted in the log.
        """
        with self.lock:
            self.memory = ClassMemory(self.encoder, self.recipe, classes, texts, self.lock)
            self.ranker.descriptions = self.memory.descriptions
        if self.choices and self._stored_choice is None:
            kinds, content = ", ".join(self.choices), "names and images" if self.memory.shots else "names alone"
            log.warning("ranking was chosen for %s, but not for a memory of %s: every image is ranked", kinds, content)

    @property
    def _stored_choice(self) -> Choice | None:
        """The choice that was made with this kind of memory: names alone, or the nearest number of images per class.

        For a memory with images, the choice for the full training set is used only where none was made with sampled
        images.
        """
        shots = self.memory.shots
        if not shots:
            return self.choices.get("zero_shot-0")
        counts = [int(kind.removeprefix("few_shot-")) for kind in self.choices if kind.startswith("few_shot-")]
        if not counts:
            return self.choices.get("whole_set-0")
        return self.choices[f"few_shot-{min(counts, key=lambda count: (abs(count - shots), count))}"]

    @property
    def choice(self) -> Choice:
        """How images are ranked with this memory: what was chosen on validation images, unless the settings say."""
        return apply_settings(self.recipe, self._stored_choice, "fused" if self.memory.shots else "name")

    @property
    def max_k(self) -> int:
        """The largest number of candidates that makes sense: in mode ``letters`` the letters, else ``eval.k_max``."""
        return len(LETTERS) if self.recipe.ranker.mode == "letters" else max(self.recipe.eval.k_max, self.choice.k)

    def predict(
        self, images: Iterable[ImageInput | OpenedImage], k: int | None = None, on_error: str = "raise"
    ) -> list[Recognition]:
        """Recognises images; see ``predict_iter``."""
        return list(self.predict_iter(images, k, on_error=on_error))

    def predict_iter(
        self,
        images: Iterable[ImageInput | OpenedImage],
        k: int | None = None,
        batch_size: int | None = None,
        on_error: str = "raise",
    ) -> Iterator[Recognition]:
        """Recognises images as they come, in their order; only a batch of them is in memory at a time.

        Args:
            images: Files, their bytes, file objects, PIL images, or arrays of uint8: grey ``[height, width]``, RGB
                ``[height, width, 3]`` or RGBA ``[height, width, 4]``. A list or an iterator, for one image too.
            k: Candidates that the ranker sees; None: what was chosen. Never more than there are classes.
            batch_size: Images that are decoded and recognised together; by default the larger one of
                ``retriever.batch_size`` and ``eval.batch_size``. Fewer where they are large (``MAX_DECODED_BYTES``).
            on_error: ``raise``, or ``skip``: an image that cannot be recognised has a result with ``error``.

        Yields:
            Recognition: A result per image.

        Raises:
            UserError: An image is missing or does not decode (``raise``), every image of a batch of several is refused
                by the models, ``images`` is a single image, or an argument is out of range.
        """
        check_is_list(images)
        for name, value in (("k", k), ("batch_size", batch_size)):
            if value is not None:
                check_whole(name, value)
        has_letters = k is None or self.recipe.ranker.mode != "letters" or k <= len(LETTERS)
        check(has_letters, f"k={k}: mode letters has {len(LETTERS)} letters")
        size = batch_size or max(self.recipe.retriever.batch_size, self.recipe.eval.batch_size)
        check(on_error in ("raise", "skip"), f"on_error={on_error!r}: give 'raise' or 'skip'")
        return self._predict_batches(images, k, size, on_error == "skip")

    def _predict_batches(
        self, images: Iterable[ImageInput | OpenedImage], k: int | None, size: int, skip: bool
    ) -> Iterator[Recognition]:
        for batch in open_batches(images, size, skip):
            opened = [image for image in batch if isinstance(image, OpenedImage)]
            results = iter(self._recognise_or_skip(opened, k) if skip else self._recognise(opened, k))
            for image in batch:
                yield Recognition.from_error(image) if isinstance(image, str) else next(results)

    def _recognise_or_skip(self, images: Sequence[OpenedImage], k: int | None) -> list[Recognition]:
        """Recognises a batch; where that fails, its images one by one, each with its result or what is wrong with it.

        Raises:
            UserError: Any image fails, a plain one too; or a server does, which was asked often enough.
        """
        try:
            return self._recognise(images, k)
        except (UserError, ValueError):  # a processor refuses some images, such as those of a few pixels
            if self.recipe.ranker.backend != "local":
                raise
            results = []
            for image in images:
                try:
                    results += self._recognise([image], k)
                except (UserError, ValueError) as own_error:
                    results.append(Recognition.from_error(describe_reason(own_error)))
            if all(result.error for result in results):
                self._recognise([OpenedImage(Image.new("RGB", (224, 224), "grey"), "plain")], k)
            return results

    def _recognise(self, images: Sequence[OpenedImage], k: int | None) -> list[Recognition]:
        """Recognises a batch of decoded images with the models, alone among the threads."""
        if not images:
            return []
        with self.lock:
            xq = query_uncached(self.encoder, [image.image for image in images], self.recipe)
            choice = self.choice
            candidates, similarities = self.memory.candidates(xq, k or choice.k, choice.source, choice.adapters)
            similarities = mark_new(similarities, candidates, choice.tuned_classes)
            examples = [self.memory.examples(query, row) for query, row in zip(for_images(xq), candidates, strict=True)]
            ranked = self._rank(images, choice, candidates, similarities, examples)
        return [
            self._make_recognition(choice, row, similarities[i : i + 1], examples[i], ranked.get(i))
            for i, row in enumerate(candidates)
        ]

    def _rank(
        self,
        images: Sequence[OpenedImage],
        choice: Choice,
        candidates: Sequence[tuple[Candidate, ...]],
        similarities: np.ndarray,
        examples: Sequence[tuple[str | None, ...]],
    ) -> dict[int, tuple[Ranking, float]]:
        """Ranks the candidates of the images that need it, and returns ranking and score by index."""
        to_rank = np.flatnonzero(_needs_ranker(choice, similarities)).tolist()
        shown = None
        if self.recipe.eval.show_exemplars:
            files = [[file for file in examples[i] if file] for i in to_rank]
            shown = [row if len(row) == len(examples[i]) else [] for row, i in zip(files, to_rank, strict=True)]
        names = [[candidate.name for candidate in candidates[i]] for i in to_rank]
        self.ranker.permutations = choice.permutations
        rankings = self.ranker.rank_with_scores([images[i] for i in to_rank], names, shown)
        return dict(zip(to_rank, rankings, strict=True))

    def _make_recognition(
        self,
        choice: Choice,
        candidates: tuple[Candidate, ...],
        similarities: np.ndarray,
        examples: tuple[str | None, ...],
        ranked: tuple[Ranking, float] | None,
    ) -> Recognition:
        ranking, score = ranked or (None, 0.0)
        refused = self.refusal.refuses(open_set_signals(candidates, ranking, score)) if self.refusal else None
        fusion = choice.fusion
        if ranking is None:
            assert fusion is not None  # without one, every image is ranked
            (ranking,) = fusion.retriever_rankings(similarities)
        elif fusion and ranking.probabilities:
            (ranking,) = fusion.calibrate([ranking]) if choice.method == "rar" else fusion.fuse([ranking], similarities)
        return Recognition(
            tuple(candidates[index].name for index in ranking.order),
            tuple(ranking.probabilities[index] for index in ranking.order if ranking.probabilities),
            candidates,
            ranked is not None,
            None if refused is None else not refused,
            ranking.outcome,
            examples,
        )


def _needs_ranker(choice: Choice, similarities: np.ndarray) -> np.ndarray:
    """Whether each image is ranked, shape ``[n]``: none where the retriever alone is better, else as the gate says."""
    if choice.fusion is None or choice.method == "rar":
        return np.ones(len(similarities), bool)
    if choice.method == "retriever":
        return np.zeros(len(similarities), bool)
    return choice.fusion.needs_ranker(similarities)
