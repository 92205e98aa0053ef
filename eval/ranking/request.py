"""What the ranker is asked about an image, and what it answers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, fingerprint
from data_prep.core.images import open_image
from data_prep.embedding.regions import Cut


@dataclass(frozen=True)
class RankingMode:
    """How to ask.

    Attributes:
        mode: One of ``MODES``, or ``name``, which asks for names in place of a ranking.
        structured: Tell the format of a list, for models that were not tuned to write one.
        reply_tokens: Tokens that a reply may take in ``generate``; 0: as many as its list, and 8 more; also in
            ``name``.
        prompt: What ``name`` asks.
    """

    mode: str
    structured: bool = False
    reply_tokens: int = 0
    prompt: str = ""


@dataclass(frozen=True)
class RankingRequest:
    """An image and the classes to rank for it.

    Attributes:
        key: The sample's key, or its content; it seeds the order shown.
        image: The image's file, the image itself, or an object to be cut out of one.
        names: Distinct class names.
        shuffle: Number of the order in which they are shown.
        examples: An image file for each name, or none.
        contents: SHA-256 of the image's and of each example's file, as the data set was read; none where ``key`` is
            the image's content.
    """

    key: str
    image: str | Image.Image | Cut
    names: tuple[str, ...]
    shuffle: int = 0
    examples: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Identifies it by names, order shown, and what image and examples hold, wherever they lie."""
        return fingerprint([self.key, self.names, self.shuffle, self.contents or self.examples])

    @property
    def shown(self) -> list[int]:
        """Places of the names in the order to show: by hash, so it carries nothing of the retriever's."""
        start = f"{self.key}/{self.shuffle}" if self.shuffle else self.key

        def rank(place: int) -> bytes:
            return hashlib.sha256(f"{start}/{self.names[place]}".encode()).digest()

        return sorted(range(len(self.names)), key=rank)

    @property
    def shown_names(self) -> list[str]:
        """The names in the order to show."""
        return [self.names[place] for place in self.shown]

    def images(self) -> list[Image.Image]:
        """The image, and then the examples in the order shown.

        Raises:
            UserError: One is missing, does not decode, or is not what it was when the data set was read.
        """
        for path, content in zip((self.image, *self.examples), self.contents, strict=bool(self.contents)):
            if Path(path).is_file() and file_hash(Path(path)) != content:
                raise UserError(f"{path}: has changed since the data set was read; run the command again")
        files = [self.examples[place] for place in self.shown] if self.examples else []
        return [open_request_image(image) for image in (self.image, *files)]


def shuffled_requests(question: RankingRequest, count: int) -> list[RankingRequest]:
    """The same question in several orders."""
    return [replace(question, shuffle=number) for number in range(count)]


def open_request_image(image: str | Image.Image | Cut) -> Image.Image:
    """Decodes an image, from a file or in memory; an object is cut out.

    Raises:
        UserError: The file is missing or does not decode.
    """
    return image.open() if isinstance(image, Cut) else open_image(image)


@dataclass(frozen=True)
class Response:
    """What the model said about the names, in the question's order.

    Attributes:
        scores: Log-likelihoods or letter logits, rounded so that batches agree; empty where a list is written.
        reply: The list, where one is written.
    """

    scores: tuple[float, ...] = ()
    reply: str = ""
