"""Loading of MLLMs: files checked, weights never random, processor completed, in four bits if asked for."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from peft import prepare_model_for_kbit_training
from PIL import Image
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    GenerationConfig,
    ProcessorMixin,
)

import rar_train.models.name_llava
import rar_train.models.timm_tower  # noqa: F401  (registers the tower of both embedded and lite models)
from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, fingerprint
from data_prep.core.hub import check_hub
from data_prep.core.manifests import check_model_folder
from data_prep.core.paths import NANO_MLLM
from data_prep.distributed.devices import local_gpu_index
from data_prep.prompting.prompts import NAMING
from data_prep.settings import RankerArgs
from rar_train.families.auto import check_kind, find_family, missing_part
from rar_train.families.proof import find_failure
from rar_train.families.table import FAMILIES, Family
from rar_train.models.base_checks import check_tokens, refuse_adapter, set_chat_template
from rar_train.models.mllm import Mllm
from rar_train.rerankers.reranker import find_reranker

log = logging.getLogger(__name__)


def _loading_error(model: str, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else ""
    message = f"ranker.model={model}: could not be loaded ({type(error).__name__}: {reason})."
    if Path(model).is_dir():
        return UserError(f"{message} The folder needs config.json, undamaged safetensors and the processor's files.")
    return UserError(
        f"{message} Without a network, give ranker.model=FOLDER of a local copy with config.json, safetensors and the "
        "processor's files."
    )


def _sha256(path: Path) -> str:
    # The hub's cache names a large file by its SHA-256, and snapshots link to it.
    stored = path.resolve().name
    return stored if re.fullmatch("[0-9a-f]{64}", stored) else file_hash(path)


def weights_hash(folder: Path) -> str:
    """Returns a hash of a model's safetensors, independent of its path: 16 hexadecimal digits."""
    return fingerprint({path.name: _sha256(path) for path in folder.glob("*.safetensors")})


def check_four_bits() -> None:
    """Checks that four-bit quantisation is available.

    Raises:
        UserError: There is no CUDA GPU, or bitsandbytes is not installed.
    """
    if not torch.cuda.is_available():
        raise UserError("ranker.quantize=4bit: needs a CUDA GPU, and torch sees none here; set it to none")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("ranker.quantize=4bit: needs bitsandbytes; pip install bitsandbytes, or set it to none")


def _four_bits(dtype: str) -> dict:
    """Returns the loading arguments of QLoRA's quantisation (arXiv 2305.14314), on this process's GPU."""
    check_four_bits()
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return {
        "quantization_config": config,
        "device_map": {"": local_gpu_index() if torch.cuda.is_available() else "cpu"},
    }


def prepare_base(args: RankerArgs, kind: str, processor: ProcessorMixin, model: nn.Module) -> Family:
    """Completes processor and model: chat template, pad token, size settings and the pixel budget.

    Returns:
        Family: The entry of the family ``kind``, or what was found in a model outside the table.

    Raises:
        UserError: Chat template, tokens or sizes are invalid, or a pixel budget is set for images of a fixed size.
    """
    family = FAMILIES[kind] if kind in FAMILIES else find_family(args.model, kind, model)
    set_chat_template(args.model, processor, family)
    if processor.tokenizer.eos_token is None:
        raise UserError(f"ranker.model={args.model}: its tokenizer_config.json is missing or has no eos_token")
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    if family.rename_sizes is not None:
        family.rename_sizes(processor)
    if args.max_pixels is not None:
        if family.budget is None:
            raise UserError(f"ranker.max_pixels={args.max_pixels}: images of the family {kind} have a fixed size")
        family.budget(processor, model, args.max_pixels)
    try:
        inputs = Mllm(model, processor, family, args.model).inputs([Image.new("RGB", (64, 64))], [NAMING])
    except Exception as error:  # processors of incomplete files raise errors of many kinds
        raise _loading_error(args.model, error) from None
    check_tokens(args.model, processor, model, inputs["input_ids"])
    return family


def load_mllm(args: RankerArgs) -> Mllm:
    """Loads an MLLM and its processor; never with randomly initialised weights.

    Args:
        args: ``nano-mllm``, a Hugging Face name, or a folder; and the weights' dtype.

    Raises:
        UserError: It can't be loaded, its family is not supported, weights are missing, or it contains an adapter or a
            head that the family does not have.
    """
    source = str(NANO_MLLM) if args.model == "nano-mllm" else args.model
    local = Path(source).is_dir()
    if local:
        check_model_folder(Path(source))
    else:
        check_hub()
    refuse_adapter(args.model, source)
    try:
        kind = AutoConfig.from_pretrained(source).model_type
    except Exception as error:
        raise _loading_error(args.model, error) from None
    check_kind(args.model, kind)  # before gigabytes are downloaded
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked data-loading workers warn otherwise
    loading = _four_bits(args.dtype) if args.quantize == "4bit" else {}
    if args.attn_implementation is not None:
        loading["attn_implementation"] = {"text_config": args.attn_implementation}
    try:
        processor = AutoProcessor.from_pretrained(source)
        model, report = AutoModelForImageTextToText.from_pretrained(
            source, dtype=getattr(torch, args.dtype), output_loading_info=True, use_safetensors=True, **loading
        )
        folder = Path(source) if local else Path(snapshot_download(source, local_files_only=True))
    except Exception as error:
        raise _loading_error(args.model, error) from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"ranker.model={args.model}: its files lack {len(missing)} weights, such as {missing[0]}")
    heads = sorted(key for key in report["unexpected_keys"] if key.startswith(("score.", "classifier.")))
    reranker = find_reranker(args, folder, processor)
    if heads and (reranker is None or reranker.head is None):
        raise UserError(
            f"ranker.model={args.model}: has a head of its own ({heads[0]}), as some rerankers do, which would be left "
            "out; take a model that answers with tokens, such as Qwen/Qwen3-VL-Reranker-2B"
        )
    family = prepare_base(args, kind, processor, model)
    if args.quantize == "4bit":  # norms and embeddings in float32, as QLoRA trains
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    mllm = Mllm(model.eval(), processor, family, f"{kind}-{weights_hash(folder)}", args.tree_tokens, reranker)
    # A base's generation config may sample, penalise repetition or forbid words; here decoding is always greedy.
    mllm.base.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=mllm.turn_end_id, pad_token_id=processor.tokenizer.pad_token_id
    )
    if family.found:
        log.info("%s: family %s is not in the table of supported families, and is checked", args.model, kind)
        failure = find_failure(mllm, mllm.tolerance)
        if failure is not None:
            raise missing_part(args.model, kind, failure)
    return mllm
