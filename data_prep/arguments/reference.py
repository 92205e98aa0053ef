"""A reference of all settings, from the dataclasses, their docstrings and their checks."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from textwrap import dedent
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from data_prep.core.errors import UserError
from data_prep.settings import Recipe
from data_prep.settings.values import type_of_key

_TYPES = {int: "int", float: "float", bool: "bool", str: "text", type(None): "null"}


@dataclass(frozen=True)
class Setting:
    """A key of a recipe.

    Attributes:
        key: Such as ``ranker.lora.rank``.
        kind: Its type: ``int``, ``text or null``, ``list of int``; empty for a section.
        default: As one writes it on the command line; ``(required)`` and ``(empty)`` are said so.
        text: What it means.
    """

    key: str
    kind: str
    default: str
    text: str

    @property
    def is_section(self) -> bool:
        """Whether the key is a section, which has keys and no value."""
        return not self.kind


@cache
def _field_docs(section: type) -> dict[str, str]:
    """Returns the docstring under each field of a dataclass, as one line."""
    (node,) = ast.parse(dedent(inspect.getsource(section))).body
    assert isinstance(node, ast.ClassDef)
    docs = {}
    for statement, after in zip(node.body, node.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant), statement.target.id
            docs[statement.target.id] = " ".join(str(after.value.value).split())
    return docs


def _describe_kind(kind: Any) -> str:
    if get_origin(kind) is list:
        (element,) = get_args(kind)
        return f"list of {_TYPES.get(element, 'mappings')}"
    return " or ".join(_TYPES[option] for option in get_args(kind) or (kind,))


def _write_default(value: Any) -> str:
    if value in (MISSING, ""):
        return "(required)" if value else "(empty)"
    if isinstance(value, list):
        return f"[{','.join(map(_write_default, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _walk(section: Any, prefix: str) -> Iterator[Setting]:
    kind: Any = type(section)
    hints, docs = get_type_hints(kind), _field_docs(kind)
    for field in fields(section):
        key, value = prefix + field.name, getattr(section, field.name)
        if is_dataclass(value):
            yield Setting(key, "", "", docs[field.name])
            yield from _walk(value, f"{key}.")
        else:
            yield Setting(key, _describe_kind(hints[field.name]), _write_default(value), docs[field.name])


def list_settings() -> list[Setting]:
    """Returns all keys and sections of a recipe, in their order."""
    return list(_walk(_default_recipe(), ""))


@cache
def _default_recipe() -> Recipe:
    recipe = Recipe(task="ranker", out="runs")
    recipe.task = recipe.out = MISSING
    return recipe


def find_settings(word: str) -> list[Setting]:
    """Returns the settings of a section, or all whose key or meaning contains a word; section headings are left out.

    Args:
        word: A section, a key, or a word in any case; empty for all.
    """
    settings = [setting for setting in list_settings() if not setting.is_section]
    below = [setting for setting in settings if f"{setting.key}.".startswith(f"{word}.")]
    lower = word.lower()
    return below or [setting for setting in settings if lower in setting.key.lower() or lower in setting.text.lower()]


def allowed_values(key: str) -> list[str]:
    """Returns the values that a key can have, where its check lists them, or ``true`` and ``false``; else nothing."""
    kind = type_of_key(key)
    if kind is None or is_dataclass(kind):
        return []
    if bool in (kind, *get_args(kind)):
        return ["true", "false"] + (["auto"] if str in get_args(kind) else [])
    *sections, name = key.split(".")
    section: Any = Recipe(task="ranker", out="runs")
    for part in sections:
        section = getattr(section, part)
    wrong = [""] if get_origin(kind) is list else "" if str in (kind, *get_args(kind)) else None
    if wrong is None:
        return []
    try:
        replace(section, **{name: wrong})
    except UserError as error:
        match = re.match(rf"{re.escape(key)}=: must be one of ([^;]+)", str(error))
        return match[1].split(", ") if match else []
    except TypeError:  # a check of numbers, which other values do not reach
        return []
    return []
