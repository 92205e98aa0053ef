"""LoRA adapters: added by scope, saved in peft's format, and loaded completely or not at all."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import peft
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, write_folder, write_json
from data_prep.core.manifests import seal_folder
from data_prep.prompting.prompts import NAMING, letters_prompt, list_prompt, yes_no_prompt
from data_prep.settings import LoraArgs, Recipe
from rar_train.families.table import Family
from rar_train.models.adapter_manifest import read_adapter_manifest
from rar_train.models.mllm import Mllm

log = logging.getLogger(__name__)


# The prompts of training, with an example name; evaluation uses the same.
PROMPTS = {
    "letters": letters_prompt(["NAME"]),
    "likelihood": NAMING,
    "yes_no": yes_no_prompt("NAME"),
    "list": list_prompt(["NAME"]),
}


def _convolutions(mllm: Mllm) -> list[str]:
    """Lists a pattern for each convolution of the tower, since timm's names do not distinguish layers from norms."""
    tower = mllm.base.get_submodule(mllm.family.vision)
    names = [name for name, layer in tower.named_modules() if isinstance(layer, nn.Conv2d) and layer.groups == 1]
    return [re.escape(f"{mllm.family.vision}.{name}") for name in names if name.startswith("backbone.")]


def _matching_layers(mllm: Mllm, pattern: str) -> list[str]:
    """Lists the linear layers that a regular expression matches.

    Raises:
        UserError: peft would adapt the routed experts in place of one of them.
    """
    linear = [name for name, layer in mllm.base.named_modules() if isinstance(layer, nn.Linear)]
    layers = [name for name in linear if re.fullmatch(pattern, name)]
    replaced = [name for name in layers if name.endswith((".gate_proj", ".up_proj", ".down_proj"))]
    if replaced:
        raise UserError(
            f"ranker.lora.target_modules={pattern}: peft can't adapt {replaced[0]} of {mllm.id} alone, but replaces it "
            r"by all routed experts; leave it out, or name experts\.(gate_up|down)_proj"
        )
    return layers


def _matching_experts(mllm: Mllm, pattern: str | None) -> list[str]:
    """Lists the weights of routed experts that a regular expression matches: parameters, one for all of a layer's.

    They are adapted only where the user's expression names them: their adapter is dozens of times as large as the
    rest's, and peft computes the adapted weights of all experts in every pass.
    """
    if pattern is None:
        return []
    experts = [name for name, _ in mllm.base.named_parameters() if ".experts." in name]
    return [name for name in experts if re.fullmatch(pattern, name)]


def lora_config(mllm: Mllm, args: LoraArgs) -> peft.LoraConfig:
    """Builds peft's configuration for a scope.

    Raises:
        UserError: The scope includes a projector that has no layers LoRA fits.
    """
    family, fully_trained = mllm.family, None
    patterns = [family.language]
    if "projector" in args.scope and args.projector == "full":
        present = {name for name, _ in mllm.base.named_modules()}  # not every member of a family has all
        fully_trained = [path for path in (family.connector, *family.other_connectors) if path in present]
    elif "projector" in args.scope:
        if family.projector is None:
            raise UserError(
                f"ranker.lora.scope={args.scope}: the projector of {mllm.id} is no linear layer, so LoRA does not fit; "
                "train it in full with ranker.lora.projector=full, or leave it out of the scope"
            )
        patterns.append(family.projector)
    if "vision" in args.scope:
        patterns += [family.tower, *_convolutions(mllm)]
    pattern = args.target_modules or "|".join(f"({pattern})" for pattern in patterns)
    return peft.LoraConfig(
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        target_modules=_matching_layers(mllm, pattern) if family.by_name else pattern,
        target_parameters=_matching_experts(mllm, args.target_modules) or None,
        modules_to_save=fully_trained,
        use_dora=args.dora,
        use_rslora=args.rslora,
        bias="none",
    )


def add_lora(mllm: Mllm, args: LoraArgs) -> Mllm:
    """Wraps the model with a fresh LoRA adapter.

    Args:
        mllm: A base model; it is changed.
        args: Rank, scale, dropout, scope and variant.

    Returns:
        Mllm: The same processor with the wrapped model; only the adapter is trainable, without the layers of the vision
        tower whose output the model does not read.

    Raises:
        UserError: The scope or the regular expression matches no layer.
    """
    config = lora_config(mllm, args)
    try:
        wrapped = peft.get_peft_model(mllm.model, config)
    except ValueError as error:
        raise UserError(f"ranker.lora: nothing adapted in {mllm.id}: {str(error).splitlines()[0]}") from None
    adapted = mllm.wrap(wrapped)
    for layer in _unread_layers(adapted):
        layer.requires_grad_(False)
    return adapted


def _unread_layers(mllm: Mllm) -> Sequence[nn.Module]:
    """Returns the vision tower's layers after the last whose output is read: LLaVA reads the last but one."""
    config = mllm.base.config.to_dict()
    read = config.get("vision_feature_layer", -1)
    read = [read] if isinstance(read, int) else read
    if "deepstack_layer_map" in config:  # Granite reads these instead
        read = [config["spatial_vision_layer"], *(layer for layer, _ in config["deepstack_layer_map"] or ())]
    if -1 in read:
        return ()
    layers = mllm.base.get_submodule(f"{mllm.family.vision}.encoder.layers")
    # 0 is the first layer's input; so is -1 the last layer's output.
    return layers[max(index if index >= 0 else len(layers) + 1 + index for index in read) :]


PARTS = ("language model", "projector", "vision tower")


def find_part(name: str, family: Family) -> str:
    """Returns the part of the MLLM that a parameter belongs to, by its name."""
    if any(f"{path}." in name for path in (family.connector, *family.other_connectors)):
        return "projector"
    return "vision tower" if f"{family.vision}." in name else "language model"


def parameter_table(mllm: Mllm) -> list[tuple[str, int, int]]:
    """Counts trainable and all parameters of each part: rows of (part, trainable, all), the totals last.

    Parameters that DeepSpeed has partitioned over processes count in full; in four bits, each byte counts as two.
    """
    counts = {part: [0, 0] for part in PARTS}
    for name, parameter in mllm.model.named_parameters():
        packed = 2 if type(parameter).__name__ == "Params4bit" else 1
        size = packed * (parameter.ds_numel if "ds_numel" in vars(parameter) else parameter.numel())
        count = counts[find_part(name, mllm.family)]
        count[0] += size * parameter.requires_grad
        count[1] += size
    rows = [(part, trainable, total) for part, (trainable, total) in counts.items()]
    return [*rows, ("whole", sum(row[1] for row in rows), sum(row[2] for row in rows))]


def save_adapter(mllm: Mllm, folder: Path, recipe: Recipe, metadata: dict) -> None:
    """Writes the adapter in peft's format, with a manifest that records its base, recipe, prompts and versions.

    Args:
        mllm: A model that ``add_lora`` wrapped.
        folder: Target folder; it is written completely or left as it was.
        recipe: The run's recipe.
        metadata: Added to the manifest.
    """
    import transformers

    with write_folder(folder) as part:
        mllm.model.save_pretrained(part, safe_serialization=True)
        (part / "README.md").unlink(missing_ok=True)  # peft's empty model card
        # peft records the folder that the base was loaded from, which is valid on this machine only.
        config = json.loads((part / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = recipe.ranker.model
        config["target_modules"] = (
            config["target_modules"] if isinstance(config["target_modules"], str) else sorted(config["target_modules"])
        )
        write_json(part / "adapter_config.json", config)
        names = [name for name, _ in mllm.model.named_parameters()]
        manifest = {
            "base_model": mllm.id,
            "ranker": recipe.ranker.model,
            "adapter": file_hash(part / "adapter_model.safetensors"),
            "recipe": {key: value for key, value in asdict(recipe).items() if key not in ("out", "cache")},
            "prompts": PROMPTS,
            "adapted": sorted({find_part(name, mllm.family) for name in names if "lora_" in name}),
            "versions": {
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "peft": peft.__version__,
            },
        }
        seal_folder(part, manifest | metadata)


def load_adapter(mllm: Mllm, folder: Path) -> Mllm:
    """Loads a saved adapter onto its base model.

    peft itself only warns when keys do not match, and the base then runs without the adapter; here every key
    and shape must match.

    Args:
        mllm: The base model; it is changed.
        folder: A folder written by ``save_adapter``.

    Raises:
        UserError: The adapter is missing, damaged, made for another base, or matches only in part.
    """
    manifest = read_adapter_manifest(folder)
    if manifest["base_model"] != mllm.id:
        raise UserError(
            f"{folder}: this adapter was trained on {manifest['ranker']} ({manifest['base_model']}), but {mllm.id} is "
            "loaded; set ranker.model to the base that it was trained on"
        )
    weights = folder / "adapter_model.safetensors"
    try:
        saved = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights}: not readable as safetensors ({error})") from None
    wrapped = peft.get_peft_model(mllm.model, peft.LoraConfig.from_pretrained(str(folder)))
    expected = peft.get_peft_model_state_dict(wrapped)
    missing, unexpected = sorted(expected.keys() - saved.keys()), sorted(saved.keys() - expected.keys())
    mismatched = [key for key in expected.keys() & saved.keys() if expected[key].shape != saved[key].shape]
    if missing or unexpected or mismatched:
        example = (missing + unexpected + mismatched)[0]
        raise UserError(
            f"{weights}: does not match the model: {len(missing)} weights missing, {len(unexpected)} unexpected, "
            f"{len(mismatched)} of another shape, such as {example}; nothing was loaded"
        )
    peft.set_peft_model_state_dict(wrapped, saved)
    return mllm.wrap(wrapped.eval())
