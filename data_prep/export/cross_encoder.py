"""sentence-transformers' sets for rerankers (``CrossEncoder``): an image with a list of documents, or with one each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.export.conversation import Conversation, read_lines, write_lines
from data_prep.export.judged import Judgement

_LOADED = 'datasets.load_dataset("imagefolder", data_dir=FOLDER, split="train")'


class Lists:
    """Labelled lists: columns ``image``, ``docs`` and ``labels``, for losses over a list such as ``LambdaLoss``."""

    FILE = "metadata.jsonl"
    HINT = f"sentence-transformers: CrossEncoderTrainer(train_dataset={_LOADED}) with a loss over lists"

    def write(self, folder: Path, name: str, conversations: Iterable[Conversation]) -> None:
        """Writes the lines, documents in retriever order; ``image_file_name`` becomes the column ``image``."""
        records = (
            {
                "image_file_name": each.image,
                "docs": [document.text for document in each.documents],
                "labels": [int(document.is_right) for document in each.documents],
            }
            for each in conversations
        )
        write_lines(folder / self.FILE, records)

    def read(self, folder: Path) -> Iterator[Judgement]:
        """Yields the records."""
        for record in read_lines(folder / self.FILE):
            pairs = list(zip(record["docs"], record["labels"], strict=True))
            right, wrong = ([text for text, label in pairs if label == wanted] for wanted in (1, 0))
            yield Judgement("", right, wrong, [record["image_file_name"]])


class Pairs:
    """Labelled pairs: columns ``image``, ``document`` and ``label``, for losses such as ``BinaryCrossEntropyLoss``."""

    FILE = "metadata.jsonl"
    HINT = f"sentence-transformers: CrossEncoderTrainer(train_dataset={_LOADED}) with BinaryCrossEntropyLoss"

    def write(self, folder: Path, name: str, conversations: Iterable[Conversation]) -> None:
        """Writes a line for each document, right ones first; ``image_file_name`` becomes the column ``image``.

        There is no other column, since the trainer takes every column but the label for an input.
        """
        records = (
            {"image_file_name": each.image, "document": document.text, "label": int(document.is_right)}
            for each in conversations
            for document in sorted(each.documents, key=lambda document: not document.is_right)
        )
        write_lines(folder / self.FILE, records)

    def read(self, folder: Path) -> Iterator[Judgement]:
        """Yields the pairs of each example together: it begins with its right documents."""
        examples: list[list[dict]] = []
        last = 0
        for record in read_lines(folder / self.FILE):
            if record["label"] > last:
                examples.append([])
            last = record["label"]
            examples[-1].append(record)
        for records in examples:
            right, wrong = ([r["document"] for r in records if r["label"] == wanted] for wanted in (1, 0))
            yield Judgement("", right, wrong, sorted({r["image_file_name"] for r in records}))


LISTS, PAIRS = Lists(), Pairs()
