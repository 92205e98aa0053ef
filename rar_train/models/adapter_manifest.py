"""Adapter manifests: an adapter's base, data and validation, and the checksums of its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError
from data_prep.core.manifests import MANIFEST, read_sealed_folder
from data_prep.settings import Recipe
from data_prep.settings.modes import SCORED

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


def shortfall(recipe: Recipe, manifest: Mapping[str, Any]) -> str | None:
    """Says where the tuned ranker is below the retriever's order of the same candidates, and what to do; else None.

    Args:
        recipe: Its ``ranker.mode`` is compared. Of a mode that writes, which validation has on a few examples alone,
            or that was not validated, the best of those that score is.
        manifest: The adapter's: top-1 accuracy by mode and of the ``retriever``, from 0 to 1 (``validation``), and the
            number of validation examples (``val_examples``).
    """
    metrics, mode = manifest.get("validation", {}), recipe.ranker.mode
    if mode not in SCORED or mode not in metrics:
        mode = max(SCORED, key=lambda scored: metrics.get(scored, 0.0))
    if "retriever" not in metrics or metrics[mode] >= metrics["retriever"]:
        return None
    larger = " (recipe=ranker_lora_qwen2_5_vl_7b)" if recipe.ranker.model == "nano-mllm" else ""
    examples, ranked, retrieved = manifest["val_examples"], 100 * metrics[mode], 100 * metrics["retriever"]
    return (
        f"the tuned ranker ({mode}) has {ranked:.1f} % of {examples} validation examples right, below the retriever's "
        f"order of the same candidates, {retrieved:.1f} %: it is no help yet. Train longer (optim.epochs), with "
        f"another optim.lr, on more images, or tune another base{larger}; until then use the retriever's results"
    )
