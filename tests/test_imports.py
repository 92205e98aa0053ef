"""Packages import in one direction, and every module imports."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "data_prep": {"data_prep"},
    "rar_train": {"data_prep", "rar_train"},
    "eval": {"data_prep", "rar_train", "eval"},
}
FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_a_module_imports_only_from_packages_below_it(path: Path):
    package = path.relative_to(ROOT).parts[0]
    own = _imported(path) & MAY_IMPORT.keys()
    assert own <= MAY_IMPORT[package]


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_every_module_imports(path: Path):
    assert importlib.import_module(_module(path))


def test_prompts_and_replies_are_pure_text():
    """They serve trainers and services that have no torch."""
    for name in ("prompts", "replies", "records"):
        heavy = {"torch", "lightning", "transformers", "faiss", "open_clip", "numpy"}
        assert not _imported(ROOT / "data_prep" / f"{name}.py") & heavy
