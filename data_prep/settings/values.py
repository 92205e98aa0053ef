"""Values of a recipe's keys, as they are written in a file or typed on a command line: text is text, the rest YAML."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf

from data_prep.core.errors import UserError
from data_prep.settings import Recipe, check

_TEXT = (str, str | None)
_MOST_BYTES = 1_000_000  # of a recipe file
_DEEPEST = 20  # levels of its YAML


def known_keys(section: type = Recipe, prefix: str = "") -> list[str]:
    """Every key of a recipe, such as ``ranker.lora.rank``, and its sections."""
    keys: list[str] = []
    for name, kind in get_type_hints(section).items():
        keys += [prefix + name, *(known_keys(kind, f"{prefix}{name}.") if is_dataclass(kind) else ())]
    return keys


def kind_of(key: str) -> Any:
    """The type of a recipe's key; None if there is no such key."""
    kind: Any = Recipe
    for part in key.split("."):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else None
    return kind


def typed_value(key: str, text: str) -> Any:
    """Reads what was typed for a key.

    A key of text takes it as it is; where it may have none, ``null`` or nothing says so. A list of text is YAML's list,
    whose elements are text. Everything else is YAML.

    Raises:
        UserError: It is not readable as YAML.
    """
    kind = kind_of(key)
    if kind in _TEXT:
        return None if kind is not str and text in ("", "null") else text
    try:
        if kind == list[str]:
            return yaml.load(text, Loader=yaml.BaseLoader)
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)["value"]
    except Exception as error:
        said = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UserError(
            f"command line: {key}={text}: not readable as YAML ({said}); in a list, put text that holds commas, "
            "brackets, braces, # or ': ' in quotes"
        ) from None


def read_values(path: Path) -> dict[str, Any]:
    """Reads a recipe file, which is data: no anchors, no interpolation, no tags of Python's.

    Raises:
        UserError: It is not readable as YAML, or holds what a recipe does not.
    """
    check(path.is_file() or not path.exists(), f"{path}: not a file; a recipe is one")  # a pipe would be waited for
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_MOST_BYTES + 1)
        check(len(text) <= _MOST_BYTES, f"{path}: larger than {_MOST_BYTES} bytes; no recipe is")
        _check_plain(path, text)
        values = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UserError:
        raise
    except Exception as error:  # of several libraries
        raise UserError(f"{path}: not readable as YAML: {error}") from None
    check(isinstance(values, dict), f"{path}: a recipe is a mapping of keys to values")
    return values


def _check_plain(path: Path, text: str) -> None:
    """Looks at the YAML's events, before anything is made of it that could grow."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        place = f"{path}, line {event.start_mark.line + 1}"
        check(depth <= _DEEPEST, f"{place}: nested more than {_DEEPEST} deep; no recipe is")
        if isinstance(event, yaml.AliasEvent):
            raise UserError(f"{place}: an alias (*{event.anchor}); write it out")
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and "python" in (event.tag or ""):
            raise UserError(f"{place}: a tag of Python's; a recipe is plain data")


def leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    """A layer's values, by keys such as ``ranker.lora.rank``."""
    if not isinstance(values, dict):
        return {prefix.rstrip("."): values}
    return {leaf: one for key, value in values.items() for leaf, one in leaves(value, f"{prefix}{key}.").items()}


def texts(value: Any) -> Iterator[str]:
    """All text in a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from texts(one)


def check_value(source: str, key: str, value: Any) -> None:
    """Checks that a value can be kept in a recipe and means itself.

    Raises:
        UserError: It is no list where one is needed, text for YAML alone, or text that refers to something else
            (``${…}``) or is not valid.
    """
    kind, given = kind_of(key), "" if value is None else value
    listed = get_origin(kind) is not list or isinstance(value, list)
    check(listed, f"{source}: {key}={given}: is a list; write it in brackets, such as [{given}]")
    for name, read in _misread(value, kind, key):
        raise UserError(f"{source}: {name} is text, but YAML reads it as {read}; put it in quotes")
    for text in texts(value):
        shown = f"{source}: {key}={text.encode('utf-8', 'backslashreplace').decode()}"
        check(
            "${" not in text,
            f"{shown}: ${{ would refer to something else, and a recipe has no references; write it out",
        )
        check(text != "???", f"{shown}: no value")
        home = text.removeprefix("local-dir:").startswith("~")
        check(not home, f"{shown}: ~ is not expanded here; give the whole path, or ./~ for a folder of that name")
        check("\0" not in text, f"{shown!r}: holds a zero byte")
        check(text.isascii() or _is_unicode(text), f"{shown}: not UTF-8; rename it, or link to it by another name")


def numbers(value: Any) -> Iterator[int | float]:
    """All numbers in a value, at any depth."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers(one)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _misread(value: Any, kind: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The keys of text whose text YAML took for something else: ``off``, ``2026_11``, ``a: b``; with what it read."""
    if isinstance(value, dict) and is_dataclass(kind):
        hints = get_type_hints(kind)
        for name, one in value.items():
            yield from _misread(one, hints.get(name), f"{key}.{name}")
    elif isinstance(value, list) and get_origin(kind) is list:
        for one in value:
            yield from _misread(one, get_args(kind)[0], key)
    elif kind in _TEXT and isinstance(value, (bool, int, float, dict, list)):
        yield key, value
