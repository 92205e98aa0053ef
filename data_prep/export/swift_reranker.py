"""ms-swift's reranker format: JSON lines of a query, which is the image, and messages of right and wrong documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.export.conversation import TAG, Conversation, read_lines, write_lines
from data_prep.export.judged import Judgement

FILE = "swift_reranker.jsonl"
HINT = (
    "ms-swift: ROOT_IMAGE_DIR=FOLDER MAX_NEGATIVE_SAMPLES=K swift sft --task_type generative_reranker --dataset "
    "FOLDER/swift_reranker.jsonl"
)


def _messages(texts: Iterable[str]) -> list[list[dict]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


def write(folder: Path, name: str, conversations: Iterable[Conversation]) -> None:
    """Writes the lines."""
    records = (
        {
            "messages": [{"role": "user", "content": TAG}],
            "images": [each.image],
            "positive_messages": _messages(d.text for d in each.documents if d.is_right),
            "negative_messages": _messages(d.text for d in each.documents if not d.is_right),
        }
        for each in conversations
    )
    write_lines(folder / FILE, records)


def read(folder: Path) -> Iterator[Judgement]:
    """Yields the records."""
    for record in read_lines(folder / FILE):
        right, wrong = (
            [messages[-1]["content"] for messages in record[f"{kind}_messages"]] for kind in ("positive", "negative")
        )
        yield Judgement(record["messages"][0]["content"], right, wrong, record["images"], tags=1)
