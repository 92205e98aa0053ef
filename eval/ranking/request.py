"""Ranking requests (an image and the names to rank), the ranking mode, and the model's responses."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, fingerprint
from data_prep.core.images import open_image
from data_prep.embedding.regions import LazyRegion
from data_prep.settings import Recipe


@dataclass(frozen=True)
class RankingMode:
    """How to prompt the model.

    Attributes:
        mode: One of ``MODES``, or ``name``, which generates names instead of a ranking.
        structured: Describe the format of a list in the prompt, for models that were not tuned to write one.
        reply_tokens: Token limit of a reply in ``generate`` and ``name``; 0 in ``generate``: the tokens of the
            request's own list plus 8.
        prompt: The prompt of ``name``.
    """

    mode: str
    structured: bool = False
    reply_tokens: int = 0
    prompt: str = ""

    @classmethod
    def from_recipe(cls, recipe: Recipe, tuned: bool) -> RankingMode:
        """Reads the mode from a recipe; ``eval.format_hint`` applies to the untuned model alone."""
        return cls(recipe.ranker.mode, recipe.eval.format_hint and not tuned, recipe.eval.reply_tokens)


@dataclass(frozen=True)
class RankingRequest:
    """An image and the classes to rank for it.

    Attributes:
        key: The sample's key, or a hash of the image's content; seeds the order in which names are shown.
        image: The image's file, the image itself, or a region to be cropped from one.
        names: Distinct class names.
        shuffle: Index of the order in which they are shown.
        examples: An image file for each name, or empty.
        contents: SHA-256 of the image's and of each example's file, as the data set was read; empty where ``key`` is
            the hash of the image's content.
        descriptions: A text for each name, empty for those without one; from ``select_descriptions``.
    """

    key: str
    image: str | Image.Image | LazyRegion
    names: tuple[str, ...]
    shuffle: int = 0
    examples: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Hash of names and descriptions, the order shown, and the content of image and examples, wherever they are."""
        described = [self.descriptions] if self.descriptions else []
        return fingerprint([self.key, self.names, self.shuffle, self.contents or self.examples, *described])

    @property
    def shown(self) -> list[int]:
        """Indices of the names in the order to show: sorted by hash, so it leaks nothing of the retriever's order."""
        seed = f"{self.key}/{self.shuffle}" if self.shuffle else self.key

        def name_hash(index: int) -> bytes:
            return hashlib.sha256(f"{seed}/{self.names[index]}".encode()).digest()

        return sorted(range(len(self.names)), key=name_hash)

    @property
    def shown_names(self) -> list[str]:
        """The names in the order to show."""
        return [self.names[index] for index in self.shown]

    @property
    def shown_descriptions(self) -> list[str]:
        """The descriptions in the order to show; empty where there are none."""
        return [self.descriptions[index] for index in self.shown] if self.descriptions else []

    def images(self) -> list[Image.Image]:
        """Opens the image, and then the examples in the order shown.

        Raises:
            UserError: One is missing, does not decode, or has changed since the data set was read.
        """
        for path, content in zip((self.image, *self.examples), self.contents, strict=bool(self.contents)):
            if Path(path).is_file() and file_hash(Path(path)) != content:
                raise UserError(f"{path}: has changed since the data set was read; run the command again")
        examples = [self.examples[index] for index in self.shown] if self.examples else []
        return [open_request_image(image) for image in (self.image, *examples)]


def select_descriptions(recipe: Recipe, names: Sequence[str], texts: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the descriptions that a request's prompt shows, one for each name.

    Args:
        recipe: ``ranker.descriptions`` and ``ranker.mode``.
        names: The names to rank.
        texts: Descriptions by name.

    Returns:
        tuple[str, ...]: Empty where the prompt shows none.
    """
    if not recipe.ranker.descriptions or recipe.ranker.mode == "likelihood":
        return ()
    described = tuple(texts.get(name, "") for name in names)
    return described if any(described) else ()


def shuffled_requests(request: RankingRequest, count: int) -> list[RankingRequest]:
    """Returns the same request with the names in ``count`` different orders."""
    return [replace(request, shuffle=index) for index in range(count)]


def open_request_image(image: str | Image.Image | LazyRegion) -> Image.Image:
    """Decodes an image, from a file or in memory; a region is cropped.

    Raises:
        UserError: The file is missing or does not decode.
    """
    return image.open() if isinstance(image, LazyRegion) else open_image(image)


@dataclass(frozen=True, slots=True)
class Response:
    """The model's response to a request, in the order of the request's names.

    Attributes:
        scores: Log-likelihoods, letter logits or log-odds, rounded so that batches agree; empty in the modes that write
            text.
        reply: The written list or names; in the modes that score a note of the scores that a server did not return,
            else empty.
    """

    scores: tuple[float, ...] = ()
    reply: str = ""
