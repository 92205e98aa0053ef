"""Descriptions of classes: texts that say what a class looks like, from an optional file next to a data set's images.

They must not be written from images that are evaluated, by people or by models, or evaluation would be leaked.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.names import normalize_name, tidy

log = logging.getLogger(__name__)

FILE = "descriptions.json"


def _match_classes(path: Path, keys: Sequence[str], names: Sequence[str]) -> dict[int, str]:
    """Returns the key of each class that has one, by label.

    A key that is a class's name describes that class alone. Other keys are compared without case, white space and
    Unicode form, and describe the classes that no key names exactly.

    Raises:
        UserError: Two keys describe one class.
    """
    by_name, by_form = defaultdict(list), defaultdict(list)
    for label, name in enumerate(names):
        by_name[tidy(name)].append(label)
        by_form[normalize_name(name)].append(label)
    exact = {tidy(key) for key in keys}
    key_of: dict[int, str] = {}
    for key in keys:
        similar = by_form.get(normalize_name(key), [])
        others = [label for label in similar if tidy(names[label]) not in exact]
        for label in by_name.get(tidy(key)) or others or similar:
            if label in key_of:
                raise UserError(f"{path}: {key_of[label]!r} and {key!r} are both the class {names[label]!r}; keep one")
            key_of[label] = key
    return key_of


def read_descriptions(path: Path, names: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Reads an object from a class name to a text or a list of texts.

    Args:
        path: The file, or a folder that may hold ``descriptions.json``.
        names: Class names by label, as the data set has them; classes that share a name share its texts.

    Returns:
        dict[int, tuple[str, ...]]: Texts by label, of the classes that have any.

    Raises:
        UserError: The file is missing or malformed, or describes a class twice.
    """
    if path.is_dir():
        path /= FILE
        if not path.is_file():
            return {}
    listed = read_json(path)
    if not isinstance(listed, dict):
        raise UserError(f"{path}: must be an object from a class name to a text or a list of texts")
    cleaned: dict[str, tuple[str, ...]] = {}
    for name, texts in listed.items():
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(text, str) and tidy(text) for text in texts):
            raise UserError(f"{path}: {name!r}: must be a text or a list of texts, none of them empty")
        cleaned[name] = tuple(map(tidy, texts))
    key_of = _match_classes(path, list(cleaned), names)
    described = {label: cleaned[key] for label, key in key_of.items() if cleaned[key]}
    known = set(key_of.values())
    unknown = [name for name in cleaned if name not in known]
    if unknown:
        log.warning("%s: %d names are not classes of this data set; the first is %r", path, len(unknown), unknown[0])
    log.info("descriptions: of %d of %d classes, in %s", len(described), len(names), path)
    return described
