"""The ranker as a class, for programs: images and candidates in, rankings out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.core.images import open_image
from data_prep.core.records import Ranking
from data_prep.distributed.devices import resolve_accelerator
from data_prep.settings import Recipe
from data_prep.settings.loading import load_saved_recipe
from eval.ranking.modes import run_batch
from eval.ranking.parsing import to_one_ranking
from eval.ranking.request import RankingMode, RankingRequest, Response, shuffled_requests
from rar_train.engine.run_folder import find_adapter
from rar_train.models.lora import load_adapter
from rar_train.models.mllm import Mllm, load_mllm

Picture = str | Path | Image.Image


def _key(image: str | Image.Image) -> str:
    """Identifies a picture by its content, so that the order shown does not depend on its neighbours."""
    if isinstance(image, Image.Image):
        return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()
    if not Path(image).is_file():
        raise UserError(f"{image}: no such image")
    return file_hash(Path(image))


class Ranker:
    """Ranks candidates by an MLLM, many images at a time.

    Args:
        mllm: The model.
        recipe: ``ranker.mode``, and of ``eval`` the batch size, permutations, aggregate, structured and reply_tokens.
        tuned: Whether the model was tuned to rank; the structured prompt is for those that were not.
    """

    def __init__(self, mllm: Mllm, recipe: Recipe, tuned: bool = True):
        self.mllm, self.recipe = mllm, recipe
        args = recipe.eval
        self.manner = RankingMode(recipe.ranker.mode, args.format_hint and not tuned, args.reply_tokens)

    @classmethod
    def from_pretrained(cls, run: str | Path, *settings: str, tuned: bool = True) -> Ranker:
        """Loads a run's ranker.

        Args:
            run: A folder that ``rar_train.fit`` wrote, or one of its checkpoints.
            *settings: As on the command line, such as ``ranker.mode=letters`` or ``eval.permutations=4``.
            tuned: With the adapter, or its base model alone.

        Raises:
            UserError: There is no run, or model and adapter can't be had or do not fit.
        """
        adapter, folder = find_adapter(Path(run))
        recipe = load_saved_recipe(folder / "recipe.yaml", list(settings))
        mllm = load_mllm(recipe.ranker)
        mllm = load_adapter(mllm, adapter) if tuned else mllm
        mllm.model.to(resolve_accelerator(recipe.trainer))
        return cls(mllm, recipe, tuned)

    def rank(
        self,
        images: Sequence[Picture],
        candidates: Sequence[Sequence[str]],
        examples: Sequence[Sequence[str | Path]] | None = None,
    ) -> list[Ranking]:
        """Ranks each image's candidates.

        Args:
            images: Files, or images in memory.
            candidates: Names per image, in retriever order, which decides ties. Any number from 1 on; up to
                26 in mode ``letters``. A name may stand twice: both have the same score.
            examples: An image file for each candidate, shown beside the image, where the family takes several.

        Returns:
            list[Ranking]: A permutation of each image's candidates, with probabilities in the modes that give them. It
            depends on the image and its candidates alone, not on the batch.

        Raises:
            UserError: An image is missing or does not decode, or has no candidates.
        """
        return [ranking for ranking, _ in self.rank_with_scores(images, candidates, examples)]

    def rank_with_scores(
        self,
        images: Sequence[Picture],
        candidates: Sequence[Sequence[str]],
        examples: Sequence[Sequence[str | Path]] | None = None,
    ) -> list[tuple[Ranking, float]]:
        """As ``rank``, each with the highest score before the softmax: 0 in the modes that write a list."""
        if len(images) != len(candidates):
            raise UserError(f"{len(images)} images, but candidates for {len(candidates)}; give a list for each")
        args, mode = self.recipe.eval, self.manner.mode
        shown = examples or [()] * len(images)
        groups = [self._questions(*one) for one in zip(images, candidates, shown, strict=True)]
        flat = [question for group in groups for question in group]
        answers: list[Response] = []
        for start in range(0, len(flat), args.batch_size):
            answers += run_batch(self.mllm, self.manner, flat[start : start + args.batch_size])
        ranked = []
        for group, names in zip(groups, candidates, strict=True):
            own, answers = answers[: len(group)], answers[len(group) :]
            best = sum(max(answer.scores, default=0.0) for answer in own) / len(own)
            ranked.append((to_one_ranking(mode, names, group, own, args.aggregate), best))
        return ranked

    def _questions(self, image: Picture, names: Sequence[str], examples: Sequence[str | Path]) -> list[RankingRequest]:
        if not names:
            raise UserError(f"{image}: no candidates; give at least one name")
        if examples and len(examples) != len(names):
            raise UserError(f"{image}: {len(examples)} examples for {len(names)} candidates; give one for each")
        by_name = dict(zip(names, map(str, examples or names), strict=True))
        distinct = tuple(sorted(by_name))
        source = open_image(image) if isinstance(image, Image.Image) else str(image)
        own = tuple(by_name[name] for name in distinct) if examples else ()
        count = 1 if self.manner.mode == "likelihood" else self.recipe.eval.permutations
        return shuffled_requests(RankingRequest(_key(source), source, distinct, examples=own), count)
