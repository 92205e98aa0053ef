"""RAR's native JSON, in the words of the released generator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.export.conversation import Conversation, Turn, read_list, write_list
from data_prep.prompting.prompts import list_answer

FILE = "rar.json"
HINT = "images lie below this folder"

# Released (finetune/build_finetuning_data.ipynb); there the expert is one of "aircraft classification", k is 5.
HEAD = "Here is a image:<Img index=1><image></Img>. "
_PROMPT = (
    "Please play the role of a {expert} expert, and sort the provided categories from high to low according to the "
    "top {k} similarity with the input image. Here are the optional categories:{names}."
)


def native_prompt(names: list[str], expert: str = "classification") -> str:
    """The released training prompt, without the tag before it."""
    return _PROMPT.format(expert=expert, k=len(names), names=list_answer(names))


def write(folder: Path, name: str, conversations: Iterable[Conversation]) -> None:
    """Writes the list. Prompts must be ``native_prompt``'s."""
    records = (
        {
            "id": number,
            "image": [one.image],
            "conversations": [
                {"from": "user", "value": HEAD + one.prompt},
                {"from": "assistant", "value": one.answer},
            ],
        }
        for number, one in enumerate(conversations)
    )
    write_list(folder / FILE, records)


def read(folder: Path) -> Iterator[Turn]:
    """The records of the list."""
    for record in read_list(folder / FILE):
        user, assistant = (turn["value"] for turn in record["conversations"])
        yield Turn(user, assistant, record["image"])
