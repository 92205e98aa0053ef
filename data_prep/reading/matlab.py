"""Reads MATLAB files, in which older benchmarks store their lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_prep.core.errors import UserError


def read_mat(path: Path, variable: str, source: str) -> list[Any]:
    """Reads a variable of a ``.mat`` file as a flat list of numbers, strings or records.

    Args:
        path: The file, of MATLAB 5 to 7.2.
        variable: Name of the variable. A record is returned as a dictionary from field names to values.
        source: Where to download the data set.

    Raises:
        UserError: The file is missing, unreadable, or lacks the variable.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise UserError(f"{path}: no such file; download the data set from {source}")
    try:
        content = loadmat(path, simplify_cells=True)
    except Exception as error:  # on damaged files scipy's parser raises exceptions of many types
        raise UserError(f"{path}: not readable as a MATLAB file ({error}); download it from {source}") from None
    if variable not in content:
        raise UserError(f"{path}: has no variable {variable}; download the data set from {source}")
    value = content[variable]
    return [value] if isinstance(value, dict | str) else np.atleast_1d(value).ravel().tolist()
