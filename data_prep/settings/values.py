"""Parses and validates recipe values from files and the command line: text keys are verbatim, the rest is YAML."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf

from data_prep.core.errors import UserError
from data_prep.core.paths import split_prefix
from data_prep.settings import Recipe, check

_TEXT = (str, str | None)
_MAX_BYTES = 1_000_000  # of a recipe file
_MAX_DEPTH = 20  # nesting levels of its YAML


_types_of: Callable[[Any], dict[str, Any]] = cache(get_type_hints)  # slow, and a recipe looks up hundreds of keys


def known_keys(section: Any = Recipe, prefix: str = "") -> list[str]:
    """Lists every key of a recipe, such as ``ranker.lora.rank``, sections included."""
    keys: list[str] = []
    for name, kind in _types_of(section).items():
        keys += [prefix + name, *(known_keys(kind, f"{prefix}{name}.") if is_dataclass(kind) else ())]
    return keys


def type_of_key(key: str) -> Any:
    """Returns the type of a recipe key; None if there is no such key."""
    kind: Any = Recipe
    for part in key.split("."):
        kind = _types_of(kind).get(part) if is_dataclass(kind) else None
    return kind


def typed_value(key: str, text: str) -> Any:
    """Parses the text typed for a key on the command line.

    A text key takes it verbatim; if the key is optional, ``null`` or an empty value means None. A list of text is a
    YAML list whose elements stay text; without brackets the whole is its one element. Everything else is YAML.

    Raises:
        UserError: The value is not readable as YAML.
    """
    kind = type_of_key(key)
    if kind in _TEXT:
        return None if kind is not str and text in ("", "null") else text
    try:
        if kind == list[str]:
            return yaml.load(text, Loader=yaml.BaseLoader) if text.strip().startswith(("[", "-")) else text or None
        parsed: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
        return parsed["value"]
    except Exception as error:
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UserError(
            f"command line: {key}={text}: not readable as YAML ({problem}); in a list, put text that contains commas, "
            "brackets, braces, # or ': ' in quotes"
        ) from None


def read_values(path: Path) -> dict[str, Any]:
    """Reads a recipe file, which is plain data: no anchors, no interpolation, no Python tags.

    Raises:
        UserError: The file is not readable as YAML, or contains something that is not allowed in a recipe.
    """
    check(path.is_file() or not path.exists(), f"{path}: not a file; give the path of a recipe")  # a pipe would block
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_MAX_BYTES + 1)
        check(len(text) <= _MAX_BYTES, f"{path}: larger than {_MAX_BYTES} bytes, the limit for a recipe")
        _check_plain(path, text)
        values: Any = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UserError:
        raise
    except Exception as error:  # raised by several libraries
        raise UserError(f"{path}: not readable as YAML: {error}") from None
    check(isinstance(values, dict), f"{path}: a recipe is a mapping of keys to values")
    return values


def _check_plain(path: Path, text: str) -> None:
    """Checks the YAML events, before any object is built from them that could grow without bound."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        location = f"{path}, line {event.start_mark.line + 1 if event.start_mark else '?'}"
        check(depth <= _MAX_DEPTH, f"{location}: nested more than {_MAX_DEPTH} deep, the limit for a recipe")
        if isinstance(event, yaml.AliasEvent):
            raise UserError(f"{location}: an alias (*{event.anchor}); write the value out")
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and "python" in (event.tag or ""):
            raise UserError(f"{location}: a Python tag; a recipe is plain data")


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens a layer: its values by full keys such as ``ranker.lora.rank``."""
    if not isinstance(values, dict):
        return {prefix.rstrip("."): values}
    return {
        full_key: leaf for key, value in values.items() for full_key, leaf in flatten(value, f"{prefix}{key}.").items()
    }


def nest(layer: dict[str, Any]) -> dict[str, Any]:
    """Builds the nested dictionaries of values by full keys; the inverse of ``flatten``."""
    nested: dict[str, Any] = {}
    for key, value in layer.items():
        *sections, name = key.split(".")
        values = nested
        for section in sections:
            values = values.setdefault(section, {})
        values[name] = value
    return nested


def coerce_value(key: str, value: Any) -> Any:
    """Returns a value in the type of its key, where what was written can only mean that.

    A single value stands for a list of one, numbers between commas for a list of numbers, and ``1e3`` or ``8.0`` for a
    whole number.
    """
    kind = type_of_key(key)
    if get_origin(kind) is list and value is not None and not isinstance(value, (list, dict)):
        is_text = get_args(kind)[0] is str
        parts = str(value).split(",") if isinstance(value, str) and not is_text else [value]
        return [_coerce(part if is_text else _number(part), get_args(kind)[0]) for part in parts]
    if get_origin(kind) is list and isinstance(value, list):
        return [_coerce(element, get_args(kind)[0]) for element in value]
    return _coerce(value, kind)


def _number(part: Any) -> Any:
    """Parses a number of a list that is written without brackets; anything else stays as it is."""
    try:
        return yaml.safe_load(part) if isinstance(part, str) else part
    except yaml.YAMLError:
        return part


def _coerce(value: Any, kind: Any) -> Any:
    is_whole = int in (kind, *get_args(kind)) and float not in (kind, *get_args(kind))
    return int(value) if is_whole and isinstance(value, float) and value.is_integer() else value


_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def describe_type(kind: Any) -> str:
    """Describes the type of a key in words, such as ``a list of whole numbers, such as [1,2]``."""
    if get_origin(kind) is list:
        element, example = get_args(kind)[0], {int: "[1,4]", float: "[0.5,0.5]", str: "[a,b]"}
        plural = {int: "whole numbers", float: "numbers", str: "texts"}.get(element, "mappings")
        return f"a list of {plural}" + (f", such as {example[element]}" if element in example else "")
    options = [_TYPES[option] for option in get_args(kind) or (kind,) if option in _TYPES]
    return " or ".join(options) + (", or null" if type(None) in get_args(kind) else "")


def iter_texts(value: Any) -> Iterator[str]:
    """Yields all text in a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for element in value.values() if isinstance(value, dict) else value:
            yield from iter_texts(element)


def check_value(source: str, key: str, value: Any) -> None:
    """Checks that a value can be stored in a recipe and is literal.

    Raises:
        UserError: The value is not a list where one is needed, is text that YAML read as another type, or is text that
            refers to something else (``${…}``) or is not valid.
    """
    kind, shown_value = type_of_key(key), "" if value is None else value
    is_list = get_origin(kind) is not list or isinstance(value, list)
    check(is_list, f"{source}: {key}={shown_value}: is a list; write it in brackets, [] for an empty one")
    means_none = kind == (str | None) and str(value).lower() in ("none", "null")
    check(
        not means_none or value is None,
        f"{source}: {key}={shown_value}: write null for none, or ./{shown_value} for a file of that name",
    )
    for name, parsed in _misread(value, kind, key):
        raise UserError(f"{source}: {name} is text, but YAML reads it as {parsed}; put it in quotes")
    for text in iter_texts(value):
        shown = f"{source}: {key}={text.encode('utf-8', 'backslashreplace').decode()}"
        check(
            "${" not in text,
            f"{shown}: ${{ is a reference, and a recipe has no references; write the value out",
        )
        check(text != "???", f"{shown}: no value; ??? means a missing one")
        has_tilde = split_prefix(text)[1].startswith("~")
        check(not has_tilde, f"{shown}: ~ is no home folder here; give the full path, or ./~ for a folder of that name")
        check("\0" not in text, f"{shown!r}: contains a zero byte")
        check(text.isascii() or _is_unicode(text), f"{shown}: not UTF-8; rename it, or link to it by another name")


def iter_numbers(value: Any) -> Iterator[int | float]:
    """Yields all numbers in a value, at any depth."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (dict, list)):
        for element in value.values() if isinstance(value, dict) else value:
            yield from iter_numbers(element)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _misread(value: Any, kind: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yields text keys whose value YAML parsed as another type (``off``, ``2026_11``, ``a: b``), with that value."""
    if isinstance(value, dict) and is_dataclass(kind):
        hints = get_type_hints(kind)
        for name, element in value.items():
            yield from _misread(element, hints.get(name), f"{key}.{name}")
    elif isinstance(value, list) and get_origin(kind) is list:
        for element in value:
            yield from _misread(element, get_args(kind)[0], key)
    elif kind in _TEXT and isinstance(value, (bool, int, float, dict, list)):
        yield key, value
