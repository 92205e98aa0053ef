"""Sets for training by reward (GRPO) in TRL and ms-swift: a prompt, its image, and what an answer is compared with.

The columns ``solution`` (the right name) and ``candidates`` (the names as shown) reach the reward function, which can
tell from them whether an answer is a permutation, and where the right name is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.export.conversation import TAG, Conversation, Turn, read_lines, write_lines
from data_prep.export.judged import Question
from data_prep.prompting.prompts import list_answer


@dataclass(frozen=True)
class Grpo:
    """A trainer's set.

    Attributes:
        FILE: The list's file name.
        HINT: How to point the trainer to the folder.
        prompt: Key of the messages.
        images: Key of the images.
        tag: What marks the image in the prompt; empty where the trainer itself puts it there.
    """

    FILE: str
    HINT: str
    prompt: str
    images: str
    tag: str

    def write(self, folder: Path, name: str, conversations: Iterable[Conversation]) -> None:
        """Writes the lines."""
        records = (
            {
                self.prompt: [{"role": "user", "content": self.tag + each.prompt}],
                self.images: [each.image],
                "solution": each.truth,
                "candidates": list(each.names),
            }
            for each in conversations
        )
        write_lines(folder / self.FILE, records)

    def read(self, folder: Path) -> Iterator[Question]:
        """Yields the records."""
        for record in read_lines(folder / self.FILE):
            (user,) = record[self.prompt]
            solution = record["solution"]
            turn = Turn(user["content"], list_answer([solution]), record[self.images], tags=int(bool(self.tag)))
            yield Question(turn, record["candidates"], solution)


TRL = Grpo(
    "metadata.jsonl",
    'TRL: GRPOTrainer(train_dataset=datasets.load_dataset("imagefolder", data_dir=FOLDER, split="train"), '
    "reward_funcs=a function of completions, solution and candidates)",
    "prompt",
    "images_file_names",
    "",
)
SWIFT = Grpo(
    "swift_grpo.jsonl",
    "ms-swift: ROOT_IMAGE_DIR=FOLDER swift rlhf --rlhf_type grpo --dataset FOLDER/swift_grpo.jsonl, with a reward "
    "function of completions, solution and candidates",
    "messages",
    "images",
    TAG,
)
