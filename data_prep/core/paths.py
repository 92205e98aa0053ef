"""Paths of the files shipped with the packages, and the home folder in paths that were typed."""

from __future__ import annotations

import os
import re
from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[2]
"""The folder that contains ``data_prep``, ``rar_train``, ``eval`` and ``recipes``: a checkout or ``site-packages``."""

PYPROJECT = PACKAGES / "pyproject.toml"
"""The project file; it exists only in a checkout."""

RECIPES = PACKAGES / "recipes"
NANO_CLIP = PACKAGES / "data_prep" / "assets" / "nano-clip"
NANO_MLLM = PACKAGES / "rar_train" / "assets" / "nano-mllm"

MODEL_PREFIXES = ("local-dir:", "timm:", "hf:", "st:")
"""What may stand before the folder of a model; all but the first may stand before a name too."""

_HOME_WORD = re.compile(
    rf"(?P<before>(?:--?[\w-]+=|[a-z_0-9.]+=)?(?:{'|'.join(MODEL_PREFIXES)})?)(?P<path>~.*)", re.DOTALL
)


def split_prefix(text: str) -> tuple[str, str]:
    """Splits the prefix of a model's name or folder, such as ``local-dir:``, from the rest; empty if there is none."""
    prefix = next((prefix for prefix in MODEL_PREFIXES if text.startswith(prefix)), "")
    return prefix, text.removeprefix(prefix)


def expand_home(text: str) -> str:
    """Replaces a leading ``~`` or ``~user`` by that home folder, also after a model's prefix.

    Text that begins with ``~`` but names no user, such as an editor's ``~$report``, is returned as it is.
    """
    prefix, path = split_prefix(text)
    try:
        return prefix + os.path.expanduser(path)  # noqa: PTH111 (pathlib raises for unknown users)
    except ValueError:  # a zero byte in a user's name
        return text


def expand_home_in_word(word: str) -> str:
    """Expands ``~`` in a word of a command line, also after ``--option=`` and ``key=``, where shells leave it."""
    match = _HOME_WORD.fullmatch(word)
    return match["before"] + expand_home(match["path"]) if match else word
