"""Class names that hold a model's own control tokens, such as ``<image>``, written as ordinary text and read back."""

from __future__ import annotations

import re
from collections.abc import Iterable

from transformers import ProcessorMixin

_MARKUP = re.compile(r"<.+>|\[.+\]", re.DOTALL)


def control_tokens(processor: ProcessorMixin) -> set[str]:
    """What a processor and its tokenizer take for more than text: special tokens, and added ones written as markup."""
    added = processor.tokenizer.added_tokens_decoder.values()
    found = {token.content for token in added if token.special or _MARKUP.fullmatch(token.content)}
    return found | {processor.image_token}


class PlainText:
    """Puts a space behind the first character of each control token: ``<image>`` becomes ``< image>``.

    What has spaces there already gets one more, so that every text can be read back.

    Args:
        tokens: The control tokens. None may hold another.
    """

    def __init__(self, tokens: Iterable[str]):
        rests: dict[str, list[str]] = {}
        for token in sorted(tokens, key=len, reverse=True):
            if len(token) > 1:
                rests.setdefault(token[0], []).append(re.escape(token[1:]))
        forms = [f"{re.escape(first)}(?= *(?:{'|'.join(own)}))" for first, own in rests.items()]
        self._whole = re.compile("|".join(forms))
        broken = [form.replace("(?= *", " (?= *", 1) for form in forms]
        self._broken = re.compile("|".join(broken))

    def broken(self, text: str) -> str:
        """The text without control tokens."""
        return self._whole.sub(lambda match: match.group() + " ", text)

    def restored(self, text: str) -> str:
        """The text that ``broken`` was given, or names that a model copied out of it."""
        return self._broken.sub(lambda match: match.group()[:-1], text)
