"""Folders of a run's results: named after what was evaluated and the settings that differ from the run's own.

Results of one evaluation never replace those of another: ``identity`` tells whether two are the same.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint, read_json
from data_prep.core.results_file import RESULTS
from data_prep.settings import Recipe, check
from data_prep.settings.values import flatten

log = logging.getLogger(__name__)

_SECTIONS = ("data", "retriever", "ranker", "eval")
"""Sections of the recipe that every evaluation depends on."""
# Settings of these sections that leave results as they are, or that a folder's name begins with.
_WITHOUT_EFFECT = {
    "data.on_error", "retriever.batch_size", "retriever.num_workers", "retriever.mmap", "ranker.backend", "ranker.mode",
    "eval.batch_size", "eval.split",
}  # fmt: skip
_SECTIONS_WITHOUT_EFFECT = ("retriever.tuning.", "ranker.lora.", "ranker.objectives.", "ranker.server.")
_ROOT = "data.root"
_MAX_NAME = 80
_DIGITS = 8


def _settings(recipe: Recipe, section: str | None = None) -> dict[str, Any]:
    """Returns the settings that an evaluation depends on, by key; ``section`` is one that a command adds."""
    values = asdict(recipe)
    settings = flatten({name: values[name] for name in (*_SECTIONS, *([section] if section else []))})
    kept = {
        k: v for k, v in settings.items() if k not in _WITHOUT_EFFECT and not k.startswith(_SECTIONS_WITHOUT_EFFECT)
    }
    root = kept[_ROOT] and str(Path(kept[_ROOT]).resolve())
    return kept | {_ROOT: root, "seed": recipe.seed}


def find_changes(
    own: Recipe, recipe: Recipe, ignored: Collection[str] = (), section: str | None = None
) -> dict[str, Any]:
    """Returns the settings in which an evaluation differs from the run's own recipe, with its values, by key.

    Args:
        own: The run's recipe.
        recipe: The evaluation's.
        ignored: Keys that do not count.
        section: A further section that the evaluation depends on, such as ``detection``.
    """
    before, after = _settings(own, section), _settings(recipe, section)
    return {
        key: value for key, value in after.items() if key not in ignored and (key not in before or before[key] != value)
    }


def identify(
    recipe: Recipe,
    changes: Mapping[str, Any],
    models: Collection[str],
    ignored: Collection[str] = (),
    section: str | None = None,
) -> str:
    """Hashes what results depend on, apart from the images: models and settings.

    The data's root counts where it is not the run's own, so that a run may be moved together with its data.

    Args:
        recipe: The evaluation's recipe.
        changes: From ``find_changes``.
        models: Ids or hashes of the models, and whatever else tells the evaluation from others.
        ignored: Keys that do not count.
        section: As for ``find_changes``.
    """
    settings = {key: value for key, value in _settings(recipe, section).items() if key not in (_ROOT, *ignored)}
    return fingerprint([settings, recipe.eval.split, recipe.ranker.mode_label, changes.get(_ROOT), list(models)])


def _format_value(key: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "null")
    return Path(value).name if key == _ROOT and isinstance(value, str) else str(value)


def format_changes(changes: Mapping[str, Any]) -> list[str]:
    """Formats differing settings as ``k=10`` (of the section ``eval``) or ``ranker.dtype=bfloat16``."""
    return [f"{key.removeprefix('eval.')}={_format_value(key, value)}" for key, value in changes.items()]


def result_name(base: str, changes: Mapping[str, Any]) -> str:
    """Makes a folder's name: ``test-likelihood``, or ``test-likelihood-k=10``.

    Of a long one the last settings are left out, with a hash of all of them in their place.
    """
    words = [base, *(re.sub(r"[^\w.,=+-]+", "_", word) for word in format_changes(changes))]
    name = "-".join(words)
    if len(name) <= _MAX_NAME:
        return name
    most = _MAX_NAME - _DIGITS - 1
    while len(words) > 1 and len("-".join(words)) > most:
        words.pop()
    return f"{'-'.join(words)[:most]}-{fingerprint([name, dict(changes)])[:_DIGITS]}"


def _read_evaluation(folder: Path) -> dict | None:
    """Reads what the results in a folder are of; None where there are none, or none that could be read."""
    try:
        results = read_json(folder / RESULTS)
    except UserError:
        return None
    return results.get("evaluation", {}) if isinstance(results, dict) else None


def checkpoint_suffix(run: Path, adapter: Path) -> str:
    """Returns the suffix of the names of results: empty, or a checkpoint's step."""
    return "" if adapter == run / "adapter" else f"-{adapter.stem}"


def is_other(folder: Path, identity: str) -> bool:
    """Returns whether a folder holds the results of another evaluation."""
    held = _read_evaluation(folder)
    return held is not None and held.get("identity") != identity


def check_result_name(name: str) -> None:
    """Checks the name that a user gives to an evaluation.

    Raises:
        UserError: It is not the name of a folder, or one that a run uses itself.
    """
    is_plain = re.fullmatch(r"[\w][\w.,=+ -]*", name) is not None and len(name) <= 100 and not name.endswith((" ", "."))
    check(is_plain, f"--name {name}: give up to 100 letters, digits and . , = + - _, such as --name k10")
    taken = name.startswith(("validation-", "choices-")) or name == "index.html"
    check(not taken, f"--name {name}: a run's own files have such names; give another")


def choose_folder(parent: Path, base: str, changes: Mapping[str, Any], identity: str, name: str | None = None) -> Path:
    """Chooses the folder of an evaluation's results; one with results of another evaluation is never chosen.

    Args:
        parent: Folder of the run's results of this command.
        base: What the name begins with, such as ``test-likelihood``.
        changes: From ``find_changes``.
        identity: From ``identify``.
        name: The name that the user gave; None for one made from ``base`` and ``changes``.

    Raises:
        UserError: ``name`` is no name for a folder, or that folder holds another evaluation.
    """
    if name is not None:
        check_result_name(name)
        folder = parent / name
        held = _read_evaluation(folder)
        if held is not None and held.get("identity") != identity:
            settings = " ".join(format_changes(held.get("changes", {}))) or "the run's own"
            raise UserError(
                f"{folder}: holds another evaluation (its settings: {settings}), which is not overwritten; give "
                "another --name"
            )
        return folder
    folder = parent / result_name(base, changes)
    if is_other(folder, identity):
        other = parent / f"{folder.name}-{identity[:_DIGITS]}"
        log.info("%s holds an evaluation of other models or settings, which is kept: writing %s", folder, other.name)
        return other
    return folder
