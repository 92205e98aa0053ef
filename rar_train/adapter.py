"""The adapter: added by rule, saved in peft's format, and loaded whole or not at all."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import peft
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from data_prep.errors import UserError
from data_prep.files import file_hash, read_json, write_folder, write_json
from data_prep.settings import LoraArgs, Recipe
from rar_train.backend import Mllm

log = logging.getLogger(__name__)


def add_lora(mllm: Mllm, args: LoraArgs) -> Mllm:
    """Wraps the model with a fresh LoRA adapter.

    Args:
        mllm: A base model; it is changed.
        args: Rank, scale, dropout and scope.

    Returns:
        Mllm: The same processor with the wrapped model; only the adapter is trainable.
    """
    pattern = mllm.family.language
    if args.scope == "language+projector":
        pattern = f"({pattern})|({mllm.family.projector})"
    config = peft.LoraConfig(
        r=args.rank, lora_alpha=args.alpha, lora_dropout=args.dropout, target_modules=pattern, bias="none"
    )
    wrapped = peft.get_peft_model(mllm.model, config)
    trainable, total = wrapped.get_nb_trainable_parameters()
    log.info(
        "adapter: %s trainable of %s parameters (%.2f %%)", f"{trainable:,}", f"{total:,}", 100 * trainable / total
    )
    return Mllm(wrapped, mllm.processor, mllm.family, mllm.id)


def save_adapter(mllm: Mllm, folder: Path, recipe: Recipe, facts: dict) -> None:
    """Writes the adapter in peft's format, with a manifest that says what it belongs to.

    Args:
        mllm: A model that ``add_lora`` wrapped.
        folder: Where to; it is whole or as it was before.
        recipe: The run's recipe.
        facts: Put into the manifest.
    """
    import transformers

    with write_folder(folder) as part:
        mllm.model.save_pretrained(part, safe_serialization=True)
        (part / "README.md").unlink(missing_ok=True)  # peft's empty model card
        # peft notes the folder that the base was loaded from, which is this machine's alone.
        config = json.loads((part / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = recipe.ranker.model
        config["target_modules"] = (
            config["target_modules"] if isinstance(config["target_modules"], str) else sorted(config["target_modules"])
        )
        write_json(part / "adapter_config.json", config)
        manifest = {
            "base_model": mllm.id,
            "ranker": recipe.ranker.model,
            "adapter": file_hash(part / "adapter_model.safetensors"),
            "versions": {
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "peft": peft.__version__,
            },
        }
        write_json(part / "manifest.json", manifest | facts)


def load_adapter(mllm: Mllm, folder: Path) -> Mllm:
    """Puts a saved adapter on its base model.

    peft itself only warns when keys do not match, and the base then runs alone; here every key
    and shape must match.

    Args:
        mllm: The base model; it is changed.
        folder: What ``save_adapter`` wrote.

    Raises:
        UserError: The adapter is missing, damaged, made for another base, or fits only in part.
    """
    manifest = read_json(folder / "manifest.json")
    if manifest["base_model"] != mllm.id:
        raise UserError(
            f"{folder}: this adapter was trained on {manifest['ranker']} ({manifest['base_model']}), but {mllm.id} is "
            "loaded; set ranker.model to the base that it was trained on"
        )
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file() or not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder}: holds no adapter_model.safetensors with adapter_config.json")
    read_json(folder / "adapter_config.json")  # says where it is damaged; peft would not
    try:
        saved = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights}: not readable as safetensors ({error})") from None
    wrapped = peft.get_peft_model(mllm.model, peft.LoraConfig.from_pretrained(str(folder)))
    expected = peft.get_peft_model_state_dict(wrapped)
    missing, strange = sorted(expected.keys() - saved.keys()), sorted(saved.keys() - expected.keys())
    misshapen = [key for key in expected.keys() & saved.keys() if expected[key].shape != saved[key].shape]
    if missing or strange or misshapen:
        example = (missing + strange + misshapen)[0]
        raise UserError(
            f"{weights}: does not match the model: {len(missing)} weights missing, {len(strange)} unknown, "
            f"{len(misshapen)} of another shape, such as {example}; nothing was loaded"
        )
    if file_hash(weights) != manifest["adapter"]:
        raise UserError(f"{weights}: its bytes are not those that the manifest names; it is damaged or was exchanged")
    peft.set_peft_model_state_dict(wrapped, saved)
    return Mllm(wrapped.eval(), mllm.processor, mllm.family, mllm.id)
