"""Prompts and training answers, as pure functions of class names.

Texts marked "released" are from the RAR paper (arXiv 2403.13805) and its released code; the others are this project's.
"""

from __future__ import annotations

from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

NAMING = "What does the picture show?"
"""Requests the name alone. Candidates are not in the prompt, so the likelihood of a name has no position bias."""

NONE_NAME = "none of these"
"""The candidate that is right if the true class is not among the others."""

_LETTERS_HEAD = "Which of these does the picture show?"
_LETTERS_TAIL = "Answer with the letter."

_YES_NO = "Does the picture show {name}? Answer yes or no."

# Released; the paper prints the same text.
_LIST = (
    "Please play the role of a classification expert, and sort the provided {k} categories from high to low "
    "according to the top {k} similarity with the input image. Here are the optional categories:{names}."
)
# Released, for five categories; for models not tuned to answer with a list.
_STRUCTURED = (
    " Your answer should follow the following format, like:{format}. Only choose {count} categories, and no further "
    "information."
)
_COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

# Neither the paper nor its code gives the prompt for name discovery; FineR's protocol requests three names.
_GUESSES = (
    "What {subject} does the picture show? List {count} possible names, the most likely first, as a Python list such "
    "as {format}, and nothing else."
)

_EXAMPLES = "The first picture is the one in question. The other pictures each show a category, in the order listed."


def with_exemplars(prompt: str) -> str:
    """Prefixes a prompt with an explanation of the images, for when each candidate comes with an exemplar image."""
    return f"{_EXAMPLES}\n{prompt}"


def letters_prompt(names: Sequence[str], descriptions: Sequence[str] = ()) -> str:
    """Formats the prompt that lists the candidates by letter and requests one letter.

    Args:
        names: 1 to 26 candidate names, in display order.
        descriptions: A text for each, empty for a name that has none; empty: no name has one.

    Raises:
        ValueError: There are more names than letters.
    """
    if len(names) > len(LETTERS):
        raise ValueError(f"{len(names)} candidates, but only {len(LETTERS)} letters")
    lines = [f"{letter}. {line}" for letter, line in zip(LETTERS, describe(names, descriptions), strict=False)]
    return "\n".join([_LETTERS_HEAD, *lines, _LETTERS_TAIL])


def describe(names: Sequence[str], descriptions: Sequence[str]) -> list[str]:
    """Formats a line per candidate: its name, and its description where it has one.

    Args:
        names: Candidate names.
        descriptions: A text for each, empty for a name that has none; empty: no name has one.
    """
    pairs = zip(names, descriptions or [""] * len(names), strict=True)
    return [f"{name}: {description}" if description else name for name, description in pairs]


def yes_no_prompt(name: str, description: str = "") -> str:
    """Formats the question whether the image shows a class.

    Args:
        name: The class name.
        description: A text about the class; empty for none.
    """
    (line,) = describe([name], [description])
    return _YES_NO.format(name=line)


def list_prompt(names: Sequence[str], structured: bool = False, descriptions: Sequence[str] = ()) -> str:
    """Formats the paper's prompt, which requests the k candidates sorted, best first.

    Args:
        names: Candidate names, in display order.
        structured: Adds the reply format that the released code gives untuned models. The released text is for
            five categories; here it names the actual number.
        descriptions: A text for each name, empty where there is none; added as a line per described name.
    """
    count = len(names)
    prompt = _LIST.format(k=count, names=list_answer(names))
    if any(descriptions):
        described = [pair for pair in zip(names, descriptions, strict=True) if pair[1]]
        prompt = "\n".join([prompt, *(f"{name}: {description}" for name, description in described)])
    if not structured:
        return prompt
    reply_format = list_answer([f"category {letter}" for letter in LETTERS[:count]])
    return prompt + _STRUCTURED.format(format=reply_format, count=_COUNTS[count] if count < len(_COUNTS) else count)


def guesses_prompt(count: int, subject: str = "") -> str:
    """Formats the prompt that requests names without proposing any.

    Args:
        count: Number of names; for one name and no subject it is ``NAMING``, which rankers are tuned on.
        subject: What the image shows, such as ``bird species``.
    """
    if count == 1:
        return f"What {subject} does the picture show? Answer with its name alone." if subject else NAMING
    reply_format = list_answer([f"name {letter}" for letter in LETTERS[: min(count, 3)]])
    count_word = _COUNTS[count] if count < len(_COUNTS) else count
    return _GUESSES.format(subject=subject or "object", count=count_word, format=reply_format)


def list_answer(names: Sequence[str]) -> str:
    """Formats the paper's answer: a Python-style list of names, which ``replies.read_list`` parses.

    Names are quoted with ``repr``, so that apostrophes and commas survive.
    """
    return "[" + ", ".join(repr(name) for name in names) + "]"
