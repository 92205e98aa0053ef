"""The ranker as a class, for use in programs: images and candidates in, rankings out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

from PIL import Image

from data_prep.core.command import quiet_calls
from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.core.records import Ranking
from data_prep.distributed.devices import resolve_accelerator
from data_prep.embedding.image_inputs import ImageInput, OpenedImage, check_is_list, open_input
from data_prep.settings import POINTWISE, Recipe, check
from data_prep.settings.loading import load_saved_recipe
from eval.ranking.modes import PreparedBatch, answer_batch, prepare_batch, run_batch
from eval.ranking.parsing import aggregate_responses
from eval.ranking.request import RankingMode, RankingRequest, Response, select_descriptions, shuffled_requests
from eval.ranking.served import ServedModel
from rar_train.engine.run_folder import find_adapter
from rar_train.models.loading import load_mllm
from rar_train.models.lora import load_adapter
from rar_train.models.mllm import Mllm


class Ranker:
    """Ranks candidates with an MLLM, many images at a time.

    Args:
        mllm: The model, here or on a server.
        recipe: ``ranker.mode``, and of ``eval``: batch_size, permutations, aggregate, format_hint and reply_tokens.
        tuned: Whether the model was tuned to rank; the format hint is for those that were not.

    Attributes:
        descriptions: Texts that prompts show beside names with ``ranker.descriptions``, by name.
        permutations: Number of orders in which candidates are shown.

    Example:
        >>> from eval import Ranker
        >>> ranker = Ranker.from_pretrained("runs/ranker_lora", "ranker.mode=letters")
        >>> (ranking,) = ranker.rank(["photographs/cross/0.png"], [["a bend", "a cross"]])
        >>> sorted(ranking.order), round(sum(ranking.probabilities), 3)
        ([0, 1], 1.0)
    """

    def __init__(self, mllm: Mllm | ServedModel, recipe: Recipe, tuned: bool = True):
        self.mllm, self.recipe = mllm, recipe
        self.mode = RankingMode.from_recipe(recipe, tuned)
        self.descriptions: Mapping[str, str] = {}
        self.permutations = recipe.eval.fixed_permutations

    @classmethod
    @quiet_calls()
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
        if recipe.ranker.backend == "openai":
            mode = RankingMode.from_recipe(recipe, tuned)
            return cls(ServedModel(recipe.ranker, mode, tuned, adapter, recipe.trainer), recipe, tuned)
        mllm = load_mllm(recipe.ranker)
        mllm = load_adapter(mllm, adapter) if tuned else mllm
        mllm.model.to(resolve_accelerator(recipe.trainer))
        return cls(mllm, recipe, tuned)

    def rank(
        self,
        images: Sequence[ImageInput | OpenedImage],
        candidates: Sequence[Sequence[str]],
        examples: Sequence[Sequence[str | Path]] | None = None,
    ) -> list[Ranking]:
        """Ranks each image's candidates.

        Args:
            images: A list of files, their bytes, file objects, arrays of uint8 or PIL images.
            candidates: Names per image, in retriever order, which decides ties. At least one; up to 26 in mode
                ``letters``. A name may occur twice: both have the same score.
            examples: An image file for each candidate, shown together with the image, if the model family takes
                several images and the mode is not ``yes_no``.

        Returns:
            list[Ranking]: A permutation of each image's candidates, with probabilities in the modes that give them. It
            depends on the image and its candidates alone, not on the batch.

        Raises:
            UserError: An image is missing or does not decode, or has no candidates.
        """
        return [ranking for ranking, _ in self.rank_with_scores(images, candidates, examples)]

    def rank_with_scores(
        self,
        images: Sequence[ImageInput | OpenedImage],
        candidates: Sequence[Sequence[str]],
        examples: Sequence[Sequence[str | Path]] | None = None,
    ) -> list[tuple[Ranking, float]]:
        """Ranks as ``rank`` does; also returns the highest score before the softmax, 0 in the modes that write a list.

        With several permutations the score is the mean of each one's highest.
        """
        check_is_list(images)
        is_flat = isinstance(candidates, str) or any(isinstance(names, str) for names in candidates)
        check(not is_flat, "give a list of names for each image, such as [['a bend', 'a cross']] for one")
        if len(images) != len(candidates):
            raise UserError(f"{len(images)} images, but candidates for {len(candidates)}; give a list for each")
        aggregate, mode = self.recipe.eval.aggregate, self.mode.mode
        examples = examples or [()] * len(images)
        groups = [self._make_requests(*triple) for triple in zip(images, candidates, examples, strict=True)]
        responses = self._answer(groups)
        ranked = []
        for group, names in zip(groups, candidates, strict=True):
            group_responses = list(islice(responses, len(group)))
            score = sum(max(response.scores, default=0.0) for response in group_responses) / len(group)
            ranked.append((aggregate_responses(mode, names, group, group_responses, aggregate), score))
        return ranked

    @cached_property
    def _preparer(self) -> Mllm:
        """The ranker's processor, for the thread that prepares batches."""
        assert isinstance(self.mllm, Mllm)  # a server prepares its own batches
        return self.mllm.without_model()

    def _answer(self, groups: Sequence[Sequence[RankingRequest]]) -> Iterator[Response]:
        """Yields the responses to all requests; a thread prepares the next batch while the model answers."""
        if isinstance(self.mllm, ServedModel):
            yield from self.mllm.answer(list(chain.from_iterable(groups)))
            return
        size = self.recipe.eval.batch_size
        batches = [list(chain.from_iterable(groups[start : start + size])) for start in range(0, len(groups), size)]
        if len(batches) == 1:
            yield from run_batch(self.mllm, self.mode, batches[0])
            return
        with ThreadPoolExecutor(1) as thread:
            upcoming: deque[Future[PreparedBatch]] = deque()
            for batch in batches:
                upcoming.append(thread.submit(prepare_batch, self._preparer, self.mode, batch))
                if len(upcoming) == 2:
                    yield from answer_batch(self.mllm, upcoming.popleft().result())
            for prepared in upcoming:
                yield from answer_batch(self.mllm, prepared.result())

    def _make_requests(
        self, image: ImageInput | OpenedImage, names: Sequence[str], examples: Sequence[str | Path]
    ) -> list[RankingRequest]:
        source, key = _source_and_key(image)
        shown = source if isinstance(source, str) else "image"
        check(bool(names), f"{shown}: no candidates; give at least one name")
        if examples and len(examples) != len(names):
            raise UserError(f"{shown}: {len(examples)} examples for {len(names)} candidates; give one for each")
        by_name = dict(zip(names, map(str, examples or names), strict=True))
        distinct = tuple(sorted(by_name))
        sorted_examples = tuple(by_name[name] for name in distinct) if examples else ()
        count = 1 if self.mode.mode in POINTWISE else self.permutations
        described = select_descriptions(self.recipe, distinct, self.descriptions)
        request = RankingRequest(key, source, distinct, 0, sorted_examples, descriptions=described)
        return shuffled_requests(request, count)


def _source_and_key(image: ImageInput | OpenedImage) -> tuple[str | Image.Image, str]:
    """Returns the image of a request, which is a path where a path is given, and the hash of its content."""
    if isinstance(image, str | Path):
        check(Path(image).is_file(), f"{image}: no such image")
        return str(image), file_hash(Path(image))
    opened = open_input(image)
    return opened.image, opened.key
