"""What inference servers do not take of an adapter, by its scope and kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_prep.core.files import read_json
from rar_train.models.lora import PARTS

DEFAULT_MAX_RANK = 16
"""vLLM's ``--max-lora-rank`` where it is not given."""


def serving_limits(adapter: Path, adapted: Sequence[str]) -> list[str]:
    """Returns a sentence for each thing that a server refuses, or silently leaves out, of an adapter.

    Args:
        adapter: The adapter's folder.
        adapted: ``adapted`` of its manifest: the parts of the MLLM that its LoRA weights change.
    """
    config, limits = read_json(adapter / "adapter_config.json"), []
    outside = [part for part in PARTS[1:] if part in adapted]
    if outside:
        limits.append(
            f"It adapts the {' and the '.join(outside)}, which vLLM silently leaves out unless it is started with "
            "--enable-tower-connector-lora and the model supports that."
        )
    if config.get("modules_to_save"):
        limits.append("It holds the whole projector (ranker.lora.projector=full), which vLLM refuses.")
    if config.get("use_dora"):
        limits.append("It is a DoRA adapter, which vLLM refuses.")
    if config["r"] > DEFAULT_MAX_RANK:
        limits.append(f"Its rank is {config['r']}: give vLLM --max-lora-rank {config['r']} or more.")
    return limits
