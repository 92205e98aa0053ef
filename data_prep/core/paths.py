"""Paths of the files shipped with the packages: recipes and embedded models."""

from __future__ import annotations

from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[2]
"""The folder that contains ``data_prep``, ``rar_train``, ``eval`` and ``recipes``: a checkout or ``site-packages``."""

PYPROJECT = PACKAGES / "pyproject.toml"
"""The project file; it exists only in a checkout."""

RECIPES = PACKAGES / "recipes"
NANO_CLIP = PACKAGES / "data_prep" / "assets" / "nano-clip"
NANO_MLLM = PACKAGES / "rar_train" / "assets" / "nano-mllm"
