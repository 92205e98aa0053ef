"""What the demo page does, without the page: recognises a picture, adds and removes classes."""

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
"""What strangers' files may be, by content: decoders of other formats run other programs or are seldom tested."""

MOST_PICTURES = 100
"""Pictures that a class takes at a time."""

LONGEST_NAME = 200
"""Characters of a class's name, which the ranker has to read."""

_OUTCOMES = {
    "ok": "",
    "repaired": "Its reply was not a permutation of the candidates and was repaired.",
    "unreadable": "Its reply was not readable, so the retriever's order stands.",
}
_SCORES = {
    "image": "cosine similarity of pictures",
    "name": "cosine similarity of picture and name",
    "fused": "similarities to pictures and to the name, each standardised, mixed",
}


@dataclass(frozen=True)
class Line:
    """A candidate in the ranker's order.

    Attributes:
        name: The class.
        probability: The ranker's, 0 to 1; None in the modes that write a list.
        score: The retriever's.
        retrieved: Its place in retriever order, from 1.
        example: The most similar remembered picture of the class; None where it has none.
    """

    name: str
    probability: float | None
    score: float
    retrieved: int
    example: str | None


def upload_error(name: str) -> str:
    """What is said of a file that no visitor dropped, whether or not there is one of that name on this machine."""
    return f"{name}: not among the pictures that were dropped on this page; drop it again"


def check_upload(file: str | Path, most_bytes: float) -> Path:
    """A dropped file that is a picture of a size and kind that are taken.

    Args:
        file: Where it was put; messages give its name alone.
        most_bytes: Limit of its size.

    Raises:
        UserError: It is not there, too large, no picture, of another format, or does not decode.
    """
    path = Path(file)
    check(path.is_file() and not path.is_symlink(), upload_error(path.name))
    size = path.stat().st_size
    check(size <= most_bytes, f"{path.name}: {size / 1e6:.1f} MB, but at most {most_bytes / 1e6:g} MB; make it smaller")
    try:
        Image.open(path, formats=FORMATS).close()
    except Image.UnidentifiedImageError:
        raise UserError(f"{path.name}: not a picture of a format that is taken: {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        pass  # open_image says so
    open_image(path.read_bytes(), path.name)
    return path


class Demo:
    """One memory and one model, which all visitors of the page share; one visitor is served at a time.

    Args:
        recognizer: Recognises, and has the memory.
        most_bytes: Limit of a file's size.
    """

    def __init__(self, recognizer: Recognizer, most_bytes: float):
        self.recognizer, self.memory, self.most_bytes = recognizer, recognizer.memory, most_bytes
        self._lock = Lock()

    def recognise(self, picture: str | None, k: int) -> tuple[str, list[Line]]:
        """Recognises a picture among the remembered classes.

        Args:
            picture: Its file; None before one was dropped.
            k: Candidates, 1 to 26.

        Returns:
            tuple[str, list[Line]]: Sentences about what was done, and the candidates, best first.

        Raises:
            UserError: There is no picture, it is not taken, or k is out of range.
        """
        if picture is None:
            raise UserError("drop a picture first")
        check(1 <= k <= len(LETTERS), f"{k} candidates: must lie in 1..{len(LETTERS)}")
        path = check_upload(picture, self.most_bytes)
        with self._lock:
            found = self.recognizer.predict([path], k)[0]
            return self._verdict(found), _lines(found)

    def _verdict(self, found: Recognition) -> str:
        first, count = found.candidates[0].name, len(found.candidates)
        mode = self.recognizer.recipe.ranker.mode
        said = [f"Retrieved {count} of {len(self.memory.classes)} classes; scores: {_SCORES[self.memory.source]}."]
        if not found.ranked:
            said.append("The retriever is sure enough (gate), so the ranker was not asked.")
        elif found.name == first:
            said.append(f"The ranker ({mode}) agrees with the retriever's first.")
        else:
            said.append(f"The ranker ({mode}) puts another class before the retriever's first, {first}.")
        said.append(_OUTCOMES[found.outcome])
        if found.known is not None:
            known = "It shows one of these classes" if found.known else "It shows none of these classes"
            said.append(f"{known}, by the threshold fitted on the validation split.")
        return " ".join(sentence for sentence in said if sentence)

    def add(self, name: str, files: Sequence[str] | None) -> str:
        """Adds a class, or pictures to one that is there.

        Returns:
            str: What was done.

        Raises:
            UserError: There is no name, or a file is not taken; nothing is added then.
        """
        files = files or []
        check(bool(name and name.strip()), "give the class a name")
        written = not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)
        check(written, "the name holds control characters, or letters that are not Unicode")
        check(len(name) <= LONGEST_NAME, f"the name has {len(name)} characters: at most {LONGEST_NAME}")
        check(len(files) <= MOST_PICTURES, f"{len(files)} pictures: at most {MOST_PICTURES} at a time")
        paths = [check_upload(file, self.most_bytes) for file in files]
        with self._lock:
            known = self.memory.known_as(name)
            new = known is None
            check(new or bool(paths), f"{known}: known already; drop pictures to add to it")
            count = self.memory.add(name, paths)
            name = self.memory.known_as(name)  # as it is held and shown
            total = self.memory.classes[name]
        copies = f"; {len(paths) - count} were there already" if count < len(paths) else ""
        if new and not count:
            return f"Added {name} without pictures: it is found by its name alone."
        return f"Added {'the class ' if new else ''}{name}: {count} new pictures, {total} in all{copies}."

    def remove(self, name: str | None) -> str:
        """Removes a class.

        Raises:
            UserError: There is no such class, or it is the last.
        """
        if not name or not isinstance(name, str):  # a program may send anything
            raise UserError("choose a class to remove")
        with self._lock:
            count = self.memory.remove(name)
        return f"Removed {name} with {count} pictures."

    def classes(self) -> list[list]:
        """Name and number of pictures of each class, by name."""
        with self._lock:
            return [[name, count] for name, count in sorted(self.memory.classes.items())]


def _lines(found: Recognition) -> list[Line]:
    """The candidates in the ranker's order; with ``retriever.candidate_unit=image`` a class can stand twice."""
    places: dict[str, list[int]] = {}
    for number, candidate in enumerate(found.candidates):
        places.setdefault(candidate.name, []).append(number)
    order = [places[name].pop(0) for name in found.names]
    probabilities = found.probabilities or (None,) * len(order)
    return [
        Line(name, probability, float(found.candidates[number].score), number + 1, found.examples[number])
        for name, probability, number in zip(found.names, probabilities, order, strict=True)
    ]
