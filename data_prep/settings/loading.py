"""Loads and saves recipes. Precedence: dataclass defaults < recipe YAML < ``key.sub=value`` on the command line."""

from __future__ import annotations

import difflib
import logging
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_prep.core.errors import UserError
from data_prep.core.files import write_text
from data_prep.core.paths import RECIPES
from data_prep.settings import Recipe, check
from data_prep.settings.hints import key_hint, suggest_key
from data_prep.settings.paths import (
    WORKING_FOLDER,
    expand_homes,
    paths_from,
    read_root_as_folder,
    take_working_folder,
    working_folder,
)
from data_prep.settings.trust import check_outside, is_known, remember, remember_path
from data_prep.settings.values import (
    check_value,
    coerce_value,
    describe_type,
    flatten,
    iter_numbers,
    known_keys,
    nest,
    read_values,
    type_of_key,
    typed_value,
)

log = logging.getLogger(__name__)


def _check_keys(keys: Iterable[str], source: str) -> None:
    """Checks that the keys exist, and that none of them is a section."""
    known = known_keys()
    for key in keys:
        if key not in known:
            raise UserError(f"{source}: unknown key {key}{key_hint(key, known)}")
        is_section = is_dataclass(type_of_key(key))
        check(not is_section, f"{source}: {key} is a section; give one of its keys, such as {key}.KEY=VALUE")


def _merge(config: DictConfig, values: dict[str, Any], source: str) -> DictConfig:
    """Merges one layer into the recipe; an unknown key or a wrong type is an error that names the key."""
    layer = flatten(values)
    _check_keys(layer, source)
    layer = {key: coerce_value(key, value) for key, value in layer.items()}
    for key, value in layer.items():
        check_value(source, key, value)
    try:
        return cast(DictConfig, OmegaConf.merge(config, nest(layer)))
    except OmegaConfBaseException as error:
        raise _type_error(source, error, layer) from None


def _type_error(source: str, error: OmegaConfBaseException, layer: dict[str, Any]) -> UserError:
    """Says which value has the wrong type, and what the key takes."""
    key = str(error.full_key).partition("[")[0]
    if key not in layer or is_dataclass(type_of_key(key)):
        return UserError(f"{source}: {error.full_key}: {str(error).splitlines()[0]}")
    value, kind = layer[key], type_of_key(key)
    shown = "null" if value is None else f"[{','.join(map(str, value))}]" if isinstance(value, list) else value
    default = f"; leave it out for the default, {OmegaConf.select(_defaults(), key)}" if value is None else ""
    return UserError(f"{source}: {key}={shown}: must be {describe_type(kind)}{default}")


def _defaults() -> DictConfig:
    return OmegaConf.structured(Recipe)


def recipe_names() -> list[str]:
    """Returns the names of the recipes in the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_path(name: str, folder: Path = Path()) -> Path:
    """Returns the path of a recipe given by name or by YAML path, which may be relative to ``folder``."""
    if Path(name).suffix in (".yaml", ".yml"):
        check((folder / name).is_file(), f"recipe {folder / name}: no such file")
        return folder / name
    if name not in recipe_names():
        matches = difflib.get_close_matches(name, recipe_names(), 1, 0.4)
        hint = f"did you mean {matches[0]}?" if matches else f"there are {', '.join(recipe_names())}."
        raise UserError(f"unknown recipe {name}; {hint} A path to a .yaml file works too.")
    return RECIPES / f"{name}.yaml"


def _load_layers(path: Path, config: DictConfig, seen: tuple[Path, ...] = ()) -> DictConfig:
    """Merges a recipe file on top of the chain of files that it names as ``base``."""
    check(path not in seen, f"{path}: recipes name each other as base: {' -> '.join(p.stem for p in (*seen, path))}")
    layer = read_values(path)
    layer.pop(WORKING_FOLDER, None)  # of a run's recipe
    base = layer.pop("base", None)
    if base is not None:
        sibling = path.parent / f"{base}.yaml"
        base_path = sibling if sibling.is_file() else recipe_path(str(base), path.parent)
        config = _load_layers(base_path, config, (*seen, path))
    return _merge(config, layer, str(path))


def load_recipe(arguments: list[str]) -> Recipe:
    """Resolves a command line to a recipe.

    Args:
        arguments: ``recipe=NAME`` or ``recipe=PATH.yaml`` and any number of ``key.sub=value``.

    Returns:
        Recipe: Typed and validated.

    Raises:
        UserError: No recipe is given, a recipe or key is unknown (the message suggests the nearest),
            or a value has the wrong type or is out of range.
    """
    names = [argument.partition("=")[2] for argument in arguments if argument.startswith("recipe=")]
    settings = _parse_settings([argument for argument in arguments if not argument.startswith("recipe=")])
    check(len(names) == 1, f"give recipe=NAME once; there are {', '.join(recipe_names())}")
    config = _load_layers(recipe_path(names[0]), _defaults())
    return _to_recipe(_merge(config, read_root_as_folder(settings, config.data.name), "command line"))


def _parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Parses ``key.sub=value`` settings into a layer of nested dictionaries; ``~`` is the home folder."""
    layer: dict[str, Any] = {}
    for index, setting in enumerate(settings):
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UserError(_word_hint(setting, settings[index + 1 :]))
        check(key != "recipe", f"{setting}: a run and a memory have their recipe; change its settings by key=value")
        _check_keys([key], "command line")
        layer[key] = expand_homes(typed_value(key, text))
    return nest(layer)


def _word_hint(word: str, following: Sequence[str]) -> str:
    """Says how to write a word that is no ``key=value``, with the value that follows it."""
    if word in recipe_names() or Path(word).suffix in (".yaml", ".yml"):
        return f"{word}: give a recipe as recipe={word}"
    values = [value for value in following if value != "="][:1]
    suggestion = suggest_key(word, known_keys()) if re.match(r"[A-Za-z]", word) else None
    if suggestion is None or is_dataclass(type_of_key(suggestion[0])):
        return f"{word}: give settings as key=value without spaces, such as optim.lr=1e-4"
    key, remark = suggestion
    value = values[0] if values and "=" not in values[0] else "VALUE"
    return f"{word}: give settings as key=value: {key}={value}" + (f" ({remark})" if remark else "")


def check_settings(arguments: Iterable[str]) -> None:
    """Checks ``recipe=NAME`` and ``key.sub=value`` arguments without the recipe that they change.

    Raises:
        UserError: A key or a recipe is unknown, or a value is not readable or has the wrong type.
    """
    names = [argument.partition("=")[2] for argument in arguments if argument.startswith("recipe=")]
    settings = _parse_settings([argument for argument in arguments if not argument.startswith("recipe=")])
    _merge(_defaults(), settings, "command line")
    for name in names:
        recipe_path(name)


def _to_recipe(config: DictConfig) -> Recipe:
    try:
        missing = OmegaConf.missing_keys(config)
        check(not missing, f"recipe: no value for {', '.join(sorted(missing))}")
        recipe = cast(Recipe, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise UserError(f"recipe: {error.full_key}: {str(error).splitlines()[0]}") from None
    for key, value in flatten(asdict(recipe)).items():
        for number in iter_numbers(value):  # libraries accept no larger ones; NaN fails the comparison too
            check(abs(number) < 2**63, f"{key}={number}: must be a number below 2^63")
    return recipe


@cache
def _log_working_folder(run: Path, folder: Path) -> None:
    """Logs where a run's relative paths start, once."""
    log.info("%s: its relative paths start from %s, where it was made", run, folder)


def load_saved_recipe(path: Path, settings: Sequence[str]) -> Recipe:
    """Reads the recipe saved with a run or a memory and merges settings into it.

    Its relative paths are relative to the folder that they were typed in, if that is on this machine and was this
    user's, and else to the working folder.

    Raises:
        UserError: The recipe is damaged, or names paths outside its folder that this user never gave (``trust.py``);
            or a setting is invalid.
    """
    saved, overrides = read_values(path), _parse_settings(settings)
    typed_in = take_working_folder(path, saved)
    if typed_in is not None and not is_known(WORKING_FOLDER, str(typed_in)):  # named by another machine or user
        typed_in = None
    values = paths_from(typed_in, saved) if typed_in else saved
    if values != saved:
        _log_working_folder(path.parent, typed_in)
    config = _merge(_defaults(), values, str(path))
    overrides = read_root_as_folder(overrides, config.data.name)
    recipe = _to_recipe(_merge(config, overrides, "command line"))
    check_outside(path, saved, set(flatten(overrides)), typed_in or Path())
    remember(overrides, path.parent)
    return recipe


def given_values(settings: Sequence[str], folder: Path) -> dict[str, Any]:
    """Parses settings that a user gave to a command without a recipe, and remembers their paths and code as given.

    Raises:
        UserError: A key is unknown, or a value has the wrong type.
    """
    values = _parse_settings(settings)
    _merge(_defaults(), values, "command line")
    remember(values, folder)
    return values


def recipe_yaml(recipe: Recipe) -> str:
    """Returns the resolved recipe as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.structured(recipe))


def save_recipe(path: Path, recipe: Recipe) -> None:
    """Writes the recipe of a run or a memory with the working folder, and remembers its paths as given by the user."""
    folder = working_folder()
    lines = recipe_yaml(recipe)
    if folder is not None:
        lines += yaml.safe_dump({WORKING_FOLDER: folder}, allow_unicode=True, width=sys.maxsize)
        remember_path(WORKING_FOLDER, folder)
    write_text(path, lines)
    remember(asdict(recipe), path.parent)
