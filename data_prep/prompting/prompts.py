"""The prompts and the answers that training asks for: pure functions of names.

Constants and their sources are in the RAR paper (arXiv 2403.13805) and its released code where a
docstring says "released"; the others are this project's.
"""

from __future__ import annotations

from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

NAMING = "What does the picture show?"
"""Asks for the name alone. Candidates stay outside, so a name's likelihood has no position bias."""

NONE_NAME = "none of these"
"""The candidate that is right where the true class is not among the others."""

_LETTERS_HEAD = "Which of these does the picture show?"
_LETTERS_TAIL = "Answer with the letter."

# Released; the paper prints the same text.
_LIST = (
    "Please play the role of a classification expert, and sort the provided {k} categories from high to low "
    "according to the top {k} similarity with the input image. Here are the optional categories:{names}."
)
# Released for five categories; for models that were not tuned to answer with a list.
_STRUCTURED = (
    " Your answer should follow the following format, like:{format}. Only choose {count} categories, and no further "
    "information."
)
_COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

# Neither the paper nor its code gives the prompt of the discovery; FineR's protocol asks for three names.
_GUESSES = (
    "What {subject} does the picture show? List {count} possible names, the most likely first, as a Python list such "
    "as {format}, and nothing else."
)

_EXAMPLES = "The first picture is the one in question. The other pictures each show a category, in the order listed."


def with_examples(prompt: str) -> str:
    """Says what the pictures are where every candidate is shown by an example too."""
    return f"{_EXAMPLES}\n{prompt}"


def letters_prompt(names: Sequence[str]) -> str:
    """Lists the candidates by letter and asks for one letter.

    Args:
        names: 1 to 26 candidate names, in the order in which to show them.

    Raises:
        ValueError: There are more names than letters.
    """
    if len(names) > len(LETTERS):
        raise ValueError(f"{len(names)} candidates, but only {len(LETTERS)} letters")
    lines = [f"{letter}. {name}" for letter, name in zip(LETTERS, names, strict=False)]
    return "\n".join([_LETTERS_HEAD, *lines, _LETTERS_TAIL])


def list_prompt(names: Sequence[str], structured: bool = False) -> str:
    """The paper's prompt: sort the k candidates, best first.

    Args:
        names: Candidate names in the order in which to show them.
        structured: Adds the reply format that the released code gives untuned models. Its text is for
            five categories; here it names as many as there are.
    """
    count = len(names)
    prompt = _LIST.format(k=count, names=list_answer(names))
    if not structured:
        return prompt
    wanted = list_answer([f"category {letter}" for letter in LETTERS[:count]])
    return prompt + _STRUCTURED.format(format=wanted, count=_COUNTS[count] if count < len(_COUNTS) else count)


def guesses_prompt(count: int, subject: str = "") -> str:
    """Asks for names without proposing any.

    Args:
        count: How many; for one of anything it is ``NAMING``, which rankers are tuned on.
        subject: What is to be named, such as ``bird species``.
    """
    if count == 1:
        return f"What {subject} does the picture show? Answer with its name alone." if subject else NAMING
    wanted = list_answer([f"name {letter}" for letter in LETTERS[: min(count, 3)]])
    number = _COUNTS[count] if count < len(_COUNTS) else count
    return _GUESSES.format(subject=subject or "object", count=number, format=wanted)


def list_answer(names: Sequence[str]) -> str:
    """The paper's answer: a Python-style list of names, which ``replies.read_list`` reads back.

    Each name is quoted as Python quotes it, so that apostrophes and commas survive.
    """
    return "[" + ", ".join(repr(name) for name in names) + "]"
