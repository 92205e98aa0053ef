"""Retrieve-and-rank recognition as a class: a memory of the user's classes, a retriever and a ranker."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.records import Candidate, Ranking
from data_prep.embedding.encoder import Encoder, load_encoder
from data_prep.settings import check
from eval.calibration.fusion import Fusion
from eval.calibration.open_set import Refusal, open_set_signals
from eval.calibration.store import fits_path, load_fits
from eval.ranking.ranker import ImageInput, Ranker
from eval.recognition.class_memory import Classes, ClassMemory, embed_uncached, read_test_classes
from rar_train.engine.run_folder import find_adapter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recognition:
    """The result for one image.

    Attributes:
        names: The candidates, best first.
        probabilities: Probabilities of ``names``, summing to 1; empty in the modes that write a list.
        candidates: The candidates in retriever order, with their similarities.
        ranked: Whether the ranker was run; false where the gate skipped it.
        known: Whether the image shows one of the classes at all; None where no threshold was fitted, or where the
            threshold is on the ranker's score and the gate skipped the ranker.
        outcome: Outcome of parsing the ranker's reply.
        examples: The most similar image in the memory of each of ``candidates``; None for a class without images.
    """

    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    candidates: tuple[Candidate, ...]
    ranked: bool
    known: bool | None
    outcome: str
    examples: tuple[str | None, ...]

    @property
    def name(self) -> str:
        """The best candidate."""
        return self.names[0]


class Recognizer:
    """Recognises images among classes that it was never trained on.

    Args:
        ranker: Ranks what is retrieved; its recipe has the retriever's settings.
        encoder: Embeds images and names.
        classes: The classes of the memory; see ``remember``.
        fusions: Fitted fusions by kind of memory; without any, the ranker's order is kept and every image is ranked.
        refusal: Fitted threshold for unknown classes, or None.
        texts: What the encoder encodes in place of a name, by name.

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
    """

    def __init__(
        self,
        ranker: Ranker,
        encoder: Encoder,
        classes: Classes,
        fusions: Mapping[str, Fusion] | None = None,
        refusal: Refusal | None = None,
        texts: Mapping[str, str] | None = None,
    ):
        self.ranker, self.encoder, self.recipe = ranker, encoder, ranker.recipe
        self.fusions, self.refusal = fusions or {}, refusal
        self.remember(classes, texts)

    @classmethod
    def from_pretrained(cls, run: str | Path, classes: Classes | None = None, *settings: str) -> Recognizer:
        """Loads a run's retriever and ranker, and remembers classes.

        What ``eval.run`` fitted on the run's validation split is used: the threshold for unknown
        classes where there is one, fusion and gate with ``eval.fusion=true``.

        Args:
            run: A folder that ``rar_train.fit`` wrote, or one of its checkpoints.
            classes: See ``remember``; None for those of the run's own test split.
            *settings: As on the command line, such as ``eval.k=10``.

        Raises:
            UserError: A part can't be loaded, or fusion is set but was not fitted.
        """
        ranker = Ranker.from_pretrained(run, *settings)
        adapter, folder = find_adapter(Path(run))
        recipe = ranker.recipe
        path = fits_path(folder, recipe.ranker.mode, adapter)
        encoder = load_encoder(recipe.retriever)
        fusions, refusal = load_fits(path, read_json(adapter / "manifest.json")["adapter"], encoder.id)
        if recipe.eval.fusion and not fusions:
            raise UserError(
                f"{path}: nothing fitted yet; first run "
                f"python -m eval.run --ckpt {run} --split val --mode {recipe.ranker.mode} eval.fusion=true"
            )
        texts = None
        if classes is None:
            recipe.retriever, classes, texts = read_test_classes(recipe)
        return cls(ranker, encoder, classes, fusions if recipe.eval.fusion else {}, refusal, texts)

    def remember(self, classes: Classes, texts: Mapping[str, str] | None = None) -> None:
        """Replaces the memory; nothing is trained. ``memory.add`` and ``memory.remove`` change it by a class.

        Args:
            classes: A folder with a folder of images per class, image files by class name, or names alone.
            texts: What the encoder encodes in place of a name, by name.

        Raises:
            UserError: An image is missing or does not decode; with ``data.on_error=skip`` it is left
                out and counted in the log.
        """
        self.memory = ClassMemory(self.encoder, self.recipe, classes, texts)
        if self.fusions and self.fusion is None:
            kinds, content = ", ".join(self.fusions), "names and images" if self.memory.shots else "names alone"
            log.warning("fusion: fitted for %s, but not for a memory of %s: every image is ranked", kinds, content)

    @property
    def fusion(self) -> Fusion | None:
        """The fusion that was fitted with this kind of memory: names alone, or the nearest number of images per class.

        For a memory with images, the fusion of the full training set is used only where none was fitted on sampled
        images. None where nothing was fitted on such memories; every image is ranked then, and the ranker's order kept.
        """
        shots = self.memory.shots
        if not shots:
            return self.fusions.get("zero_shot-0")
        fitted = [int(kind.removeprefix("few_shot-")) for kind in self.fusions if kind.startswith("few_shot-")]
        if not fitted:
            return self.fusions.get("whole_set-0")
        return self.fusions[f"few_shot-{min(fitted, key=lambda count: (abs(count - shots), count))}"]

    def predict(self, images: Sequence[ImageInput], k: int | None = None) -> list[Recognition]:
        """Recognises images.

        Args:
            images: Files, or images in memory.
            k: Candidates that the ranker sees; the recipe's ``eval.k`` if None, and never more than there are classes.

        Raises:
            UserError: An image is missing or does not decode, ``images`` is not a list, or k is below 1.
        """
        check(not isinstance(images, (str, Path, Image.Image)), "give images as a list, [image] for one")
        check(k is None or k >= 1, f"k={k}: must be at least 1")
        if not images:
            return []
        xq = embed_uncached(self.encoder, images, self.recipe)
        candidates = self.memory.candidates(xq, k or self.recipe.eval.k)
        scores = [[candidate.score for candidate in row] for row in candidates]
        fusion = self.fusion
        to_rank = [index for index, row in enumerate(scores) if fusion is None or fusion.needs_ranker(row)]
        examples = [self.memory.examples(query, row) for query, row in zip(xq, candidates, strict=True)]
        shown = None
        if self.recipe.eval.show_exemplars:
            files = [[file for file in examples[i] if file] for i in to_rank]
            shown = [row if len(row) == len(examples[i]) else [] for row, i in zip(files, to_rank, strict=True)]
        names = [[candidate.name for candidate in candidates[i]] for i in to_rank]
        rankings = self.ranker.rank_with_scores([images[i] for i in to_rank], names, shown)
        ranked = dict(zip(to_rank, rankings, strict=True))
        return [self._make_recognition(row, examples[i], ranked.get(i), fusion) for i, row in enumerate(candidates)]

    def _make_recognition(
        self,
        candidates: tuple[Candidate, ...],
        examples: tuple[str | None, ...],
        ranked: tuple[Ranking, float] | None,
        fusion: Fusion | None,
    ) -> Recognition:
        scores = [candidate.score for candidate in candidates]
        ranking, score = ranked or (None, 0.0)
        refused = self.refusal.refuses(open_set_signals(candidates, ranking, score)) if self.refusal else None
        if ranking is None:
            assert fusion is not None  # without a gate, every image is ranked
            ranking = fusion.retriever_ranking(scores)
        elif fusion and ranking.probabilities:
            ranking = fusion.fuse(ranking, scores)
        return Recognition(
            tuple(candidates[index].name for index in ranking.order),
            tuple(ranking.probabilities[index] for index in ranking.order if ranking.probabilities),
            candidates,
            ranked is not None,
            None if refused is None else not refused,
            ranking.outcome,
            examples,
        )
