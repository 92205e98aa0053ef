"""Synonyms of class names, from an optional file next to a data set's images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.names import tidy

log = logging.getLogger(__name__)

FILE = "synonyms.json"


def read_synonyms(root: Path, names: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Reads ``synonyms.json``: an object from a class name to a list of other names.

    Args:
        root: The data set's folder, or a file in it.
        names: Class names by label, as the data set has them.

    Returns:
        dict[int, tuple[str, ...]]: The other names by label; empty if there is no file.

    Raises:
        UserError: The file is malformed.
    """
    path = (root if root.is_dir() else root.parent) / FILE
    if not path.is_file():
        return {}
    listed = read_json(path)
    if not isinstance(listed, dict):
        raise UserError(f"{path}: must be an object from a class name to a list of other names")
    label_of = {tidy(name): label for label, name in enumerate(names)}
    for name, forms in listed.items():
        if not isinstance(forms, list) or not all(isinstance(form, str) and form.strip() for form in forms):
            raise UserError(f"{path}: {name!r}: must be a list of non-empty names")
    unknown = [name for name in listed if tidy(name) not in label_of]
    if unknown:
        log.warning("%s: %d names are not classes of this data set; the first is %r", path, len(unknown), unknown[0])
    return {label_of[tidy(name)]: tuple(forms) for name, forms in listed.items() if tidy(name) in label_of}
