"""Where a run's parts lie; without torch, so that a mistyped ``--ckpt`` is named at once."""

from __future__ import annotations

from pathlib import Path

from data_prep.errors import UserError


def find_adapter(ckpt: Path) -> tuple[Path, Path]:
    """Finds the adapter and the run's folder for ``--ckpt``.

    Raises:
        UserError: There is no adapter there.
    """
    if ckpt.suffix in (".ckpt", ".adapter"):
        adapter, run = ckpt.with_suffix(".adapter"), ckpt.parent.parent
    else:
        adapter, run = ckpt / "adapter", ckpt
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"--ckpt {ckpt}: no run there (no recipe.yaml); give a folder that rar_train.fit wrote")
    if not adapter.is_dir():
        raise UserError(
            f"--ckpt {ckpt}: no adapter at {adapter}; let the training end, or give one of {run}/checkpoints/*.ckpt"
        )
    return adapter, run
