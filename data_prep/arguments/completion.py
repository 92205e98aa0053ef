"""Shell completion of a command line by argcomplete: options, recipes, keys and their values."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any

from data_prep.arguments.reference import allowed_values
from data_prep.settings.loading import recipe_names
from data_prep.settings.values import known_keys, type_of_key

DATASETS = (
    "armory", "emoji", "folder", "imagefolder", "webdataset", "parquet", "imagenet", "caltech101", "dtd", "eurosat",
    "food101", "oxford_flowers", "oxford_pets", "stanford_cars", "sun397", "ucf101", "fgvc_aircraft", "raf_db",
    "cub200", "cars196", "dogs120", "flowers102", "pets37",
)  # fmt: skip
"""The data sets of ``data.name``, whose readers take longer to import than a shell waits for."""


def complete_setting(prefix: str, **_: Any) -> list[str]:
    """Returns what ``recipe=NAME`` or ``key.sub=value`` may go on with.

    Args:
        prefix: What was typed. Without a dot, sections are listed as such; a single one is opened.
    """
    key, equals, value = prefix.partition("=")
    if equals:
        values = {"recipe": recipe_names(), "data.name": DATASETS}.get(key) or allowed_values(key)
        return [f"{key}={name}" for name in values or _files(value) if name.startswith(value)]
    leaves = [f"{name}=" for name in known_keys() if not is_dataclass(type_of_key(name))]
    matching = [name for name in ("recipe=", *leaves) if name.startswith(prefix)]
    depth = prefix.count(".")
    heads = dict.fromkeys(_head(name, depth) for name in matching)
    return list(heads) if len(heads) > 1 else matching


def complete_section(prefix: str, **_: Any) -> list[str]:
    """Returns the keys and sections that start with a prefix."""
    return [key for key in known_keys() if key.startswith(prefix)]


def complete_recipe(prefix: str, **_: Any) -> list[str]:
    """Returns the recipes that start with a prefix."""
    return [name for name in recipe_names() if name.startswith(prefix)]


def _head(key: str, depth: int) -> str:
    """Returns a key up to its next section, with the dot."""
    parts = key.split(".")
    return key if len(parts) == depth + 1 else ".".join(parts[: depth + 1]) + "."


def _files(prefix: str) -> Iterable[str]:
    from argcomplete.completers import FilesCompleter

    return FilesCompleter()(prefix)


def print_candidates(parser: argparse.ArgumentParser) -> None:
    """Prints the candidates for the word at the cursor where the shell reads them, and exits."""
    import argcomplete

    os.environ["_ARGCOMPLETE"] = "2"  # the command line begins with rar and the subcommand
    argcomplete.autocomplete(parser, always_complete_options=False)
