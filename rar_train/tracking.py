"""Where a run's figures go: CSV always, Weights & Biases by setting."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger

from data_prep.files import write_text
from data_prep.settings import Recipe


def run_id(folder: Path) -> str:
    """The tracker's run id, made once and kept in the run's folder, so that a resumed run goes on."""
    kept = folder / "wandb_id.txt"
    if not kept.exists():
        write_text(kept, secrets.token_hex(4))
    return kept.read_text().strip()


def loggers_of(recipe: Recipe, start_step: int) -> list[Logger]:
    """The recipe's loggers.

    Args:
        recipe: Names tracker, project and folder.
        start_step: Where this stretch of the run begins; each stretch has its own CSV file,
            ``log/from-step-N/metrics.csv``.
    """
    out = Path(recipe.out)
    loggers: list[Logger] = [CSVLogger(out, name="log", version=f"from-step-{start_step:06d}")]
    if recipe.tracking.wandb != "disabled":
        from lightning.pytorch.loggers import WandbLogger

        loggers.append(
            WandbLogger(
                name=out.name,
                save_dir=out,
                project=recipe.tracking.project,
                entity=recipe.tracking.entity,
                offline=recipe.tracking.wandb == "offline",
                id=run_id(out),
                resume="allow",
                config=asdict(recipe),
            )
        )
    return loggers
