"""Adapter manifests: the base and data an adapter was trained on, and the checksums of its files."""

from __future__ import annotations

from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.manifests import MANIFEST, read_sealed_folder

RERUN_ADVICE = "give the command of rar_train.fit that created this run again, which rebuilds it"


def read_adapter_manifest(adapter: Path) -> dict:
    """Reads the manifest of an adapter and verifies it and the adapter's files.

    Raises:
        UserError: A file is missing or damaged, or another program trained the adapter.
    """
    if (adapter / "adapter_config.json").is_file() and not (adapter / MANIFEST).is_file():
        raise UserError(
            f"{adapter}: has no {MANIFEST}, so what it was trained on is unknown. If another program trained this "
            "adapter (peft, TRL, LLaMA-Factory), merge it into its base there and give the merged folder as "
            f"ranker.model; if rar_train.fit did, {RERUN_ADVICE}"
        )
    if adapter.suffix == ".adapter":
        return read_sealed_folder(
            adapter, f"give --ckpt {adapter.parent.parent} for the run's adapter, or another checkpoint"
        )
    return read_sealed_folder(adapter, RERUN_ADVICE)
