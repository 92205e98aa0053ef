"""The demo's actions, without the page: recognises an image, adds and removes classes."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.images import open_image
from data_prep.prompting.prompts import LETTERS
from data_prep.settings import check
from eval.recognition.recognizer import Recognition, Recognizer

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Accepted formats of uploads, by content: decoders of other formats run other programs or are seldom tested."""

MAX_IMAGES = 100
"""Images that can be added to a class at a time."""

MAX_NAME_LENGTH = 200
"""Characters of a class's name, which becomes part of the ranker's prompt."""

_OUTCOMES = {
    "ok": "",
    "repaired": "Its reply was not a permutation of the candidates and was repaired.",
    "unreadable": "Its reply was not readable, so the retriever's order is kept.",
}
_SCORES = {
    "image": "cosine similarity of images",
    "name": "cosine similarity of image and name",
    "fused": "weighted mean of the standardised similarities to images and to the name",
}


@dataclass(frozen=True)
class RankedCandidate:
    """A candidate in the ranker's order.

    Attributes:
        name: The class.
        probability: The ranker's probability, 0 to 1; None in the modes that write a list.
        score: The retriever's score.
        retrieved: Its rank in retriever order, from 1.
        example: The class's most similar image in the memory; None where it has none.
    """

    name: str
    probability: float | None
    score: float
    retrieved: int
    example: str | None


def upload_error(name: str) -> str:
    """Returns the error for a file that no visitor uploaded, whether or not this machine has one of that name."""
    return f"{name}: not among the images that were dropped on this page; drop it again"


def check_upload(file: str | Path, max_bytes: float) -> Path:
    """Checks that an uploaded file is an image of an accepted size and format.

    Args:
        file: The stored file; error messages only give its name.
        max_bytes: Limit of its size.

    Raises:
        UserError: It is not there, too large, not an image, of another format, or does not decode.
    """
    path = Path(file)
    check(path.is_file() and not path.is_symlink(), upload_error(path.name))
    size = path.stat().st_size
    check(size <= max_bytes, f"{path.name}: {size / 1e6:.1f} MB, but at most {max_bytes / 1e6:g} MB; make it smaller")
    try:
        Image.open(path, formats=FORMATS).close()
    except Image.UnidentifiedImageError:
        raise UserError(f"{path.name}: not an image of an accepted format: {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        pass  # reported by open_image
    open_image(path.read_bytes(), path.name)
    return path


class Demo:
    """One memory and one model, shared by all visitors of the page; one visitor is served at a time.

    Args:
        recognizer: Recognises, and has the memory.
        max_bytes: Limit of a file's size.
    """

    def __init__(self, recognizer: Recognizer, max_bytes: float):
        self.recognizer, self.memory, self.max_bytes = recognizer, recognizer.memory, max_bytes
        self._lock = Lock()

    def recognise(self, image: str | None, k: int) -> tuple[str, list[RankedCandidate]]:
        """Recognises an image among the classes of the memory.

        Args:
            image: Its file; None before one was dropped.
            k: Number of candidates, 1 to 26.

        Returns:
            tuple[str, list[RankedCandidate]]: Sentences about the result, and the candidates, best first.

        Raises:
            UserError: There is no image, it is not accepted, or k is out of range.
        """
        if image is None:
            raise UserError("drop an image first")
        check(1 <= k <= len(LETTERS), f"{k} candidates: must be in 1..{len(LETTERS)}")
        path = check_upload(image, self.max_bytes)
        with self._lock:
            recognition = self.recognizer.predict([path], k)[0]
            return self._describe(recognition), _ranked_candidates(recognition)

    def _describe(self, recognition: Recognition) -> str:
        first, count = recognition.candidates[0].name, len(recognition.candidates)
        mode = self.recognizer.recipe.ranker.mode
        sentences = [f"Retrieved {count} of {len(self.memory.classes)} classes; scores: {_SCORES[self.memory.source]}."]
        if not recognition.ranked:
            sentences.append("The retriever is certain enough (gate), so the ranker was not run.")
        elif recognition.name == first:
            sentences.append(f"The ranker ({mode}) agrees with the retriever's first.")
        else:
            sentences.append(f"The ranker ({mode}) puts another class before the retriever's first, {first}.")
        sentences.append(_OUTCOMES[recognition.outcome])
        if recognition.known is not None:
            known = "It shows one of these classes" if recognition.known else "It shows none of these classes"
            sentences.append(f"{known}, by the threshold fitted on the validation split.")
        return " ".join(sentence for sentence in sentences if sentence)

    def add(self, name: str, files: Sequence[str] | None) -> str:
        """Adds a class, or images to an existing one.

        Returns:
            str: A sentence that says what was added.

        Raises:
            UserError: There is no name, or a file is not accepted; nothing is added then.
        """
        files = files or []
        check(bool(name and name.strip()), "give the class a name")
        is_text = not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)
        check(is_text, "the name holds control characters, or letters that are not Unicode")
        check(len(name) <= MAX_NAME_LENGTH, f"the name has {len(name)} characters: at most {MAX_NAME_LENGTH}")
        check(len(files) <= MAX_IMAGES, f"{len(files)} images: at most {MAX_IMAGES} at a time")
        paths = [check_upload(file, self.max_bytes) for file in files]
        with self._lock:
            known = self.memory.find_name(name)
            new = known is None
            check(new or bool(paths), f"{known}: known already; drop images to add to it")
            count = self.memory.add(name, paths)
            name = self.memory.find_name(name)  # as it is stored and shown
            total = self.memory.classes[name]
        copies = f"; {len(paths) - count} were there already" if count < len(paths) else ""
        if new and not count:
            return f"Added {name} without images: it is found by its name alone."
        return f"Added {'the class ' if new else ''}{name}: {count} new images, {total} in all{copies}."

    def remove(self, name: str | None) -> str:
        """Removes a class.

        Raises:
            UserError: There is no such class, or it is the last.
        """
        if not name or not isinstance(name, str):  # a program may send anything
            raise UserError("choose a class to remove")
        with self._lock:
            count = self.memory.remove(name)
        return f"Removed {name} with {count} images."

    def classes(self) -> list[list]:
        """Returns name and number of images of each class, sorted by name."""
        with self._lock:
            return [[name, count] for name, count in sorted(self.memory.classes.items())]


def _ranked_candidates(recognition: Recognition) -> list[RankedCandidate]:
    """Lists the candidates in the ranker's order; with ``retriever.candidate_unit=image`` a class can occur twice."""
    indices_by_name: dict[str, list[int]] = {}
    for index, candidate in enumerate(recognition.candidates):
        indices_by_name.setdefault(candidate.name, []).append(index)
    order = [indices_by_name[name].pop(0) for name in recognition.names]
    probabilities = recognition.probabilities or (None,) * len(order)
    return [
        RankedCandidate(
            name, probability, float(recognition.candidates[index].score), index + 1, recognition.examples[index]
        )
        for name, probability, index in zip(recognition.names, probabilities, order, strict=True)
    ]
