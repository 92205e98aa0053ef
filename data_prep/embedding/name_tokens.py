"""Class names as the encoder reads them: token ids, with a word about names that it does not read whole."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence

from torch import Tensor

log = logging.getLogger(__name__)

_SHOWN = 3  # names in a warning
_LETTERS = 60  # of each of them


def name_tokens(tokenize: Callable[..., Tensor], names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Puts names into prompts and tokenizes them; warns of those that are cut and of those that end alike.

    Args:
        tokenize: open_clip's tokenizer.
        names: Class names.
        templates: Prompts with ``{}`` for the name.

    Returns:
        Tensor: Token ids of shape ``[names, templates, context]``.
    """
    texts = [template.format(name) for name in names for template in templates]
    ids = tokenize(texts)
    cut = {names[place // len(templates)]: None for place in cut_texts(tokenize, texts, ids)}
    ids = ids.unflatten(0, (len(names), len(templates)))
    if cut:
        log.warning(
            "names: %d of %d names are longer than the %d tokens that the encoder reads, and were cut: %s",
            len(cut), len(set(names)), ids.shape[-1], _some(cut),
        )  # fmt: skip
    alike = find_names_alike(names, ids)
    if alike:
        log.warning(
            "names: %d different names have the same embedding as another, for the encoder reads the same tokens "
            "of them: %s; it cannot tell these classes from each other by name",
            sum(map(len, alike)), _some([name for group in alike for name in group]),
        )  # fmt: skip
    return ids


def cut_texts(tokenize: Callable[..., Tensor], texts: Sequence[str], ids: Tensor) -> list[int]:
    """Places of the texts that are longer than the encoder's context.

    Args:
        tokenize: open_clip's tokenizer.
        texts: What was tokenized.
        ids: What came of it, shape ``[n, context]``.
    """
    context = ids.shape[1]
    padding = tokenize([""])[0, -1]
    # Whoever is cut fills the context, but for a last token that some tokenizers pad with too.
    full = (ids[:, -2] != padding).nonzero().flatten().tolist()
    if not full:
        return []
    longer = tokenize([texts[place] for place in full], context_length=context + 1)
    cut = (longer[:, :context] != ids[full]).any(1) | (longer[:, context] != padding)
    return [place for place, is_cut in zip(full, cut.tolist(), strict=True) if is_cut]


def find_names_alike(names: Sequence[str], ids: Tensor) -> list[list[str]]:
    """Groups of different names of which the encoder reads the same tokens.

    Args:
        names: Class names.
        ids: Token ids of each, first dimension ``names``.
    """
    groups: dict[bytes, dict[str, None]] = defaultdict(dict)
    for name, own in zip(names, ids.numpy(), strict=True):
        groups[own.tobytes()][name] = None
    return [list(group) for group in groups.values() if len(group) > 1]


def _some(names: Sequence[str] | dict[str, None]) -> str:
    shown = [name if len(name) <= _LETTERS else f"{name[:_LETTERS]}…" for name in list(names)[:_SHOWN]]
    return ", ".join(map(repr, shown)) + (", …" if len(names) > _SHOWN else "")
