"""Lengths of prompts in the ranker's tokens, without loading the ranker."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.hub import settle_hub
from data_prep.core.paths import NANO_MLLM

log = logging.getLogger(__name__)

# Files of a package above this one, found by their place: the packages' order forbids an import.


class TokenCounter:
    """Counts tokens as a ranker would.

    Args:
        model: ``ranker.model``.

    Raises:
        UserError: Its tokenizer cannot be had.
    """

    def __init__(self, model: str):
        from transformers import AutoProcessor
        from transformers.utils import logging as notices

        source = str(NANO_MLLM) if model == "nano-mllm" else model
        if not Path(source).is_dir():
            settle_hub()
        before = notices.get_verbosity()
        notices.set_verbosity_error()  # it wonders about nano-mllm's tower, which is not loaded here
        try:
            self.tokenizer = AutoProcessor.from_pretrained(source).tokenizer
        except Exception as error:  # the errors of hub, network and files have no common type
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"ranker.model={model}: its tokenizer could not be loaded ({reason})") from None
        finally:
            notices.set_verbosity(before)

    def __call__(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text; an image's own tokens and the chat template's are not among them."""
        if not texts:
            return []
        return [len(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
