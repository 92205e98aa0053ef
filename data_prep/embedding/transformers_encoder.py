"""Encoders of transformers: models with features of images and texts, such as SigLIP 2's and MetaCLIP 2's."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint
from data_prep.core.hub import check_hub
from data_prep.core.images import VERSION
from data_prep.core.paths import split_prefix
from data_prep.embedding.base import Encoder
from data_prep.embedding.identity import PROBE, encoder_id, own_weights, state_hash
from data_prep.embedding.name_tokens import fill_templates, warn_identical, warn_truncated
from data_prep.settings import RetrieverArgs, TrainerArgs, check

_SIGLIP = ("siglip", "siglip2")
"""Models that were trained on texts in lower case, padded on the right to the full context, without a mask."""

_UNSTABLE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
"""Keys of a configuration that say where it comes from."""


class ImageInputs:
    """Prepares images by a processor.

    Args:
        processor: The model's image processor.
    """

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, image: Image.Image) -> Tensor | dict[str, Tensor]:
        """Returns the pixels of an image, or the tensors that a model of images of any shape takes, by name."""
        values = {key: torch.as_tensor(value)[0] for key, value in self.processor(image, return_tensors="pt").items()}
        return values["pixel_values"] if values.keys() == {"pixel_values"} else values


class TextInputs:
    """Tokenizes texts, padded to the model's context.

    Args:
        tokenizer: The model's tokenizer.
        context: Number of tokens that the model reads.
        kind: The model's type.
    """

    def __init__(self, tokenizer: Any, context: int, kind: str):
        self.tokenizer, self.context, self.is_siglip = tokenizer, context, kind in _SIGLIP
        if self.is_siglip:
            tokenizer.padding_side = "right"

    def _prepare(self, texts: Sequence[str]) -> list[str]:
        return [text.lower() if self.is_siglip else text for text in texts]

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Returns what the model takes: ``input_ids`` ``[n, context]``, and a mask where it was trained with one."""
        padding = {"padding": "max_length", "truncation": True, "max_length": self.context}
        tokens = self.tokenizer(self._prepare(texts), return_tensors="pt", **padding)
        keys = ("input_ids",) if self.is_siglip else ("input_ids", "attention_mask")
        return {key: tokens[key] for key in keys if key in tokens}

    def find_truncated(self, texts: Sequence[str]) -> list[int]:
        """Returns the indices of the texts that are longer than the context."""
        lengths = map(len, self.tokenizer(self._prepare(texts), truncation=False, verbose=False)["input_ids"])
        return [index for index, length in enumerate(lengths) if length > self.context]


@dataclass(frozen=True)
class TransformersEncoder(Encoder):
    """A loaded transformers model with its preprocessing and identity.

    Attributes:
        model: A model with ``get_image_features`` and ``get_text_features``, in eval mode.
        preprocess: Maps a PIL image to a tensor, or to tensors by name.
        tokenize: Maps texts to what the model takes.
        id: Derived from architecture, weights and preprocessing.
        metadata: These in full.
        processes: Devices and machines to embed on.
        origin: What messages call the encoder.
    """

    model: nn.Module
    preprocess: Callable[[Image.Image], Any] = field()  # field(), or the base class's would be its default
    tokenize: TextInputs
    id: str
    metadata: dict
    processes: TrainerArgs = field()
    origin: str = field()

    def to(self, device: torch.device) -> None:
        """Moves the model to a device."""
        self.model.to(device)

    def encode_images(self, images: Tensor | list[dict[str, Tensor]]) -> Tensor:
        """Embeds pixels of shape ``[n, 3, h, w]``, or images that were prepared as tensors by name."""
        model: Any = self.model
        if isinstance(images, Tensor):
            inputs = {"pixel_values": images}
        else:
            inputs = {key: torch.stack([image[key] for image in images]) for key in images[0]}
        placed = {key: self._place(value) for key, value in inputs.items()}
        return F.normalize(_to_features(model.get_image_features(**placed)).float(), dim=-1)

    def _place(self, values: Tensor) -> Tensor:
        parameter = next(self.model.parameters())
        return values.to(parameter.device, parameter.dtype if values.is_floating_point() else values.dtype)

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embeds texts; those that are longer than the context are truncated."""
        model: Any = self.model
        inputs = {key: self._place(value) for key, value in self.tokenize(texts).items()}
        return F.normalize(_to_features(model.get_text_features(**inputs)).float(), dim=-1)

    def check_texts(self, texts: Sequence[str], templates: Sequence[str], items: str) -> None:
        """Warns of truncated texts, and of names with identical tokens."""
        prompts = fill_templates(texts, templates)
        rows = [index // len(templates) for index in self.tokenize.find_truncated(prompts)]
        warn_truncated(texts, items, rows, self.tokenize.context)
        if items == "names":
            warn_identical(texts, self.tokenize(prompts)["input_ids"].unflatten(0, (len(texts), len(templates))))


def _to_features(output: Any) -> Tensor:
    """Returns a model's features: since version 5 of transformers they are the pooled part of an output."""
    return output if isinstance(output, Tensor) else output.pooler_output


def load_transformers_encoder(args: RetrieverArgs, processes: TrainerArgs) -> TransformersEncoder:
    """Loads a transformers model with its weights, from safetensors.

    Args:
        args: ``model`` is ``hf:`` and a folder, or OWNER/NAME of a hub.
        processes: Devices and machines to embed on.

    Raises:
        UserError: It cannot be loaded, lacks weights, or gives no features of images and texts.
    """
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    shown, name = f"retriever.model={args.model}", split_prefix(args.model)[1]
    given = args.pretrained or args.tag
    check(not given, f"retriever.pretrained={given}: {args.model} includes its own weights; leave it out")
    if not Path(name).is_dir():
        check_hub()
    trust = {"trust_remote_code": args.trust_remote_code}
    dtype = getattr(torch, args.dtype)
    try:
        model, loading = AutoModel.from_pretrained(
            name, dtype=dtype, use_safetensors=True, output_loading_info=True, **trust
        )
        processor, tokenizer = (kind.from_pretrained(name, **trust) for kind in (AutoImageProcessor, AutoTokenizer))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{shown}: could not be loaded ({type(error).__name__}: {reason}). Without a network, give "
            "retriever.model=hf:FOLDER of a copy; only safetensors are read, and a model's own code is run only with "
            "retriever.trust_remote_code=true"
        ) from None
    missing = sorted(loading["missing_keys"])
    check(not missing, f"{shown}: lacks {len(missing)} of its weights, such as {', '.join(missing[:1])}")
    embeds = all(hasattr(model, method) for method in ("get_image_features", "get_text_features"))
    check(embeds, f"{shown}: {type(model).__name__} has no get_image_features and get_text_features")
    own_weights(model)
    tokenize = TextInputs(tokenizer, _find_context(model.config, tokenizer), model.config.model_type)
    metadata = {
        "model": args.model,
        "pretrained": "",
        "weights": state_hash(model),
        # Weights do not determine the architecture: the number of heads and the activation are not visible in them.
        "architecture": fingerprint([_stable(model.config.to_dict()), repr(model)]),
        "tokens": fingerprint({key: value.tolist() for key, value in tokenize([PROBE]).items()}),
        "transform": f"images-{VERSION} {type(processor).__name__} {_describe(processor)}",
        "dtype": args.dtype,
    }
    identity = encoder_id(model.config.model_type, metadata)
    return TransformersEncoder(model.eval(), ImageInputs(processor), tokenize, identity, metadata, processes, shown)


def _find_context(config: Any, tokenizer: Any) -> int:
    """Returns the number of tokens that a model reads."""
    text = getattr(config, "text_config", config)
    positions = getattr(text, "max_position_embeddings", None)
    return min(positions or tokenizer.model_max_length, tokenizer.model_max_length)


def _stable(value: Any) -> Any:
    """Returns a configuration without what says where it comes from, at any depth."""
    if isinstance(value, dict):
        return {key: _stable(element) for key, element in value.items() if key not in _UNSTABLE}
    if isinstance(value, (list, tuple)):
        return [_stable(element) for element in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _describe(processor: Any) -> str:
    """Returns an image processor's settings as text."""
    return json.dumps(_stable(processor.to_dict()), sort_keys=True)
