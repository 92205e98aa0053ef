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


def read_descriptions(path: Path, names: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Reads an object from a class name to a text or a list of texts.

    Args:
        path: The file, or a folder that may hold ``descriptions.json``.
        names: Class names by label, as the data set has them; classes that share a name share its texts.

    Returns:
        dict[int, tuple[str, ...]]: Texts by label, of the classes that have any.

    Raises:
        UserError: The file is missing or malformed.
    """
    if path.is_dir():
        path /= FILE
        if not path.is_file():
            return {}
    listed = read_json(path)
    if not isinstance(listed, dict):
        raise UserError(f"{path}: must be an object from a class name to a text or a list of texts")
    labels = defaultdict(list)
    for label, name in enumerate(names):
        labels[normalize_name(name)].append(label)
    described: dict[int, tuple[str, ...]] = {}
    unknown = []
    for name, texts in listed.items():
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(text, str) and tidy(text) for text in texts):
            raise UserError(f"{path}: {name!r}: must be a text or a list of texts, none of them empty")
        found = labels.get(normalize_name(name), [])
        unknown += [] if found else [name]
        described |= {label: tuple(map(tidy, texts)) for label in found if texts}
    if unknown:
        log.warning("%s: %d names are not classes of this data set; the first is %r", path, len(unknown), unknown[0])
    log.info("descriptions: of %d of %d classes, in %s", len(described), len(names), path)
    return described
