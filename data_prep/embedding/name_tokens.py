"""Tokenizes texts about classes, and warns of those that are truncated, and of names that get identical tokens."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence

from torch import Tensor

log = logging.getLogger(__name__)

_MAX_NAMES = 3  # names listed in a warning
_MAX_LENGTH = 60  # characters shown of each


def tokenize_texts(
    tokenize: Callable[..., Tensor], texts: Sequence[str], templates: Sequence[str], items: str
) -> Tensor:
    """Inserts texts into prompts and tokenizes them; warns of truncated ones.

    Args:
        tokenize: open_clip tokenizer.
        texts: Class names or descriptions.
        templates: Prompts with ``{}`` for the text.
        items: What the texts are called in the warning: ``names`` or ``descriptions``.

    Returns:
        Tensor: Token ids of shape ``[texts, templates, context]``.
    """
    prompts = fill_templates(texts, templates)
    ids = tokenize(prompts)
    warn_truncated(texts, items, [i // len(templates) for i in find_truncated(tokenize, prompts, ids)], ids.shape[-1])
    return ids.unflatten(0, (len(texts), len(templates)))


def fill_templates(texts: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Returns the prompts of texts, all of the first text first."""
    return [template.format(text) for text in texts for template in templates]


def warn_truncated(texts: Sequence[str], items: str, rows: Sequence[int], context: int) -> None:
    """Warns of truncated texts.

    Args:
        texts: Class names or descriptions.
        items: What they are called: ``names`` or ``descriptions``.
        rows: Indices of the truncated ones.
        context: Tokens that the encoder reads.
    """
    truncated = dict.fromkeys(texts[row] for row in rows)
    if truncated:
        log.warning(
            "%s: %d of %d %s are longer than the %d tokens that the encoder reads, and were truncated: %s",
            items, len(truncated), len(set(texts)), items, context, _preview(truncated),
        )  # fmt: skip


def tokenize_names(tokenize: Callable[..., Tensor], names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Inserts names into prompts and tokenizes them; warns of truncated names and of names with identical tokens.

    Args:
        tokenize: open_clip tokenizer.
        names: Class names.
        templates: Prompts with ``{}`` for the name.

    Returns:
        Tensor: Token ids of shape ``[names, templates, context]``.
    """
    ids = tokenize_texts(tokenize, names, templates, "names")
    warn_identical(names, ids)
    return ids


def warn_identical(names: Sequence[str], ids: Tensor) -> None:
    """Warns of different names that get the same embedding; ``ids`` has the token ids of each, ``[names, …]``."""
    groups = find_identical_names(names, ids)
    if groups:
        log.warning(
            "names: %d different names have the same embedding as another, because their tokens are identical: %s; "
            "the encoder cannot tell these classes apart by name",
            sum(map(len, groups)), _preview([name for group in groups for name in group]),
        )  # fmt: skip


def find_truncated(tokenize: Callable[..., Tensor], texts: Sequence[str], ids: Tensor) -> list[int]:
    """Returns the indices of the texts that are longer than the encoder's context.

    Args:
        tokenize: open_clip tokenizer.
        texts: Texts that were tokenized.
        ids: Their token ids, shape ``[n, context]``.
    """
    context = ids.shape[1]
    padding = tokenize([""])[0, -1]
    # A truncated text fills the context, except for the last token, which some tokenizers also use as padding.
    full = (ids[:, -2] != padding).nonzero().flatten().tolist()
    if not full:
        return []
    longer = tokenize([texts[index] for index in full], context_length=context + 1)
    truncated = (longer[:, :context] != ids[full]).any(1) | (longer[:, context] != padding)
    return [index for index, is_truncated in zip(full, truncated.tolist(), strict=True) if is_truncated]


def find_identical_names(names: Sequence[str], ids: Tensor) -> list[list[str]]:
    """Returns groups of different names that have identical token ids.

    Args:
        names: Class names.
        ids: Token ids of each, first dimension ``names``.
    """
    groups: dict[bytes, dict[str, None]] = defaultdict(dict)
    for name, tokens in zip(names, ids.numpy(), strict=True):
        groups[tokens.tobytes()][name] = None
    return [list(group) for group in groups.values() if len(group) > 1]


def _preview(names: Sequence[str] | dict[str, None]) -> str:
    """Returns the first few names, shortened, for a message."""
    shown = [name if len(name) <= _MAX_LENGTH else f"{name[:_MAX_LENGTH]}…" for name in list(names)[:_MAX_NAMES]]
    return ", ".join(map(repr, shown)) + (", …" if len(names) > _MAX_NAMES else "")
