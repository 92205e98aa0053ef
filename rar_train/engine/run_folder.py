"""Run folders: their layout and integrity checks; does not import torch, so that a mistyped ``--ckpt`` fails at once.

``run.json`` contains the run's recipe and the checksums of files that later stages read, so that damage to
``recipe.yaml`` and to these files is detected; and whether its training began, before which the folder is free for
other settings. A result (``adapter/``, ``model/``) has its own manifest.
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
from data_prep.settings.paths import WORKING_FOLDER
from data_prep.settings.values import read_values
from rar_train.models.adapter_manifest import RERUN_ADVICE, read_adapter_manifest

log = logging.getLogger(__name__)

RUN = "run.json"
_PATHS = ("out", "cache", WORKING_FOLDER)  # a run may be moved


def differences(before: dict, after: dict, ignored: Collection[str] = _PATHS, prefix: str = "") -> list[str]:
    """Lists the settings that differ between two recipes, with both values.

    Args:
        before: A recipe's values.
        after: Another recipe's values.
        ignored: Keys, of settings or sections, that may differ.
        prefix: Prefix of the keys in the result.
    """
    changes = []
    for key in sorted(before.keys() | after.keys()):
        name, old, new = prefix + key, before.get(key), after.get(key)
        if name in ignored:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            changes += differences(old, new, ignored, f"{name}.")
        elif old != new:
            changes.append(f"{name}: {old} -> {new}")
    return changes


def _read_saved_recipe(run: Path) -> dict[str, Any]:
    path = run / "recipe.yaml"
    if not path.is_file():
        raise UserError(f"{path}: missing; {RERUN_ADVICE}")
    try:
        return read_values(path)
    except UserError as error:
        raise UserError(f"{error}; {RERUN_ADVICE}") from None


def read_known_recipe(run: Path) -> dict[str, Any] | None:
    """Returns the recipe that a run's folder was claimed with, from whichever of its two files is intact; None if new.

    Raises:
        UserError: Neither is intact.
    """
    if not (run / RUN).exists() and not (run / "recipe.yaml").exists():
        return None
    try:
        return read_sealed(run / RUN, "")["recipe"]
    except UserError as error:
        log.warning("training: %s, so the recipe is read from %s", str(error).removesuffix("; "), run / "recipe.yaml")
    try:
        return _read_saved_recipe(run)
    except UserError as error:
        raise UserError(f"{error}; but {run / RUN} is damaged too, so give another out=FOLDER") from None


def note_recipe(run: Path, values: dict[str, Any]) -> None:
    """Writes ``run.json`` with a recipe's values, and the checksums and the note of the start that it already has."""
    without_paths = {key: value for key, value in values.items() if key not in _PATHS}
    started = has_started(run)
    write_sealed(run / RUN, {"recipe": without_paths, "files": read_checksums(run), "started": started})


def has_started(run: Path) -> bool:
    """Tells whether a run's training began: until then, nothing in its folder is worth keeping.

    A run without a readable note counts as one that did.
    """
    try:
        return read_sealed(run / RUN).get("started", True)
    except UserError:
        return (run / RUN).exists() or (run / "recipe.yaml").exists()


def note_start(recipe: Recipe) -> None:
    """Notes that a run's training begins: from now on the folder is kept for its settings.

    Raises:
        UserError: Another command has replaced the settings since the folder was claimed.
    """
    out = Path(recipe.out)
    record = read_sealed(out / RUN, RERUN_ADVICE)
    changed = differences(record["recipe"], asdict(recipe), _CHANGEABLE)
    if changed:
        raise UserError(
            f"out={out}: another command has since begun a run with other settings there ({'; '.join(changed[:4])}); "
            "give another out=FOLDER"
        )
    if not record.get("started", True):
        write_sealed(out / RUN, record | {"started": True})


def read_checksums(run: Path) -> dict[str, str]:
    """Reads the checksums in ``run.json``; empty where it is missing or damaged."""
    try:
        return read_sealed(run / RUN)["files"]
    except UserError:
        return {}


def record_checksum(run: Path, name: str) -> None:
    """Adds the checksum of a file of the run to ``run.json``."""
    record = read_sealed(run / RUN, RERUN_ADVICE)
    write_sealed(run / RUN, record | {"files": record["files"] | {name: file_hash(run / name)}})


def check_run(run: Path) -> None:
    """Checks a run's recipe, and the files that ``run.json`` lists.

    Raises:
        UserError: The recipe is missing, or a file is damaged or altered. A missing list of mined images is only a
            warning.
    """
    if not (run / RUN).exists():
        log.warning("%s: missing, so damage to the run's recipe and list of mined images can't be detected", run / RUN)
        return
    record = read_sealed(run / RUN, RERUN_ADVICE)
    changed = differences(record["recipe"], _read_saved_recipe(run))
    if changed:
        raise UserError(
            f"{run / 'recipe.yaml'}: damaged or edited since training ({'; '.join(changed[:4])}); {RERUN_ADVICE}. "
            "Change settings on the command line instead"
        )
    for name in record["files"]:
        if not (run / name).exists():
            log.warning("%s: missing, so leaks would not be seen; to restore it, %s", run / name, RERUN_ADVICE)
    damage = find_damage(run, {name: digest for name, digest in record["files"].items() if (run / name).exists()})
    if damage:
        raise UserError(f"{damage}; {RERUN_ADVICE}")


def is_complete(result: Path) -> bool:
    """Tells whether a run's result exists and is intact; damage is logged, and the caller rebuilds it."""
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
    read_sealed_folder(run / "model", RERUN_ADVICE)
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
    read_adapter_manifest(adapter)
    return adapter, run


# Settings that may change when a run is resumed.
_CHANGEABLE = (
    *_PATHS, "eval", "discover", "tracking", "trainer.resume", "trainer.log_every", "trainer.checkpoint_every",
    "trainer.progress", "trainer.num_workers",
)  # fmt: skip


def claim_run_folder(recipe: Recipe) -> Path:
    """Creates the run's folder, or reuses it where its recipe is the same or its training never began.

    Raises:
        UserError: The folder contains a run with other settings whose training began.
    """
    out = Path(recipe.out)
    saved = out / "recipe.yaml"
    if not recipe.trainer.resume and out.exists():
        if any(out.iterdir()) and not saved.exists() and not (out / RUN).exists():
            raise UserError(f"out={out}: holds files, but no run; choose another folder")
        shutil.rmtree(out)
    known = read_known_recipe(out)
    if known is not None:
        changed = differences(known, asdict(recipe), _CHANGEABLE)
        if changed and not has_started(out):
            log.info("training: %s holds a run that never began to train; its settings are replaced", out)
            files = read_checksums(out)
            write_sealed(out / RUN, read_sealed(out / RUN) | {"files": {}})
            for name in files:
                (out / name).unlink(missing_ok=True)
        elif changed:
            raise UserError(
                f"out={out}: holds a run with other settings ({'; '.join(changed[:4])}); "
                "give another out=FOLDER, or trainer.resume=false to start over"
            )
    out.mkdir(parents=True, exist_ok=True)
    note_recipe(out, asdict(recipe))  # before recipe.yaml, without which a folder that has none is a new one
    save_recipe(saved, recipe)
    return out
