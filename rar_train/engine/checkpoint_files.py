"""Checkpoint files of a run: checksums, the newest intact checkpoint, removal of old ones.

A checkpoint is ``step-N.ckpt``, a file or DeepSpeed's folder. Next to it are the files that were saved with it and
``step-N.json``, which lists all of them with their checksums. It is written before ``step-N.ckpt`` gets its name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import read_sealed, remove, write_sealed
from data_prep.core.manifests import find_damage, hash_files
from data_prep.core.ranks import is_first_process

log = logging.getLogger(__name__)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Returns the path of a step's checkpoint."""
    return folder / f"step-{step:08d}.ckpt"


def steps_done(checkpoint: Path | None) -> int:
    """Returns the number of optimiser steps before a checkpoint; 0 without one."""
    return int(checkpoint.stem.split("-")[1]) if checkpoint else 0


def write_checksums(final: Path, part: Path, extras: Sequence[Path], needed: Sequence[int]) -> None:
    """Writes ``step-N.json``.

    Args:
        final: The checkpoint's final path.
        part: Its current, temporary path.
        extras: Files and folders that were saved with it.
        needed: Earlier steps whose extra files are needed at the end of the run too.
    """
    files = hash_files(part, final.name)
    for path in extras:
        files |= hash_files(path, path.name)
    write_sealed(final.with_suffix(".json"), {"files": files, "needed": list(needed)})


def find_fault(checkpoint: Path) -> str | None:
    """Describes what is missing or damaged in a checkpoint; None where it is intact."""
    try:
        sealed = read_sealed(checkpoint.with_suffix(".json"), "")
        files = dict(sealed["files"])
        for step in sealed["needed"]:
            earlier = checkpoint_path(checkpoint.parent, step)
            saved = read_sealed(earlier.with_suffix(".json"), "")["files"]
            files |= {name: value for name, value in saved.items() if name.partition("/")[0] != earlier.name}
    except UserError as error:
        return str(error).removesuffix("; ")
    return find_damage(checkpoint.parent, files)


def find_newest_checkpoint(folder: Path) -> Path | None:
    """Returns the newest intact checkpoint, or None; skipped checkpoints are logged with the reason."""
    skipped = False
    for checkpoint in sorted(folder.glob("step-*.ckpt"), reverse=True):
        fault = find_fault(checkpoint)
        if fault is None:
            break
        skipped = True
        if is_first_process():
            log.warning("training: %s", fault)
    else:
        checkpoint = None
    if skipped and is_first_process():
        where = f"from {checkpoint.name}" if checkpoint else "from the beginning, since no checkpoint is intact"
        log.warning("training: it goes on %s", where)
    return checkpoint


def remove_old_checkpoints(folder: Path, step: int, keep_last: int, protected: Sequence[int]) -> None:
    """Removes the checkpoints that a run no longer needs after saving a step.

    Args:
        folder: The checkpoints' folder.
        step: The step just saved. Checkpoints of later steps were skipped as damaged.
        keep_last: Number of the newest checkpoints to keep.
        protected: Further steps to keep.
    """
    steps = sorted({steps_done(path) for path in folder.glob("step-*")})
    keep = {*[saved for saved in steps if saved <= step][-keep_last:], *protected}
    for old in (saved for saved in steps if saved not in keep):
        for path in folder.glob(f"{checkpoint_path(folder, old).stem}.*"):
            remove(path)
