"""What inference servers do not take of an adapter, by its scope and kind."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from data_prep.core.files import read_json
from rar_train.models.families import FAMILIES
from rar_train.models.lora import PARTS, find_part

DEFAULT_MAX_RANK = 16
"""vLLM's ``--max-lora-rank`` where it is not given."""


def _adapted_parts(adapter: Path, base_model: str) -> list[str]:
    """Lists the parts of the MLLM that an adapter's LoRA weights change.

    Args:
        adapter: The adapter's folder.
        base_model: ``base_model`` of its manifest, which begins with the family.
    """
    family = FAMILIES[base_model.rpartition("-")[0]]
    with safe_open(adapter / "adapter_model.safetensors", "pt") as weights:
        parts = {find_part(name, family) for name in weights.keys() if "lora_" in name}  # noqa: SIM118
    return [part for part in PARTS if part in parts]


def serving_limits(adapter: Path, base_model: str) -> list[str]:
    """Returns a sentence for each thing that a server refuses, or silently leaves out, of an adapter.

    Args:
        adapter: The adapter's folder.
        base_model: ``base_model`` of its manifest.
    """
    config, limits = read_json(adapter / "adapter_config.json"), []
    outside = [part for part in _adapted_parts(adapter, base_model) if part != PARTS[0]]
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
