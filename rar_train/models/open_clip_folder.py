"""Writes an open_clip model as a self-contained folder that ``local-dir:`` loads."""

from __future__ import annotations

import json
from pathlib import Path

from open_clip.hf_model import HFTextEncoder
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerBase


def write_open_clip(
    folder: Path, model: nn.Module, config: dict, preprocess: dict, tokenizer: PreTrainedTokenizerBase | None
) -> None:
    """Writes weights, configuration and tokenizer.

    Args:
        folder: Target folder; it exists and contains only files of this model.
        model: A plain open_clip model, adapters merged.
        config: Its architecture in open_clip's format.
        preprocess: Its image preprocessing in open_clip's format.
        tokenizer: A Hugging Face tokenizer; None for open_clip's own.
    """
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=1)
    )
    if isinstance(model, CustomTextCLIP) and isinstance(model.text, HFTextEncoder):
        model.text.config.save_pretrained(folder)  # load_encoder finds it here rather than on a hub
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
