"""The demo's actions, without the page: recognises an image, adds and removes classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from data_prep.core.errors import UserError
from data_prep.settings import check
from eval.recognizer.kept import KeptClasses
from eval.recognizer.recognizer import Recognizer
from eval.recognizer.result import RankedCandidate, Recognition
from eval.recognizer.uploads import MAX_IMAGES, check_size, check_upload_name, open_upload

_OUTCOMES = {
    "ok": "",
    "repaired": "Its reply was not a permutation of the candidates and was repaired.",
    "unreadable": "Its reply was not readable, so the retriever's order is kept.",
}
_SCORES = {
    "image": "cosine similarity of images",
    "name": "cosine similarity of image and name",
    "fused": "weighted mean of the standardised similarities to images and to the name",
    "tip": "logit of Tip-Adapter",
    "tip_f": "logit of Tip-Adapter-F",
    "linear_probe": "logit of the linear probe",
}


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
    check_size(path.stat().st_size, path.name, max_bytes)
    open_upload(path.read_bytes(), path.name, max_bytes)
    return path


class Demo:
    """One memory and one model, shared by all visitors of the page; one visitor is served at a time.

    Args:
        recognizer: Recognises, and has the memory.
        max_bytes: Limit of a file's size.
        keep: Folder where the memory is kept; None: changes are lost.
    """

    def __init__(self, recognizer: Recognizer, max_bytes: float, keep: Path | None = None):
        self.recognizer, self.max_bytes = recognizer, max_bytes
        self._kept = KeptClasses(recognizer, keep)
        self._lock = Lock()

    def recognise(self, image: str | None, k: int) -> tuple[str, list[RankedCandidate]]:
        """Recognises an image among the classes of the memory.

        Args:
            image: Its file; None before one was dropped.
            k: Number of candidates, 1 to the recognizer's ``max_k``.

        Returns:
            tuple[str, list[RankedCandidate]]: Sentences about the result, and the candidates, best first.

        Raises:
            UserError: There is no image, it is not accepted, or k is out of range.
        """
        if image is None:
            raise UserError("drop an image first")
        check(1 <= k <= self.recognizer.max_k, f"{k} candidates: must be in 1..{self.recognizer.max_k}")
        path = check_upload(image, self.max_bytes)
        with self._lock:
            recognition = self.recognizer.predict([path], k)[0]
            return self._describe(recognition), recognition.ranking

    def _describe(self, recognition: Recognition) -> str:
        first, count = recognition.candidates[0].name, len(recognition.candidates)
        mode = self.recognizer.recipe.ranker.mode
        scores = _SCORES[self.recognizer.memory.reachable_source(self.recognizer.choice.source)]
        sentences = [f"Retrieved {count} of {len(self.recognizer.memory.classes)} classes; scores: {scores}."]
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
        check_upload_name(name)
        check(len(files) <= MAX_IMAGES, f"{len(files)} images: at most {MAX_IMAGES} at a time")
        paths = [check_upload(file, self.max_bytes) for file in files]
        with self._lock:
            done = self._kept.add(name, paths, verb="drop")
        copies = f"; {len(paths) - done.added} were there already" if done.added < len(paths) else ""
        if done.new and not done.added:
            return f"Added {done.name} without images: it is found by its name alone."
        kind = "the class " if done.new else ""
        return f"Added {kind}{done.name}: {done.added} new images, {done.images} in all{copies}."

    def remove(self, name: str | None) -> str:
        """Removes a class.

        Raises:
            UserError: There is no such class, or it is the last.
        """
        if not name or not isinstance(name, str):  # a program may send anything
            raise UserError("choose a class to remove")
        with self._lock:
            removed = self._kept.remove(name)
        return f"Removed {removed['name']} with {removed['images']} images."

    def classes(self) -> list[list]:
        """Returns name and number of images of each class, sorted by name."""
        with self._lock:
            return [[name, count] for name, count in self._kept.list().items()]
