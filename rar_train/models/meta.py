"""An MLLM without its weights: configuration, processor and shapes from local files, in a second."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as notices

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.settings import RankerArgs
from rar_train.models.families import FAMILIES
from rar_train.models.mllm import NANO_MLLM, Mllm, prepare_base

_INDEX = "model.safetensors.index.json"


def local_folder(model: str) -> Path | None:
    """Where a model's files lie on this machine, or None; nothing is downloaded."""
    if model == "nano-mllm":
        return NANO_MLLM
    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):  # the second for what is no name of a repository
        return None


def missing_weights(folder: Path) -> list[str]:
    """The files of weights that a model's folder lacks."""
    if (folder / _INDEX).is_file():
        wanted = sorted(set(read_json(folder / _INDEX)["weight_map"].values()))
    else:
        wanted = ["model.safetensors"]
    return [name for name in wanted if not (folder / name).is_file()]


def build_on_meta(args: RankerArgs, folder: Path) -> Mllm:
    """The model with shapes instead of weights, and its processor, as ``load_mllm`` would prepare them.

    Raises:
        UserError: The family is not supported, or the files do not serve.
    """
    before = notices.get_verbosity()
    notices.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type not in FAMILIES:
            raise UserError(
                f"ranker.model={args.model}: family {config.model_type} is not supported; there are "
                f"{', '.join(FAMILIES)}"
            )
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
    except (OSError, ValueError) as error:
        raise UserError(
            f"ranker.model={args.model}: {folder} does not serve ({str(error).splitlines()[0]}); it needs config.json "
            "and the processor's files"
        ) from None
    finally:
        notices.set_verbosity(before)
    family = prepare_base(args, config.model_type, processor, model)
    return Mllm(model.eval(), processor, family, f"{config.model_type} of {args.model}")
