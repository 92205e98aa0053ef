"""The whole of it as a class: a memory of the user's classes, the retriever before the ranker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data_prep.datasets.dataset import digests, key_of
from data_prep.datasets.folder import IMAGE_SUFFIXES
from data_prep.encoder import Encoder, load_encoder
from data_prep.errors import UserError
from data_prep.files import read_json
from data_prep.memories import Memories, image_memory, name_memory
from data_prep.records import Candidate, Ranking, Sample
from eval.fits import fits_path, load_fits
from eval.fusion import Fusion
from eval.questions import opened
from eval.ranker import Picture, Ranker
from eval.tasks import examples_of
from eval.unknown import Refusal, signals_of
from rar_train.adapter import find_adapter
from rar_train.strategies import accelerator_of

Classes = str | Path | Sequence[str] | Mapping[str, Sequence[str | Path]]


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
    """

    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    candidates: tuple[Candidate, ...]
    ranked: bool
    known: bool | None
    outcome: str

    @property
    def name(self) -> str:
        """The best candidate."""
        return self.names[0]


def example_images(classes: Classes) -> dict[str, list[Path]]:
    """Image files by class name.

    Args:
        classes: A folder with a folder of images per class; names alone; or files by name.

    Raises:
        UserError: There is no folder, or it holds no classes.
    """
    if isinstance(classes, Mapping):
        found = {name: [Path(file) for file in files] for name, files in classes.items()}
    elif isinstance(classes, str | Path):
        root = Path(classes)
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; give one with a folder of images per class")
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        found = {
            folder.name: sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
            for folder in folders
        }
    else:
        found = {name: [] for name in classes}
    if not found:
        raise UserError(f"{classes}: no classes; give names, or a folder with a folder of images per class")
    return found


class Recognizer:
    """Recognises images among classes that it was never trained on.

    Args:
        ranker: Ranks what is retrieved; its recipe has the retriever's settings.
        encoder: Embeds images and names.
        classes: What to remember; see ``remember``.
        fusions: Fitted fusions by kind of memory; without any the ranker's order stands and every image is ranked.
        refusal: Fitted threshold for unknown classes, or None.
    """

    def __init__(
        self,
        ranker: Ranker,
        encoder: Encoder,
        classes: Classes,
        fusions: Mapping[str, Fusion] | None = None,
        refusal: Refusal | None = None,
    ):
        self.ranker, self.encoder, self.recipe = ranker, encoder, ranker.recipe
        self.fusions, self.refusal = fusions or {}, refusal
        self.remember(classes)

    @classmethod
    def from_pretrained(cls, run: str | Path, classes: Classes, *settings: str) -> Recognizer:
        """Loads a run's retriever and ranker, and remembers classes.

        What ``eval.run`` fitted on the run's development split is used: the threshold for unknown
        classes where there is one, fusion and gate with ``eval.fusion=true``.

        Args:
            run: A folder that ``rar_train.fit`` wrote, or one of its checkpoints.
            classes: See ``remember``.
            *settings: As on the command line, such as ``eval.k=10``.

        Raises:
            UserError: A part can't be had, or fusion is asked for and was not fitted.
        """
        ranker = Ranker.from_pretrained(run, *settings)
        adapter, folder = find_adapter(Path(run))
        recipe = ranker.recipe
        path = fits_path(folder, recipe.ranker.mode)
        fusions, refusal = load_fits(path, read_json(adapter / "manifest.json")["adapter"])
        if recipe.eval.fusion and not fusions:
            raise UserError(
                f"{path}: nothing fitted yet; first run "
                f"python -m eval.run --ckpt {run} --split development --mode {recipe.ranker.mode} eval.fusion=true"
            )
        return cls(ranker, load_encoder(recipe.retriever), classes, fusions if recipe.eval.fusion else {}, refusal)

    def remember(self, classes: Classes) -> None:
        """Replaces the memory; nothing is trained.

        Args:
            classes: A folder with a folder of images per class, image files by class name, or names alone.

        Raises:
            UserError: An image is missing or does not decode; with ``data.on_error=skip`` it is left
                out and counted in the log.
        """
        by_name = example_images(classes)
        cache, retriever = Path(self.recipe.cache), self.recipe.retriever
        self.names = tuple(by_name)
        files = [(label, file) for label, own in enumerate(by_name.values()) for file in own]
        found = digests([file for _, file in files], cache, self.recipe.data.on_error) if files else []
        samples = [
            Sample(key_of(str(file)), str(file), label, digest)
            for (label, file), digest in zip(files, found, strict=True)
            if digest
        ]
        names = name_memory(self.encoder, range(len(self.names)), self.names, retriever, cache)
        images = image_memory(self.encoder, samples, retriever, cache) if samples else None
        self.memories = Memories(images, names)
        self.paths = {sample.digest: sample.path for sample in samples}
        source = self.recipe.eval.candidates if samples else "name"
        covered = len({sample.label for sample in samples}) == len(self.names)
        # A class without images can be found by its name alone.
        self.source = "fused" if source == "image" and not covered else source
        self.fusion = self._nearest_fusion(len(samples) / len(self.names))

    def _nearest_fusion(self, shots: float) -> Fusion | None:
        """The fusion that was fitted with the nearest number of images a class; names alone have their own."""
        kinds = [kind.split("-") for kind in self.fusions]
        fits = [
            (abs(int(number) - shots), f"{task}-{number}") for task, number in kinds if (number == "0") == (not shots)
        ]
        return self.fusions[min(fits)[1]] if fits else None

    @torch.inference_mode()
    def _embed(self, images: Sequence[Picture]) -> np.ndarray:
        device = torch.device(accelerator_of(self.recipe.trainer))
        model = self.encoder.model.to(device)
        parts = []
        for start in range(0, len(images), self.recipe.retriever.batch_size):
            some = images[start : start + self.recipe.retriever.batch_size]
            pixels = [self.encoder.preprocess(opened(image)) for image in some]
            vectors = model.encode_image(torch.stack(pixels).to(device, self.encoder.dtype))
            parts.append(F.normalize(vectors.float(), dim=-1).cpu())
        return torch.cat(parts).numpy()

    def predict(self, images: Sequence[Picture], k: int | None = None) -> list[Recognition]:
        """Recognises images.

        Args:
            images: Files, or images in memory.
            k: Candidates that the ranker sees; the recipe's ``eval.k`` if None, and never more than there are classes.

        Raises:
            UserError: An image is missing or does not decode.
        """
        if not images:
            return []
        xq, count = self._embed(images), min(k or self.recipe.eval.k, len(self.names))
        found = self.memories.candidates(self.source, xq, count, self.recipe.retriever, self.names)
        scores = [[candidate.score for candidate in row] for row in found]
        gate = self.fusion
        asked = [number for number, own in enumerate(scores) if gate is None or gate.asks(own)]
        shown = None
        if self.recipe.eval.examples and self.memories.images:
            shown = examples_of(self.memories.images, self.paths, xq[asked], [found[n] for n in asked])
        names = [[candidate.name for candidate in found[n]] for n in asked]
        ranked = dict(zip(asked, self.ranker.rank_with_scores([images[n] for n in asked], names, shown), strict=True))
        return [self._recognition(found[n], scores[n], ranked.get(n)) for n in range(len(images))]

    def _recognition(
        self, candidates: tuple[Candidate, ...], scores: list[float], ranked: tuple[Ranking, float] | None
    ) -> Recognition:
        ranking, score = ranked or (None, 0.0)
        refused = self.refusal.refuses(signals_of(candidates, ranking, score)) if self.refusal else None
        if ranking is None:
            ranking = self.fusion.unasked(scores)
        elif self.fusion and ranking.probabilities:
            ranking = self.fusion.fused(ranking, scores)
        return Recognition(
            tuple(candidates[place].name for place in ranking.order),
            tuple(ranking.probabilities[place] for place in ranking.order if ranking.probabilities),
            candidates,
            ranked is not None,
            None if refused is None else not refused,
            ranking.outcome,
        )
