"""Recipes: dataclass defaults < recipe YAML < ``key.sub=value`` on the command line."""

from __future__ import annotations

import difflib
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from data_prep.errors import UserError
from data_prep.settings import Recipe, check

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def _known_keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key in config:
        keys.append(prefix + str(key))
        value = None if OmegaConf.is_missing(config, key) else config[key]
        if isinstance(value, DictConfig):
            keys += _known_keys(value, f"{prefix}{key}.")
    return keys


def _leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    """A layer's values, by keys such as ``ranker.lora.rank``."""
    if not isinstance(values, dict):
        return {prefix.rstrip("."): values}
    return {leaf: one for key, value in values.items() for leaf, one in _leaves(value, f"{prefix}{key}.").items()}


def _is_text(key: str) -> bool:
    """Whether a recipe's key takes text."""
    kind: Any = Recipe
    for part in key.split("."):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else None
    return kind in (str, str | None)


def _mistaken(layer: DictConfig) -> dict[str, bool | int | float]:
    """The text keys of a layer, with their values, whose text YAML took for something else: ``off``, ``2026_11``."""
    values = _leaves(OmegaConf.to_container(layer, resolve=False))
    return {key: value for key, value in values.items() if isinstance(value, (bool, int, float)) and _is_text(key)}


def _nearest(key: str, known: list[str]) -> str | None:
    """The known key that resembles this one most, by its whole path or by its last word."""
    whole = difflib.get_close_matches(key, known, 1, 0.5)
    last = {name.split(".")[-1]: name for name in reversed(known)}
    word = difflib.get_close_matches(key.split(".")[-1], list(last), 1, 0.6)
    if "." not in key and word:
        return last[word[0]]
    return whole[0] if whole else last[word[0]] if word else None


def _merge(config: DictConfig, values: DictConfig | ListConfig, source: str) -> DictConfig:
    """Merges one layer into the recipe; an unknown key or a wrong type is an error that names it."""
    known = _known_keys(config)
    for key in _leaves(OmegaConf.to_container(values, resolve=False)):
        if key not in known:
            near = _nearest(key, known)
            raise UserError(f"{source}: unknown key {key}" + (f"; did you mean {near}?" if near else ""))
        section = OmegaConf.is_dict(OmegaConf.select(config, key, throw_on_missing=False))
        check(not section, f"{source}: {key} is a section; give one of its keys, such as {key}.KEY=VALUE")
    try:
        return OmegaConf.merge(config, values)
    except (ConfigKeyError, OmegaConfBaseException) as error:
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
    try:
        layer = OmegaConf.load(path)
    except Exception as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from None
    check(isinstance(layer, DictConfig), f"{path}: a recipe is a mapping of keys to values")
    for key, value in _mistaken(layer).items():
        raise UserError(f"{path}: {key} is text, but YAML reads it as {value}; put it in quotes")
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
    for argument in arguments:
        check("=" in argument, f"{argument}: give settings as key=value, such as recipe=ranker_lora")
    pairs = [argument.split("=", 1) for argument in arguments]
    names = [value for key, value in pairs if key == "recipe"]
    check(len(names) == 1, f"give recipe=NAME once; there are {', '.join(recipe_names())}")
    config = _load_layers(_recipe_path(names[0]), OmegaConf.structured(Recipe))
    return _to_recipe(override(config, [f"{key}={value}" for key, value in pairs if key != "recipe"]))


def override(config: DictConfig, settings: list[str]) -> DictConfig:
    """Merges ``key.sub=value`` settings into a recipe."""
    try:
        layer = OmegaConf.from_dotlist(settings)
    except Exception as error:
        raise UserError(f"command line: {error}") from None
    typed = dict(setting.split("=", 1) for setting in settings if "=" in setting)
    for key in _mistaken(layer):
        OmegaConf.update(layer, key, typed[key])
    return _merge(config, layer, "command line")


def _to_recipe(config: DictConfig) -> Recipe:
    try:
        missing = OmegaConf.missing_keys(config)
        check(not missing, f"recipe: no value for {', '.join(sorted(missing))}")
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(f"recipe: {error.full_key}: {str(error).splitlines()[0]}") from None


def load_saved_recipe(path: Path, settings: list[str]) -> Recipe:
    """Reads the recipe that a run saved and merges settings into it."""
    config = _load_layers(path, OmegaConf.structured(Recipe))
    return _to_recipe(override(config, settings))


def recipe_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.structured(recipe))
