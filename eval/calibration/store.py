"""Storage of fitted fusions and thresholds in the run, for the evaluation of other splits and for inference."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import file_lock, read_sealed, write_sealed
from eval.calibration.fusion import Fusion
from eval.calibration.open_set import Refusal

log = logging.getLogger(__name__)

_COMMAND = "python -m eval.run --ckpt RUN --split val eval.fusion=true eval.open_set_fraction=0.2"
_REMEDY = f"delete it and fit again with the settings that it was fitted with, such as {_COMMAND}"


def fits_path(run: Path, mode: str, adapter: Path) -> Path:
    """Returns where a run stores the fits for a mode: of its final adapter, or of a checkpoint's."""
    suffix = "" if adapter == run / "adapter" else f"-{adapter.stem}"
    return run / "eval" / f"fits-{mode}{suffix}.json"


def save_fits(path: Path, adapter: str, encoder: str, fusions: dict[str, Fusion], refusal: Refusal | None) -> None:
    """Writes fits; earlier fits of the same models that are not replaced stay.

    Args:
        path: From ``fits_path``.
        adapter: SHA-256 of the adapter that they were fitted for.
        encoder: Id of the retriever's encoder that they were fitted for.
        fusions: By kind of setting, such as ``few_shot-4``.
        refusal: None leaves the stored one.
    """
    models = {"adapter": adapter, "encoder": encoder}
    with file_lock(path):
        old = read_sealed(path, _REMEDY) if path.exists() else {}
        current = old if models.items() <= old.items() else {}
        new = models | {"fusion": current.get("fusion", {}), "refusal": current.get("refusal")}
        new["fusion"] |= {kind: asdict(fusion) for kind, fusion in fusions.items()}
        new["refusal"] = asdict(refusal) if refusal else new["refusal"]
        write_sealed(path, new)


def load_fits(path: Path, adapter: str, encoder: str) -> tuple[dict[str, Fusion], Refusal | None]:
    """Reads fits; none, with a warning, where they were fitted with another retriever.

    Raises:
        UserError: They were fitted for another adapter, or the file is damaged.
    """
    if not path.exists():
        return {}, None
    saved = read_sealed(path, _REMEDY)
    if saved["adapter"] != adapter:
        raise UserError(f"{path}: fitted for another adapter; fit again with {_COMMAND}")
    if saved["encoder"] != encoder:
        log.warning("%s: fitted with the retriever %s, not with %s: not used", path, saved["encoder"], encoder)
        return {}, None
    fusions = {kind: Fusion(**values) for kind, values in saved["fusion"].items()}
    return fusions, Refusal(**saved["refusal"]) if saved["refusal"] else None
