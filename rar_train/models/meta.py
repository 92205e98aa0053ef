"""MLLMs without weights: configuration, processor and shapes (torch's meta device) from local files, in a second."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as notices

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.paths import NANO_MLLM
from data_prep.settings import RankerArgs
from rar_train.families.auto import check_kind
from rar_train.models.loading import prepare_base
from rar_train.models.mllm import Mllm
from rar_train.rerankers.reranker import find_reranker

_INDEX = "model.safetensors.index.json"


def local_folder(model: str) -> Path | None:
    """Returns the folder of a model's files on this machine, or None; nothing is downloaded."""
    if model == "nano-mllm":
        return NANO_MLLM
    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):  # ValueError: not a valid repository name
        return None


def missing_weights(folder: Path) -> list[str]:
    """Lists the weight files that a model's folder lacks."""
    if (folder / _INDEX).is_file():
        expected = sorted(set(read_json(folder / _INDEX)["weight_map"].values()))
    else:
        expected = ["model.safetensors"]
    return [name for name in expected if not (folder / name).is_file()]


def build_on_meta(args: RankerArgs, folder: Path) -> Mllm:
    """Builds the model on the meta device (shapes only) with its processor, prepared as by ``load_mllm``.

    Raises:
        UserError: The family is not supported, or files are missing or invalid.
    """
    verbosity = notices.get_verbosity()
    notices.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        check_kind(args.model, config.model_type)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
    except (OSError, ValueError) as error:
        raise UserError(
            f"ranker.model={args.model}: {folder} could not be loaded ({str(error).splitlines()[0]}); it needs "
            "config.json and the processor's files"
        ) from None
    finally:
        notices.set_verbosity(verbosity)
    family = prepare_base(args, config.model_type, processor, model)
    reranker = find_reranker(args, folder, processor)
    return Mllm(model.eval(), processor, family, f"{config.model_type} of {args.model}", args.tree_tokens, reranker)
