"""Where a run's parts lie, and whether they are whole; without torch, so that a mistyped ``--ckpt`` is named at once.

``run.json`` holds the run's recipe and the checksums of files that later stages read, so that damage to ``recipe.yaml``
and to them is seen. A result (``adapter/``, ``model/``) has a manifest of its own.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, read_sealed, write_sealed
from data_prep.core.manifests import find_damage, read_sealed_folder
from data_prep.settings import Recipe
from data_prep.settings.loading import save_recipe
from data_prep.settings.values import read_values
from rar_train.models.adapter_manifest import AGAIN, adapter_manifest

log = logging.getLogger(__name__)

RUN = "run.json"
_PLACES = ("out", "cache")  # a run may be moved


def differences(one: dict, other: dict, free: Collection[str] = _PLACES, prefix: str = "") -> list[str]:
    """Names the settings that differ between two recipes, with both values.

    Args:
        one: A recipe's values.
        other: Another's.
        free: Keys, of settings or sections, that may differ.
        prefix: Of the keys.
    """
    found = []
    for key in sorted(one.keys() | other.keys()):
        name, a, b = prefix + key, one.get(key), other.get(key)
        if name in free:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, free, f"{name}.")
        elif a != b:
            found.append(f"{name}: {a} -> {b}")
    return found


def _saved_recipe(run: Path) -> dict[str, Any]:
    path = run / "recipe.yaml"
    if not path.is_file():
        raise UserError(f"{path}: missing; {AGAIN}")
    try:
        return read_values(path)
    except UserError as error:
        raise UserError(f"{error}; {AGAIN}") from None


def read_known_recipe(run: Path) -> dict[str, Any] | None:
    """The recipe's values that a run's folder was claimed with, from whichever of its two files is whole; None if new.

    Raises:
        UserError: Neither is.
    """
    if not (run / RUN).exists() and not (run / "recipe.yaml").exists():
        return None
    try:
        return read_sealed(run / RUN, "")["recipe"]
    except UserError as error:
        log.warning("training: %s, so %s says what the run is", str(error).removesuffix("; "), run / "recipe.yaml")
    try:
        return _saved_recipe(run)
    except UserError as error:
        raise UserError(f"{error}; but {run / RUN} is no better, so give another out=FOLDER") from None


def note_recipe(run: Path, values: dict[str, Any]) -> None:
    """Writes ``run.json`` with a recipe's values; checksums that it holds stay."""
    kept = {key: value for key, value in values.items() if key not in _PLACES}
    write_sealed(run / RUN, {"recipe": kept, "files": read_noted_files(run)})


def read_noted_files(run: Path) -> dict[str, str]:
    """The checksums in ``run.json``; none where it is missing or damaged."""
    try:
        return read_sealed(run / RUN)["files"]
    except UserError:
        return {}


def note_file(run: Path, name: str) -> None:
    """Adds the checksum of a file of the run to ``run.json``."""
    noted = read_sealed(run / RUN, AGAIN)
    write_sealed(run / RUN, noted | {"files": noted["files"] | {name: file_hash(run / name)}})


def check_run(run: Path) -> None:
    """Checks a run's recipe, and the files that ``run.json`` names.

    Raises:
        UserError: The recipe is missing, or one is damaged or altered. A list of mined images that is missing is a
            warning, as without a list.
    """
    if not (run / RUN).exists():
        log.warning("%s: missing, so damage to the run's recipe and list of mined images would not be seen", run / RUN)
        return
    noted = read_sealed(run / RUN, AGAIN)
    changed = differences(noted["recipe"], _saved_recipe(run))
    if changed:
        raise UserError(
            f"{run / 'recipe.yaml'}: damaged or edited since training ({'; '.join(changed[:4])}); {AGAIN}. Other "
            "settings go onto the command line"
        )
    for name in noted["files"]:
        if not (run / name).exists():
            log.warning("%s: missing, so leaks would not be seen; to have it back, %s", run / name, AGAIN)
    found = find_damage(run, {name: digest for name, digest in noted["files"].items() if (run / name).exists()})
    if found:
        raise UserError(f"{found}; {AGAIN}")


def is_complete(result: Path) -> bool:
    """Whether a run's result is there and whole; if it is damaged, the log says so, and it is to be made again."""
    if not result.exists():
        return False
    try:
        read_sealed_folder(result, "it is made again")
    except UserError as error:
        log.warning("training: %s", error)
        return False
    return True


def find_model(run: Path) -> Path:
    """Finds the model that a run trained, for ``--ckpt`` of a tuned retriever.

    Raises:
        UserError: There is none, or the run or the model is damaged.
    """
    if not (run / "model").is_dir():
        raise UserError(f"--ckpt {run}: no model at {run / 'model'}; let the training end")
    check_run(run)
    read_sealed_folder(run / "model", AGAIN)
    return run / "model"


def find_adapter(ckpt: Path) -> tuple[Path, Path]:
    """Finds the adapter and the run's folder for ``--ckpt``.

    Raises:
        UserError: There is no adapter there, or it or the run is damaged.
    """
    if ckpt.suffix in (".ckpt", ".adapter"):
        adapter, run = ckpt.with_suffix(".adapter"), ckpt.parent.parent
    else:
        adapter, run = ckpt / "adapter", ckpt
    if not (run / "recipe.yaml").is_file() and not (run / RUN).is_file():
        raise UserError(f"--ckpt {ckpt}: no run there (no recipe.yaml); give a folder that rar_train.fit wrote")
    if not adapter.is_dir():
        raise UserError(
            f"--ckpt {ckpt}: no adapter at {adapter}; let the training end, or give one of {run}/checkpoints/*.ckpt"
        )
    check_run(run)
    adapter_manifest(adapter)
    return adapter, run


# What a resumed run may change without becoming another run.
_FREE = (
    "out", "cache", "eval", "discover", "tracking", "trainer.resume", "trainer.log_every", "trainer.checkpoint_every",
    "trainer.progress",
)  # fmt: skip


def claim_run_folder(recipe: Recipe) -> Path:
    """Makes the run's folder, or finds it with the same recipe.

    Raises:
        UserError: The folder holds a run with other settings.
    """
    out = Path(recipe.out)
    saved = out / "recipe.yaml"
    if not recipe.trainer.resume and out.exists():
        if any(out.iterdir()) and not saved.exists() and not (out / RUN).exists():
            raise UserError(f"out={out}: holds files, but no run; choose another folder")
        shutil.rmtree(out)
    known = read_known_recipe(out)
    if known is not None:
        changed = differences(known, asdict(recipe), _FREE)
        if changed:
            raise UserError(
                f"out={out}: holds a run with other settings ({'; '.join(changed[:4])}); "
                "give another out=FOLDER, or trainer.resume=false to start it anew"
            )
    out.mkdir(parents=True, exist_ok=True)
    save_recipe(saved, recipe)
    note_recipe(out, asdict(recipe))
    return out
