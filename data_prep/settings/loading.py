"""Loads and saves recipes. Precedence: dataclass defaults < recipe YAML < ``key.sub=value`` on the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_prep.core.errors import UserError
from data_prep.core.files import write_text
from data_prep.core.paths import RECIPES
from data_prep.settings import Recipe, check
from data_prep.settings.trust import check_outside, remember
from data_prep.settings.values import (
    check_value,
    flatten,
    iter_numbers,
    known_keys,
    read_values,
    type_of_key,
    typed_value,
)


def _nearest(key: str, known: list[str]) -> str | None:
    """Returns the known key most similar to this one, compared by full path or by last component."""
    path_matches = difflib.get_close_matches(key, known, 1, 0.5)
    key_by_name = {name.split(".")[-1]: name for name in reversed(known)}
    name_matches = difflib.get_close_matches(key.split(".")[-1], list(key_by_name), 1, 0.6)
    if "." not in key and name_matches:
        return key_by_name[name_matches[0]]
    return path_matches[0] if path_matches else key_by_name[name_matches[0]] if name_matches else None


def _check_keys(keys: Iterable[str], source: str) -> None:
    """Checks that the keys exist, and that none of them is a section."""
    known = known_keys()
    for key in keys:
        if key not in known:
            suggestion = _nearest(key, known)
            raise UserError(f"{source}: unknown key {key}" + (f"; did you mean {suggestion}?" if suggestion else ""))
        is_section = is_dataclass(type_of_key(key))
        check(not is_section, f"{source}: {key} is a section; give one of its keys, such as {key}.KEY=VALUE")


def _merge(config: DictConfig, values: dict[str, Any], source: str) -> DictConfig:
    """Merges one layer into the recipe; an unknown key or a wrong type is an error that names the key."""
    layer = flatten(values)
    _check_keys(layer, source)
    for key, value in layer.items():
        check_value(source, key, value)
    try:
        return cast(DictConfig, OmegaConf.merge(config, values))
    except OmegaConfBaseException as error:
        raise UserError(f"{source}: {error.full_key}: {str(error).splitlines()[0]}") from None


def recipe_names() -> list[str]:
    """Returns the names of the recipes in the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _recipe_path(name: str, folder: Path = Path()) -> Path:
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
    base = layer.pop("base", None)
    if base is not None:
        sibling = path.parent / f"{base}.yaml"
        base_path = sibling if sibling.is_file() else _recipe_path(str(base), path.parent)
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
    config = _load_layers(_recipe_path(names[0]), OmegaConf.structured(Recipe))
    return _to_recipe(_merge(config, settings, "command line"))


def _parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Parses ``key.sub=value`` settings into a layer of nested dictionaries."""
    layer: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        check(bool(equals), f"{setting}: give settings as key=value, such as recipe=ranker_lora")
        _check_keys([key], "command line")
        *sections, name = key.split(".")
        section_values = layer
        for section in sections:
            section_values = section_values.setdefault(section, {})
        section_values[name] = typed_value(key, text)
    return layer


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


def load_saved_recipe(path: Path, settings: Iterable[str]) -> Recipe:
    """Reads the recipe saved with a run or a memory and merges settings into it.

    Raises:
        UserError: The recipe is damaged, or names paths outside its folder that this user never gave (``trust.py``);
            or a setting is invalid.
    """
    saved, overrides = read_values(path), _parse_settings(settings)
    config = _merge(OmegaConf.structured(Recipe), saved, str(path))
    recipe = _to_recipe(_merge(config, overrides, "command line"))
    check_outside(path, saved, set(flatten(overrides)))
    remember(overrides, path.parent)
    return recipe


def recipe_yaml(recipe: Recipe) -> str:
    """Returns the resolved recipe as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.structured(recipe))


def save_recipe(path: Path, recipe: Recipe) -> None:
    """Writes the recipe of a run or a memory, and remembers its paths as given by the user."""
    write_text(path, recipe_yaml(recipe))
    remember(asdict(recipe), path.parent)
