"""The ranker as a class, for use in programs: images and candidates in, rankings out."""

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
from eval.ranking.parsing import aggregate_responses
from eval.ranking.request import RankingMode, RankingRequest, Response, shuffled_requests
from rar_train.engine.run_folder import find_adapter
from rar_train.models.lora import load_adapter
from rar_train.models.mllm import Mllm, load_mllm

ImageInput = str | Path | Image.Image


def _content_key(image: str | Image.Image) -> str:
    """Hashes an image's content, so that the order in which names are shown does not depend on other images."""
    if isinstance(image, Image.Image):
        return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()
    if not Path(image).is_file():
        raise UserError(f"{image}: no such image")
    return file_hash(Path(image))


class Ranker:
    """Ranks candidates with an MLLM, many images at a time.

    Args:
        mllm: The model.
        recipe: ``ranker.mode``, and of ``eval``: batch_size, permutations, aggregate, format_hint and reply_tokens.
        tuned: Whether the model was tuned to rank; the format hint is for those that were not.

    Example:
        >>> from eval import Ranker
        >>> ranker = Ranker.from_pretrained("runs/ranker_lora", "ranker.mode=letters")
        >>> (ranking,) = ranker.rank(["photographs/cross/0.png"], [["a bend", "a cross"]])
        >>> sorted(ranking.order), round(sum(ranking.probabilities), 3)
        ([0, 1], 1.0)
    """

    def __init__(self, mllm: Mllm, recipe: Recipe, tuned: bool = True):
        self.mllm, self.recipe = mllm, recipe
        self.mode = RankingMode.from_recipe(recipe, tuned)

    @classmethod
    def from_pretrained(cls, run: str | Path, *settings: str, tuned: bool = True) -> Ranker:
        """Loads a run's ranker.

        Args:
            run: A folder that ``rar_train.fit`` wrote, or one of its checkpoints.
            *settings: As on the command line, such as ``ranker.mode=letters`` or ``eval.permutations=4``.
            tuned: Whether to load the adapter; False for its base model alone.

        Raises:
            UserError: There is no run, or model and adapter can't be loaded or do not match.
        """
        adapter, folder = find_adapter(Path(run))
        recipe = load_saved_recipe(folder / "recipe.yaml", list(settings))
        mllm = load_mllm(recipe.ranker)
        mllm = load_adapter(mllm, adapter) if tuned else mllm
        mllm.model.to(resolve_accelerator(recipe.trainer))
        return cls(mllm, recipe, tuned)

    def rank(
        self,
        images: Sequence[ImageInput],
        candidates: Sequence[Sequence[str]],
        examples: Sequence[Sequence[str | Path]] | None = None,
    ) -> list[Ranking]:
        """Ranks each image's candidates.

        Args:
            images: Files, or images in memory.
            candidates: Names per image, in retriever order, which decides ties. At least one; up to 26 in mode
                ``letters``. A name may occur twice: both have the same score.
            examples: An image file for each candidate, shown together with the image, if the model family takes
                several images.

        Returns:
            list[Ranking]: A permutation of each image's candidates, with probabilities in the modes that give them. It
            depends on the image and its candidates alone, not on the batch.

        Raises:
            UserError: An image is missing or does not decode, or has no candidates.
        """
        return [ranking for ranking, _ in self.rank_with_scores(images, candidates, examples)]

    def rank_with_scores(
        self,
        images: Sequence[ImageInput],
        candidates: Sequence[Sequence[str]],
        examples: Sequence[Sequence[str | Path]] | None = None,
    ) -> list[tuple[Ranking, float]]:
        """Ranks as ``rank`` does; also returns the highest score before the softmax, 0 in the modes that write a list.

        With several permutations the score is the mean of each one's highest.
        """
        if len(images) != len(candidates):
            raise UserError(f"{len(images)} images, but candidates for {len(candidates)}; give a list for each")
        args, mode = self.recipe.eval, self.mode.mode
        examples = examples or [()] * len(images)
        groups = [self._make_requests(*triple) for triple in zip(images, candidates, examples, strict=True)]
        requests = [request for group in groups for request in group]
        responses: list[Response] = []
        for start in range(0, len(requests), args.batch_size):
            responses += run_batch(self.mllm, self.mode, requests[start : start + args.batch_size])
        ranked = []
        for group, names in zip(groups, candidates, strict=True):
            group_responses, responses = responses[: len(group)], responses[len(group) :]
            score = sum(max(response.scores, default=0.0) for response in group_responses) / len(group)
            ranked.append((aggregate_responses(mode, names, group, group_responses, args.aggregate), score))
        return ranked

    def _make_requests(
        self, image: ImageInput, names: Sequence[str], examples: Sequence[str | Path]
    ) -> list[RankingRequest]:
        if not names:
            raise UserError(f"{image}: no candidates; give at least one name")
        if examples and len(examples) != len(names):
            raise UserError(f"{image}: {len(examples)} examples for {len(names)} candidates; give one for each")
        by_name = dict(zip(names, map(str, examples or names), strict=True))
        distinct = tuple(sorted(by_name))
        source = open_image(image) if isinstance(image, Image.Image) else str(image)
        sorted_examples = tuple(by_name[name] for name in distinct) if examples else ()
        count = 1 if self.mode.mode == "likelihood" else self.recipe.eval.permutations
        return shuffled_requests(
            RankingRequest(_content_key(source), source, distinct, examples=sorted_examples), count
        )
