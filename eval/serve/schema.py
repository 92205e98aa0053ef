"""The bodies of the service's responses, as its interface description shows them."""

from __future__ import annotations

from pydantic import BaseModel, Field


class RankedClass(BaseModel):
    """A candidate."""

    name: str
    probability: float | None = Field(description="0 to 1; null in the modes that write a list")
    score: float = Field(description="the retriever's score")


class ImageResult(BaseModel):
    """The result for an image, or why there is none."""

    file: str = Field(description="the file name that was sent")
    name: str | None = Field(description="the best candidate; null where there is an error")
    probability: float | None
    known: bool | None = Field(description="whether it shows one of the classes; null without a fitted threshold")
    ranked: bool | None = Field(description="false where the retriever was certain enough, and the ranker was not run")
    error: str | None
    candidates: list[RankedClass] = Field(description="best first")


class Results(BaseModel):
    """A result per image, in the order of the request."""

    results: list[ImageResult]


class ClassEntry(BaseModel):
    """A class."""

    name: str
    images: int


class Classes(BaseModel):
    """The classes, by name."""

    classes: list[ClassEntry]


class AddedClass(BaseModel):
    """A class after images were added to it."""

    name: str
    new: bool
    added: int = Field(description="new images; those that were there already are not counted")
    images: int = Field(description="images in all")


class Health(BaseModel):
    """Whether the service works."""

    status: str
    classes: int
    waiting_images: int


class Failure(BaseModel):
    """What was wrong."""

    detail: str
