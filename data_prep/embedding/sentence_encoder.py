"""Encoders of sentence-transformers: models of images and texts that take instructions, such as Qwen3-VL-Embedding."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint
from data_prep.core.hub import check_hub
from data_prep.core.images import VERSION
from data_prep.core.paths import split_prefix
from data_prep.embedding.base import Encoder
from data_prep.embedding.identity import PROBE, encoder_id, own_weights, state_hash
from data_prep.embedding.name_tokens import fill_templates, warn_truncated
from data_prep.settings import RetrieverArgs, TrainerArgs, check

_PROBE_IMAGE = Image.frombytes("RGB", (64, 48), bytes(range(256)) * 36)


@dataclass(frozen=True)
class SentenceEncoder(Encoder):
    """A loaded sentence-transformers model with its instructions and identity.

    It prepares images itself, in the process that embeds them.

    Attributes:
        model: A ``SentenceTransformer``.
        image_instruction: Given with each image; None for the model's default.
        text_instruction: Given with each text; None for the model's default.
        id: Derived from architecture, weights, preprocessing and instructions.
        metadata: These in full.
        processes: Devices and machines to embed on.
        origin: What messages call the encoder.
    """

    model: Any
    image_instruction: str | None
    text_instruction: str | None
    id: str
    metadata: dict
    processes: TrainerArgs = field()  # field(), or the base class's would be its default
    origin: str = field()

    @property
    def reads_texts(self) -> bool:
        """Whether the model takes texts."""
        return self.model.supports("text")

    def to(self, device: torch.device) -> None:
        """Moves the model to a device."""
        self.model.to(device)

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Embeds images as one batch."""
        return self._encode(list(images), self.image_instruction)

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embeds texts as one batch; those that are longer than the context are truncated."""
        return self._encode(texts, self.text_instruction)

    def _encode(self, inputs: list, instruction: str | None) -> Tensor:
        options = {"batch_size": len(inputs), "convert_to_tensor": True, "show_progress_bar": False}
        return F.normalize(self.model.encode(inputs, prompt=instruction, **options).float(), dim=-1)

    def check_texts(self, texts: Sequence[str], templates: Sequence[str], items: str) -> None:
        """Warns of truncated texts."""
        context, tokenizer = self.model.max_seq_length, self.model.tokenizer
        if not context or not callable(tokenizer):
            return
        prompts = [f"{self.text_instruction or ''}{prompt}" for prompt in fill_templates(texts, templates)]
        lengths = map(len, tokenizer(prompts, truncation=False, verbose=False)["input_ids"])
        rows = [index // len(templates) for index, length in enumerate(lengths) if length > context]
        warn_truncated(texts, items, rows, context)


def load_sentence_encoder(args: RetrieverArgs, processes: TrainerArgs) -> SentenceEncoder:
    """Loads a sentence-transformers model with its weights.

    Args:
        args: ``model`` is ``st:`` and a folder, or OWNER/NAME of a hub; instructions are ``image_instruction`` and
            ``text_instruction``.
        processes: Devices and machines to embed on.

    Raises:
        UserError: sentence-transformers is not installed, or the model cannot be loaded or embeds no images.
    """
    shown, name = f"retriever.model={args.model}", split_prefix(args.model)[1]
    check(find_spec("sentence_transformers") is not None, f"{shown}: needs pip install 'rar-train[sentences]'")
    from sentence_transformers import SentenceTransformer

    given = args.pretrained or args.tag
    check(not given, f"retriever.pretrained={given}: {args.model} includes its own weights; leave it out")
    if not Path(name).is_dir():
        check_hub()
    loading = {"dtype": getattr(torch, args.dtype), "use_safetensors": True}
    try:
        with _no_random_weights(shown):
            model = SentenceTransformer(
                name, device="cpu", trust_remote_code=args.trust_remote_code, model_kwargs=loading
            ).eval()
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{shown}: could not be loaded ({type(error).__name__}: {reason}). Without a network, give "
            "retriever.model=st:FOLDER of a copy; only safetensors are read, and a model's own code is run only with "
            "retriever.trust_remote_code=true"
        ) from None
    own_weights(model)
    check(model.supports("image"), f"{shown}: embeds {' and '.join(map(str, model.modalities))}, and no images")
    metadata = {
        "model": args.model,
        "pretrained": "",
        "weights": state_hash(model),
        "architecture": fingerprint([repr(model), model.truncate_dim]),
        "tokens": _fingerprint_inputs(model, PROBE, args.text_instruction) if model.supports("text") else "",
        "transform": f"images-{VERSION} {_fingerprint_inputs(model, _PROBE_IMAGE, args.image_instruction)}",
        "instructions": [args.image_instruction, args.text_instruction],
        "dtype": args.dtype,
    }
    kind = getattr(model.config, "model_type", None) or "sentence"
    return SentenceEncoder(
        model,
        args.image_instruction,
        args.text_instruction,
        encoder_id(str(kind), metadata),
        metadata,
        processes,
        shown,
    )


class _Records(logging.Handler):
    """Keeps the messages that it gets."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a message."""
        self.messages.append(record.getMessage())


@contextmanager
def _no_random_weights(shown: str) -> Iterator[None]:
    """Checks that a model is loaded complete: transformers only warns that it initialises what is missing.

    Raises:
        UserError: Weights are missing.
    """
    logger, records = logging.getLogger("transformers"), _Records()
    level, handlers = logger.level, logger.handlers[:]
    logger.setLevel(logging.WARNING)
    logger.handlers[:] = [records]
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.handlers[:] = handlers
    incomplete = [text for text in records.messages if "MISSING" in text or "newly initialized" in text]
    check(not incomplete, f"{shown}: lacks some of its weights; give a folder or repository that has them all")


def _fingerprint_inputs(model: Any, probe: Any, instruction: str | None) -> str:
    """Fingerprints what the model makes of a text or an image, with its instruction, before it embeds it."""
    default = model.prompts.get(model.default_prompt_name) if model.default_prompt_name else None
    prepared = model.preprocess([probe], prompt=instruction if instruction is not None else default)
    tensors = sorted((key, value) for key, value in prepared.items() if isinstance(value, Tensor))
    return fingerprint([[key, list(value.shape), value.double().flatten()[:4096].tolist()] for key, value in tensors])
