"""Loading of a base model in four bits, as QLoRA does (arXiv 2305.14314)."""

from __future__ import annotations

import importlib.util

import torch
from transformers import BitsAndBytesConfig

from data_prep.core.errors import UserError
from data_prep.distributed.devices import local_gpu_index


def check_four_bits() -> None:
    """Checks that four-bit quantisation is available.

    Raises:
        UserError: There is no CUDA GPU, or bitsandbytes is not installed.
    """
    if not torch.cuda.is_available():
        raise UserError("ranker.quantize=4bit: needs a CUDA GPU, and torch sees none here; set it to none")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("ranker.quantize=4bit: needs bitsandbytes; pip install bitsandbytes, or set it to none")


def four_bits(dtype: str) -> dict:
    """Returns the loading arguments of QLoRA's quantisation, on this process's GPU rather than the first one."""
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
