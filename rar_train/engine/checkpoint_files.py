"""The checkpoints in a run's folder: what belongs to each, and which is the newest whole one.

A checkpoint is ``step-N.ckpt``, a file or DeepSpeed's folder. Beside it lie what was saved with it and ``step-N.json``,
which names all files with their checksums. It is written before ``step-N.ckpt`` gets its name.
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
    """The checkpoint of a step."""
    return folder / f"step-{step:08d}.ckpt"


def steps_done(checkpoint: Path | None) -> int:
    """Optimiser steps before a checkpoint; 0 without one."""
    return int(checkpoint.stem.split("-")[1]) if checkpoint else 0


def write_note(final: Path, part: Path, beside: Sequence[Path], needed: Sequence[int]) -> None:
    """Writes ``step-N.json``.

    Args:
        final: The checkpoint, by the name that it will have.
        part: The same, by the name that it has.
        beside: What was saved with it.
        needed: Earlier steps, what was saved with which the run's end needs too.
    """
    own = hash_files(part, final.name)
    for path in beside:
        own |= hash_files(path, path.name)
    write_sealed(final.with_suffix(".json"), {"files": own, "needed": list(needed)})


def fault(checkpoint: Path) -> str | None:
    """What is missing or damaged of a checkpoint, in words; None where it is whole."""
    try:
        note = read_sealed(checkpoint.with_suffix(".json"), "")
        files = dict(note["files"])
        for step in note["needed"]:
            other = checkpoint_path(checkpoint.parent, step)
            saved = read_sealed(other.with_suffix(".json"), "")["files"]
            files |= {name: value for name, value in saved.items() if name.partition("/")[0] != other.name}
    except UserError as error:
        return str(error).removesuffix("; ")
    return find_damage(checkpoint.parent, files)


def newest_whole(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None; the log names those that are passed over, and why."""
    passed = False
    for checkpoint in sorted(folder.glob("step-*.ckpt"), reverse=True):
        found = fault(checkpoint)
        if found is None:
            break
        passed = True
        if is_first_process():
            log.warning("training: %s", found)
    else:
        checkpoint = None
    if passed and is_first_process():
        where = f"from {checkpoint.name}" if checkpoint else "from the beginning, since no checkpoint is whole"
        log.warning("training: it goes on %s", where)
    return checkpoint


def tidy(folder: Path, step: int, kept: int, also: Sequence[int]) -> None:
    """Removes what a run no longer needs after it saved a step.

    Args:
        folder: Of the checkpoints.
        step: The one that was saved. Those of later steps were passed over as damaged.
        kept: How many of the newest are kept.
        also: Steps that are kept too.
    """
    found = sorted({steps_done(path) for path in folder.glob("step-*")})
    keep = {*[one for one in found if one <= step][-kept:], *also}
    for old in (one for one in found if one not in keep):
        for path in folder.glob(f"{checkpoint_path(folder, old).stem}.*"):
            remove(path)
