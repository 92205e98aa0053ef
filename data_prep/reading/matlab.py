"""Reads the MATLAB files that older benchmarks keep their lists in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_prep.core.errors import UserError


def read_mat(path: Path, variable: str, source: str) -> list[Any]:
    """A variable of a ``.mat`` file, as a flat list of numbers, strings or records.

    Args:
        path: The file, of MATLAB 5 to 7.2.
        variable: Its name in the file. A record's fields are the keys of a dictionary.
        source: Where the data set is had.

    Raises:
        UserError: The file is missing, unreadable, or lacks the variable.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise UserError(f"{path}: no such file; the data set is had from {source}")
    try:
        content = loadmat(path, simplify_cells=True)
    except Exception as error:  # scipy raises whatever its parser meets in a damaged file
        raise UserError(f"{path}: not readable as a MATLAB file ({error}); it is had from {source}") from None
    if variable not in content:
        raise UserError(f"{path}: holds no {variable}; the data set is had from {source}")
    value = content[variable]
    return [value] if isinstance(value, dict | str) else np.atleast_1d(value).ravel().tolist()
