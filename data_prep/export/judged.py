"""Records of trainers that learn from judgements: documents for rerankers, rewards, and preferences."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.export.conversation import TAG, Conversation, Turn
from data_prep.prompting.prompts import list_answer


@dataclass(frozen=True)
class Judgement:
    """A reranker's record as the trainer reads it: texts that fit the image, and texts that do not.

    Attributes:
        query: The text in place of the image.
        right: Texts of right candidates.
        wrong: Texts of wrong candidates, in retriever order.
        images: Paths relative to the export's folder.
        tags: Number of image tags that ``query`` must contain.
    """

    query: str
    right: Sequence[str]
    wrong: Sequence[str]
    images: list[str]
    tags: int = 0

    def find_problem(self, expected: Conversation, folder: Path) -> str | None:
        """Returns how the record differs from its conversation, or None."""
        if self.query.count(TAG) != self.tags or self.images != [expected.image]:
            return f"images {self.images} and {self.query.count(TAG)} image tags"
        if not (folder / expected.image).is_file():
            return f"images {self.images}, of which one is missing"
        texts = [[d.text for d in expected.documents if d.is_right == is_right] for is_right in (True, False)]
        return None if texts == [list(self.right), list(self.wrong)] else "documents that differ from the example's"


@dataclass(frozen=True)
class Question:
    """A record for training by reward: a prompt, and what an answer is compared with.

    Attributes:
        turn: The prompt with the solution's list as its answer.
        candidates: The names that the prompt shows.
        solution: The right one.
    """

    turn: Turn
    candidates: Sequence[str]
    solution: str

    def find_problem(self, expected: Conversation, folder: Path) -> str | None:
        """Returns how the record differs from its conversation, or None."""
        if list(self.candidates) != list(expected.names) or self.solution != expected.truth:
            return "a solution or candidates that differ from the example's"
        return self.turn.find_problem(expected, folder)


@dataclass(frozen=True)
class Preference:
    """A record of two answers.

    Attributes:
        turn: The prompt with the answer that is preferred.
        rejected: The other answer.
    """

    turn: Turn
    rejected: str

    def find_problem(self, expected: Conversation, folder: Path) -> str | None:
        """Returns how the record differs from its conversation, or None."""
        chosen, rejected = ast.literal_eval(self.turn.assistant), ast.literal_eval(self.rejected)
        if chosen[0] != expected.truth or rejected[0] == expected.truth or not set(rejected) <= set(expected.names):
            return "a preferred answer that is not right, or a rejected one that is"
        return self.turn.find_problem(expected, folder)


def rejected_answer(target: Sequence[str], documents: Sequence[tuple[str, bool]]) -> str:
    """Formats the list to reject: the preferred one, with the retriever's first wrong candidate before the right one.

    Args:
        target: Names of the preferred list.
        documents: The candidates' names in retriever order, and whether each is right; one is wrong.
    """
    wrong = next(name for name, is_right in documents if not is_right)
    others = [name for name in target if name != wrong]
    return list_answer([wrong, *others][: len(target)])
