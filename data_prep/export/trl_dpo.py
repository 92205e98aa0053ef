"""TRL's preference format: ``prompt``, ``chosen``, ``rejected`` and ``images``, as an image folder.

The rejected list has the retriever's first wrong candidate before the right one, and is otherwise the preferred one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.export.conversation import Conversation, Turn, read_lines, write_lines
from data_prep.export.judged import Preference

FILE = "metadata.jsonl"
HINT = 'TRL: DPOTrainer(train_dataset=datasets.load_dataset("imagefolder", data_dir=FOLDER, split="train"))'


def write(folder: Path, name: str, conversations: Iterable[Conversation]) -> None:
    """Writes the lines; ``images_file_names`` becomes the column ``images``."""
    records = (
        {
            "prompt": [{"role": "user", "content": each.prompt}],
            "chosen": [{"role": "assistant", "content": each.answer}],
            "rejected": [{"role": "assistant", "content": each.rejected}],
            "images_file_names": [each.image],
        }
        for each in conversations
    )
    write_lines(folder / FILE, records)


def read(folder: Path) -> Iterator[Preference]:
    """Yields the records."""
    for record in read_lines(folder / FILE):
        user, chosen, rejected = (record[key][0]["content"] for key in ("prompt", "chosen", "rejected"))
        yield Preference(Turn(user, chosen, record["images_file_names"], tags=0), rejected)
