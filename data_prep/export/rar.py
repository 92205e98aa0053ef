"""RAR's native JSON format, with the exact prompt of the released generator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.export.conversation import Conversation, Turn, read_list, write_list
from data_prep.prompting.prompts import list_answer

FILE = "rar.json"
HINT = "images are below this folder"

# From the released code (finetune/build_finetuning_data.ipynb), which asks for an "aircraft classification" expert and
# has k = 5.
HEAD = "Here is a image:<Img index=1><image></Img>. "
_PROMPT = (
    "Please play the role of a {expert} expert, and sort the provided categories from high to low according to the "
    "top {k} similarity with the input image. Here are the optional categories:{names}."
)


def native_prompt(names: list[str], expert: str = "classification") -> str:
    """Returns the released training prompt, without the image tag before it."""
    return _PROMPT.format(expert=expert, k=len(names), names=list_answer(names))


def write(folder: Path, name: str, conversations: Iterable[Conversation]) -> None:
    """Writes the list. Prompts must come from ``native_prompt``."""
    records = (
        {
            "id": index,
            "image": [conversation.image],
            "conversations": [
                {"from": "user", "value": HEAD + conversation.prompt},
                {"from": "assistant", "value": conversation.answer},
            ],
        }
        for index, conversation in enumerate(conversations)
    )
    write_list(folder / FILE, records)


def read(folder: Path) -> Iterator[Turn]:
    """Yields the records of the list."""
    for record in read_list(folder / FILE):
        user, assistant = (turn["value"] for turn in record["conversations"])
        yield Turn(user, assistant, record["image"])
