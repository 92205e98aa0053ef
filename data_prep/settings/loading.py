"""Recipes: dataclass defaults < recipe YAML < ``key.sub=value`` on the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_prep.core.errors import UserError
from data_prep.core.files import write_text
from data_prep.core.paths import RECIPES
from data_prep.settings import Recipe, check
from data_prep.settings.trust import check_outside, remember
from data_prep.settings.values import check_value, kind_of, known_keys, leaves, numbers, read_values, typed_value


def _nearest(key: str, known: list[str]) -> str | None:
    """The known key that resembles this one most, by its whole path or by its last word."""
    whole = difflib.get_close_matches(key, known, 1, 0.5)
    last = {name.split(".")[-1]: name for name in reversed(known)}
    word = difflib.get_close_matches(key.split(".")[-1], list(last), 1, 0.6)
    if "." not in key and word:
        return last[word[0]]
    return whole[0] if whole else last[word[0]] if word else None


def _check_keys(keys: Iterable[str], source: str) -> None:
    """Checks that there are such keys, and that none is a whole section."""
    known = known_keys()
    for key in keys:
        if key not in known:
            near = _nearest(key, known)
            raise UserError(f"{source}: unknown key {key}" + (f"; did you mean {near}?" if near else ""))
        section = is_dataclass(kind_of(key))
        check(not section, f"{source}: {key} is a section; give one of its keys, such as {key}.KEY=VALUE")


def _merge(config: DictConfig, values: dict[str, Any], source: str) -> DictConfig:
    """Merges one layer into the recipe; an unknown key or a wrong type is an error that names it."""
    layer = leaves(values)
    _check_keys(layer, source)
    for key, value in layer.items():
        check_value(source, key, value)
    try:
        return OmegaConf.merge(config, values)
    except OmegaConfBaseException as error:
        raise UserError(f"{source}: {error.full_key}: {str(error).splitlines()[0]}") from None


def recipe_names() -> list[str]:
    """The names of the recipes that the package carries."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _recipe_path(name: str, folder: Path = Path()) -> Path:
    """A recipe by its name, or by the path of a YAML file, which may be relative to a folder."""
    if Path(name).suffix in (".yaml", ".yml"):
        check((folder / name).is_file(), f"recipe {folder / name}: no such file")
        return folder / name
    if name not in recipe_names():
        near = difflib.get_close_matches(name, recipe_names(), 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(recipe_names())}."
        raise UserError(f"unknown recipe {name}; {hint} A path to a .yaml file works too.")
    return RECIPES / f"{name}.yaml"


def _load_layers(path: Path, config: DictConfig, seen: tuple[Path, ...] = ()) -> DictConfig:
    """Merges a recipe file after the ones that it names as its ``base``."""
    check(path not in seen, f"{path}: recipes name each other as base: {' -> '.join(p.stem for p in (*seen, path))}")
    layer = read_values(path)
    base = layer.pop("base", None)
    if base is not None:
        sibling = path.parent / f"{base}.yaml"
        below = sibling if sibling.is_file() else _recipe_path(str(base), path.parent)
        config = _load_layers(below, config, (*seen, path))
    return _merge(config, layer, str(path))


def load_recipe(arguments: list[str]) -> Recipe:
    """Resolves a command line to a recipe.

    Args:
        arguments: ``recipe=NAME`` or ``recipe=PATH.yaml`` and any number of ``key.sub=value``.

    Returns:
        Recipe: Typed and checked.

    Raises:
        UserError: No recipe, an unknown recipe or key (the nearest is named), or a value of the
            wrong type or out of range.
    """
    names = [argument.partition("=")[2] for argument in arguments if argument.startswith("recipe=")]
    settings = _typed([argument for argument in arguments if not argument.startswith("recipe=")])
    check(len(names) == 1, f"give recipe=NAME once; there are {', '.join(recipe_names())}")
    config = _load_layers(_recipe_path(names[0]), OmegaConf.structured(Recipe))
    return _to_recipe(_merge(config, settings, "command line"))


def _typed(settings: Iterable[str]) -> dict[str, Any]:
    """The values of ``key.sub=value`` settings, as a layer."""
    layer: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        check(bool(equals), f"{setting}: give settings as key=value, such as recipe=ranker_lora")
        _check_keys([key], "command line")
        *sections, name = key.split(".")
        place = layer
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = typed_value(key, text)
    return layer


def _to_recipe(config: DictConfig) -> Recipe:
    try:
        missing = OmegaConf.missing_keys(config)
        check(not missing, f"recipe: no value for {', '.join(sorted(missing))}")
        recipe = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(f"recipe: {error.full_key}: {str(error).splitlines()[0]}") from None
    for key, value in leaves(asdict(recipe)).items():
        for number in numbers(value):  # libraries take no larger ones; NaN is not below it either
            check(abs(number) < 2**63, f"{key}={number}: must be a number below 2^63")
    return recipe


def load_saved_recipe(path: Path, settings: Iterable[str]) -> Recipe:
    """Reads the recipe that a run or a memory saved and merges settings into it.

    Raises:
        UserError: It is damaged, or names paths outside its folder that this user never gave (``trust.py``); or a
            setting is not one.
    """
    saved, given = read_values(path), _typed(settings)
    config = _merge(OmegaConf.structured(Recipe), saved, str(path))
    recipe = _to_recipe(_merge(config, given, "command line"))
    check_outside(path, saved, set(leaves(given)))
    remember(given, path.parent)
    return recipe


def recipe_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.structured(recipe))


def save_recipe(path: Path, recipe: Recipe) -> None:
    """Writes the recipe of a run or a memory, and remembers its paths as the user's."""
    write_text(path, recipe_yaml(recipe))
    remember(asdict(recipe), path.parent)
