"""Prompt lengths in tokens of the ranker, without loading the ranker."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.hub import check_hub
from data_prep.core.paths import NANO_MLLM

log = logging.getLogger(__name__)

# NANO_MLLM is a path in a higher package, which this package may not import.


class TokenCounter:
    """Counts tokens as a ranker would.

    Args:
        model: ``ranker.model``.

    Raises:
        UserError: The tokenizer of the model cannot be loaded.
    """

    def __init__(self, model: str):
        from transformers import AutoProcessor
        from transformers.utils import logging as transformers_logging

        source = str(NANO_MLLM) if model == "nano-mllm" else model
        if not Path(source).is_dir():
            check_hub()
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # it warns about nano-mllm's tower, which is not loaded here
        try:
            self.tokenizer = AutoProcessor.from_pretrained(source).tokenizer
        except Exception as error:  # errors of the hub, the network and files have no common type
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"ranker.model={model}: its tokenizer could not be loaded ({reason})") from None
        finally:
            transformers_logging.set_verbosity(verbosity)

    def __call__(self, texts: Sequence[str]) -> list[int]:
        """Counts the tokens of each text, without image tokens and the chat template."""
        if not texts:
            return []
        return [len(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
