"""Escaping of control tokens, such as ``<image>``, that occur in class names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from transformers import ProcessorMixin

_MARKUP = re.compile(r"<.+>|\[.+\]", re.DOTALL)


def control_tokens(processor: ProcessorMixin) -> set[str]:
    """Lists the control tokens of a processor and its tokenizer: special tokens, and added ones written as markup."""
    added = processor.tokenizer.added_tokens_decoder.values()
    control = {token.content for token in added if token.special or _MARKUP.fullmatch(token.content)}
    return control | {processor.image_token}


class PlainText:
    """Escapes control tokens by a space after their first character: ``<image>`` becomes ``< image>``.

    Text that already has spaces there gets one more, so that every text can be restored.

    Args:
        tokens: The control tokens. None may contain another.
    """

    def __init__(self, tokens: Iterable[str]):
        endings: dict[str, list[str]] = {}
        for token in sorted(tokens, key=len, reverse=True):
            if len(token) > 1:
                endings.setdefault(token[0], []).append(re.escape(token[1:]))
        patterns = [f"{re.escape(first)}(?= *(?:{'|'.join(group)}))" for first, group in endings.items()]
        self._unescaped = re.compile("|".join(patterns))
        escaped = [pattern.replace("(?= *", " (?= *", 1) for pattern in patterns]
        self._escaped = re.compile("|".join(escaped))

    def escape(self, text: str) -> str:
        """Returns the text with control tokens escaped."""
        return self._unescaped.sub(lambda match: match.group() + " ", text)

    def unescape(self, text: str) -> str:
        """Reverts ``escape``, also in names that a model copied from an escaped text."""
        return self._escaped.sub(lambda match: match.group()[:-1], text)
