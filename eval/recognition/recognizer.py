"""The whole of it as a class: a memory of the user's classes, the retriever before the ranker."""

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
from eval.ranking.ranker import Picture, Ranker
from eval.recognition.class_memory import Classes, ClassMemory, embed_pictures, own_classes
from rar_train.engine.run_folder import find_adapter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recognition:
    """What an image shows.

    Attributes:
        names: The candidates, best first.
        probabilities: Of ``names``, summing to 1; empty in the modes that write a list.
        candidates: In retriever order, with their similarities.
        ranked: Whether the ranker was asked; false where the gate kept the image back.
        known: Whether it shows one of the classes at all; None where no threshold was fitted, or where it goes by
            the ranker and the gate kept the image back.
        outcome: Of reading the ranker's reply.
        examples: The most similar remembered image of each of ``candidates``; None for a class without images.
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
        classes: What to remember; see ``remember``.
        fusions: Fitted fusions by kind of memory; without any the ranker's order stands and every image is ranked.
        refusal: Fitted threshold for unknown classes, or None.
        texts: What the encoder reads for a name that is not listed as it is.
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
            UserError: A part can't be had, or fusion is asked for and was not fitted.
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
            recipe.retriever, classes, texts = own_classes(recipe)
        return cls(ranker, encoder, classes, fusions if recipe.eval.fusion else {}, refusal, texts)

    def remember(self, classes: Classes, texts: Mapping[str, str] | None = None) -> None:
        """Replaces the memory; nothing is trained. ``memory.add`` and ``memory.remove`` change it by a class.

        Args:
            classes: A folder with a folder of images per class, image files by class name, or names alone.
            texts: What the encoder reads for a name that is not listed as it is.

        Raises:
            UserError: An image is missing or does not decode; with ``data.on_error=skip`` it is left
                out and counted in the log.
        """
        self.memory = ClassMemory(self.encoder, self.recipe, classes, texts)
        if self.fusions and self.fusion is None:
            kinds, own = ", ".join(self.fusions), "names and images" if self.memory.shots else "names alone"
            log.warning("fusion: fitted for %s, but not for a memory of %s: every image is ranked", kinds, own)

    @property
    def fusion(self) -> Fusion | None:
        """The fusion that was fitted with such a memory: names alone, or the nearest number of images a class.

        Of a memory with images it is one of the whole training set only where none was fitted on drawn images. None
        where nothing was fitted on such memories; every image is ranked then, and the ranker's order is kept.
        """
        shots = self.memory.shots
        if not shots:
            return self.fusions.get("zero_shot-0")
        numbers = [int(kind.removeprefix("few_shot-")) for kind in self.fusions if kind.startswith("few_shot-")]
        if not numbers:
            return self.fusions.get("whole_set-0")
        return self.fusions[f"few_shot-{min(numbers, key=lambda number: (abs(number - shots), number))}"]

    def predict(self, images: Sequence[Picture], k: int | None = None) -> list[Recognition]:
        """Recognises images.

        Args:
            images: Files, or images in memory.
            k: Candidates that the ranker sees; the recipe's ``eval.k`` if None, and never more than there are classes.

        Raises:
            UserError: An image is missing or does not decode, ``images`` is no list of them, or k is below 1.
        """
        check(not isinstance(images, (str, Path, Image.Image)), "give images as a list, [image] for one")
        check(k is None or k >= 1, f"k={k}: must be at least 1")
        if not images:
            return []
        xq = embed_pictures(self.encoder, images, self.recipe)
        found = self.memory.candidates(xq, k or self.recipe.eval.k)
        scores = [[candidate.score for candidate in row] for row in found]
        fusion = self.fusion
        asked = [number for number, own in enumerate(scores) if fusion is None or fusion.asks(own)]
        examples = [self.memory.examples(query, row) for query, row in zip(xq, found, strict=True)]
        shown = None
        if self.recipe.eval.show_exemplars:
            shown = [examples[n] if all(examples[n]) else () for n in asked]
        names = [[candidate.name for candidate in found[n]] for n in asked]
        ranked = dict(zip(asked, self.ranker.rank_with_scores([images[n] for n in asked], names, shown), strict=True))
        return [self._recognition(found[n], examples[n], ranked.get(n), fusion) for n in range(len(images))]

    def _recognition(
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
            ranking = fusion.unasked(scores)
        elif fusion and ranking.probabilities:
            ranking = fusion.fused(ranking, scores)
        return Recognition(
            tuple(candidates[place].name for place in ranking.order),
            tuple(ranking.probabilities[place] for place in ranking.order if ranking.probabilities),
            candidates,
            ranked is not None,
            None if refused is None else not refused,
            ranking.outcome,
            examples,
        )
