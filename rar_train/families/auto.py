"""Families outside the table: a model's parts by the names that transformers gives them in all models."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from data_prep.core.errors import UserError
from rar_train.families.table import FAMILIES, Family

_OTHER_PARTS = re.compile("audio|speech|video_tower|generation|vqmodel")
_ROUTERS = {"gate", "router", "shared_expert_gate"}


def check_kind(model: str, kind: str) -> None:
    """Checks that a type of model is in the table, or one that transformers loads as an image-text-to-text model.

    Args:
        model: ``ranker.model``, for the error.
        kind: ``model_type`` of its configuration.

    Raises:
        UserError: It is neither.
    """
    if kind not in FAMILIES and kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise UserError(
            f"ranker.model={model}: family {kind} is not supported, as it does not answer questions about images; "
            f"supported are {', '.join(FAMILIES)}, and other image-text-to-text models that pass the checks"
        )


def find_family(name: str, kind: str, model: PreTrainedModel) -> Family:
    """Finds tower, projector and language model of a model outside the table, and their linear layers.

    Args:
        name: ``ranker.model``, for the error.
        kind: ``model_type`` of its configuration.
        model: The model, with or without weights.

    Raises:
        UserError: A part is missing.
    """
    paths = {id(module): path for path, module in model.named_modules()}
    inner = model.base_model
    if inner is model or model.config.is_encoder_decoder:
        raise missing_part(name, kind, "it has no decoder-only language model apart from its head")
    tower, language = paths[id(model.get_encoder(modality="image"))], paths[id(model.get_decoder())]
    if tower in ("", paths[id(inner)]):
        raise missing_part(name, kind, "it has no vision tower by a name that transformers knows")
    if language in ("", paths[id(inner)]):
        raise missing_part(name, kind, "it has no language model by a name that transformers knows")
    connectors = _find_connectors(inner, paths[id(inner)], tower, language)
    if not connectors:
        raise missing_part(name, kind, "it has no projector between vision tower and language model")
    config, linear = model.config.get_text_config().to_dict(), _linear_layers(model)
    projector = [layer for layer in linear if layer.startswith(tuple(f"{path}." for path in connectors))]
    within = [layer for layer in linear if layer.startswith(f"{tower}.") and layer not in projector]
    layers = [layer for layer in linear if layer.startswith(f"{language}.")]
    return Family(
        language=_pattern(layer for layer in layers if layer.rpartition(".")[2] not in _ROUTERS),
        projector=_pattern(projector) if projector else None,
        tower=_pattern(within),
        connector=connectors[0],
        other_connectors=tuple(connectors[1:]),
        vision=tower,
        softcap=config.get("final_logit_softcapping") is not None,
        scaled="logits_scaling" in config,
        mrope=hasattr(inner, "get_rope_index"),
        fixed_tower=False,
        found=True,
    )


def missing_part(name: str, kind: str, reason: str) -> UserError:
    """Returns the error for a model outside the table that lacks a part or fails a check."""
    return UserError(
        f"ranker.model={name}: family {kind} is not in the table of supported families, and can't be used without an "
        f"entry: {reason}; supported are {', '.join(FAMILIES)}"
    )


def _find_connectors(inner: nn.Module, root: str, tower: str, language: str) -> list[str]:
    """Lists the modules between tower and language model: those beside the two, or the tower's mergers."""
    children = {f"{root}.{name}": child for name, child in inner.named_children()}
    beside = [
        path
        for path, child in children.items()
        if path not in (tower, language) and not _OTHER_PARTS.search(path) and any(True for _ in child.parameters())
    ]
    merger = inner.get_submodule(tower.removeprefix(f"{root}."))
    return beside or [f"{tower}.{name}" for name, _ in merger.named_children() if "merger" in name]


def _linear_layers(model: nn.Module) -> list[str]:
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]


def _pattern(layers: Iterable[str]) -> str:
    """Makes a regular expression of the layers, whatever their numbers."""
    return "|".join(sorted({re.sub(r"\\\.\d+(?=\\\.|$)", r"\\.\\d+", re.escape(layer)) for layer in layers}))
