"""LLaMA-Factory's format: ShareGPT or OpenAI turns, and the ``dataset_info.json`` that describes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.core.files import write_json
from data_prep.export.conversation import TAG, Conversation, Turn, make_messages, read_list, write_list

_TURNS = {"sharegpt": "conversations", "openai": "messages"}
_TAGS = {
    "sharegpt": {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"},
    "openai": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}


@dataclass(frozen=True)
class LlamaFactory:
    """LLaMA-Factory's format in one of two styles of turns.

    Attributes:
        style: ``sharegpt`` (from, value) or ``openai`` (role, content).
    """

    style: str
    HINT: str = "LLaMA-Factory: dataset_dir: FOLDER, dataset: the name in dataset_info.json; images are below FOLDER"

    @property
    def FILE(self) -> str:
        """The list's file name."""
        return f"{self.style}.json"

    def write(self, folder: Path, name: str, conversations: Iterable[Conversation]) -> None:
        """Writes the list and its description."""
        tags, turns = _TAGS[self.style], _TURNS[self.style]
        roles = {"user": tags["user_tag"], "assistant": tags["assistant_tag"]}
        records = (
            {
                turns: [
                    {tags["role_tag"]: roles[message["role"]], tags["content_tag"]: message["content"]}
                    for message in make_messages(conversation, TAG)
                ],
                "images": [conversation.image],
            }
            for conversation in conversations
        )
        write_list(folder / self.FILE, records)
        # Their converter takes both styles as "formatting": "sharegpt"; the tags give the keys and role names in use.
        entry = {
            "file_name": self.FILE,
            "formatting": "sharegpt",
            "columns": {"messages": turns, "images": "images"},
            "tags": tags,
        }
        write_json(folder / "dataset_info.json", {name: entry})

    def read(self, folder: Path) -> Iterator[Turn]:
        """Yields the records of the list."""
        content = _TAGS[self.style]["content_tag"]
        for record in read_list(folder / self.FILE):
            user, assistant = (turn[content] for turn in record[_TURNS[self.style]])
            yield Turn(user, assistant, record["images"])


SHAREGPT = LlamaFactory("sharegpt")
OPENAI = LlamaFactory("openai")
