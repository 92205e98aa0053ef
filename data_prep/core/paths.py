"""Files that come with the packages: recipes, embedded models, page templates."""

from __future__ import annotations

from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[2]
"""The folder that holds ``data_prep``, ``rar_train``, ``eval`` and ``recipes``: a checkout or ``site-packages``."""

PYPROJECT = PACKAGES / "pyproject.toml"
"""The project's file; there in a checkout alone."""

RECIPES = PACKAGES / "recipes"
NANO_CLIP = PACKAGES / "data_prep" / "assets" / "nano-clip"
NANO_MLLM = PACKAGES / "rar_train" / "assets" / "nano-mllm"
