"""Storage of choices and thresholds in the run, for the evaluation of other splits and for inference."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError
from data_prep.core.files import file_lock, read_sealed, write_sealed
from eval.calibration.choice import Choice
from eval.calibration.open_set import Refusal

log = logging.getLogger(__name__)

_COMMAND = "python -m eval.run --ckpt RUN --split val eval.open_set_fraction=0.2"
_REMEDY = f"delete it and make it again with the settings that it was made with, such as {_COMMAND}"


def choices_path(run: Path, mode: str, adapter: Path) -> Path:
    """Returns where a run stores the choices for a mode: of its final adapter, or of a checkpoint's."""
    suffix = "" if adapter == run / "adapter" else f"-{adapter.stem}"
    return run / "eval" / f"choices-{mode}{suffix}.json"


def save_choices(path: Path, adapter: str, encoder: str, choices: dict[str, Choice], refusal: Refusal | None) -> None:
    """Writes choices; earlier ones of the same models that are not replaced stay.

    Args:
        path: From ``choices_path``.
        adapter: SHA-256 of the adapter that they were made for.
        encoder: Id of the retriever's encoder that they were made for.
        choices: By kind of memory, such as ``few_shot-4``.
        refusal: None leaves the stored one.
    """
    models = {"adapter": adapter, "encoder": encoder}
    with file_lock(path):
        old = read_sealed(path, _REMEDY) if path.exists() else {}
        current = old if models.items() <= old.items() else {}
        new = models | {"choices": current.get("choices", {}), "refusal": current.get("refusal")}
        new["choices"] |= {kind: asdict(choice) for kind, choice in choices.items()}
        new["refusal"] = asdict(refusal) if refusal else new["refusal"]
        write_sealed(path, new)


def load_choices(path: Path, adapter: str, encoder: str) -> tuple[dict[str, Choice], Refusal | None]:
    """Reads choices; none, with a warning, where they were made with another retriever.

    Raises:
        UserError: They were made for another adapter, or the file is damaged.
    """
    if not path.exists():
        return {}, None
    saved = read_sealed(path, _REMEDY)
    if saved["adapter"] != adapter:
        raise UserError(f"{path}: made for another adapter; make them again with {_COMMAND}")
    if saved["encoder"] != encoder:
        log.warning("%s: made with the retriever %s, not with %s: not used", path, saved["encoder"], encoder)
        return {}, None
    choices = {kind: Choice.from_dict(values) for kind, values in saved["choices"].items()}
    return choices, Refusal(**saved["refusal"]) if saved["refusal"] else None


def holds_choices(
    path: Path, adapter: str, encoder: str, choices: Mapping[str, Any], refusal: Mapping[str, Any] | None
) -> bool:
    """Returns whether a file has these choices, for the same models.

    Args:
        path: From ``choices_path``.
        adapter: SHA-256 of the adapter.
        encoder: Id of the retriever's encoder.
        choices: As dictionaries, by kind of memory.
        refusal: As a dictionary; None: any.
    """
    try:
        saved = read_sealed(path, _REMEDY) if path.exists() else {}
    except UserError:  # named by the command that writes it
        return False
    is_same = saved.get("adapter") == adapter and saved.get("encoder") == encoder
    return is_same and choices.items() <= saved["choices"].items() and refusal in (None, saved["refusal"])
