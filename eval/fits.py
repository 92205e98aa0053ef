"""What was fitted on the development split, kept in the run for the evaluation of others and for inference."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from data_prep.errors import UserError
from data_prep.files import locked, read_json, write_json
from eval.fusion import Fusion
from eval.unknown import Refusal


def fits_path(run: Path, mode: str) -> Path:
    """Where a run keeps what was fitted for a mode."""
    return run / "eval" / f"fits-{mode}.json"


def save_fits(path: Path, adapter: str, fusions: dict[str, Fusion], refusal: Refusal | None) -> None:
    """Writes fits; those of the same adapter that are not renewed stay.

    Args:
        path: From ``fits_path``.
        adapter: SHA-256 of the adapter that they belong to.
        fusions: By kind of setting, such as ``few_shot-4``.
        refusal: Or None.
    """
    with locked(path):
        old = read_json(path) if path.exists() else {}
        kept = old if old.get("adapter") == adapter else {}
        new = {"adapter": adapter, "fusion": kept.get("fusion", {}), "refusal": kept.get("refusal")}
        new["fusion"] |= {kind: asdict(fusion) for kind, fusion in fusions.items()}
        new["refusal"] = asdict(refusal) if refusal else new["refusal"]
        write_json(path, new)


def load_fits(path: Path, adapter: str) -> tuple[dict[str, Fusion], Refusal | None]:
    """Reads fits.

    Raises:
        UserError: They belong to another adapter.
    """
    if not path.exists():
        return {}, None
    saved = read_json(path)
    if saved["adapter"] != adapter:
        raise UserError(
            f"{path}: fitted for another adapter; fit again with "
            "python -m eval.run --ckpt RUN --split development eval.fusion=true eval.unknown=0.2"
        )
    fusions = {kind: Fusion(**values) for kind, values in saved["fusion"].items()}
    return fusions, Refusal(**saved["refusal"]) if saved["refusal"] else None
