"""Encoders of timm: any backbone's pooled features, such as DINOv2's and DINOv3's; they embed images alone."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from data_prep.embedding.identity import encoder_id, state_hash
from data_prep.settings import RetrieverArgs, TrainerArgs, check

_PREPROCESSING = ("mean", "std", "interpolation", "crop_pct", "crop_mode", "input_size")


@dataclass(frozen=True)
class TimmEncoder(Encoder):
    """A loaded timm model with its preprocessing and identity.

    Attributes:
        model: The model in eval mode, without its classifier.
        preprocess: Maps a PIL image to a tensor ``[3, h, w]``.
        dtype: Data type of the model's pixel input.
        id: Derived from architecture, weights and preprocessing.
        metadata: These in full.
        processes: Devices and machines to embed on.
        origin: What messages call the encoder.
    """

    model: nn.Module
    preprocess: Callable[[Image.Image], Tensor] = field()  # field(), or the base class's would be its default
    dtype: torch.dtype
    id: str
    metadata: dict
    processes: TrainerArgs = field()
    origin: str = field()

    def to(self, device: torch.device) -> None:
        """Moves the model to a device."""
        self.model.to(device)

    def encode_images(self, images: Tensor) -> Tensor:
        """Embeds pixels of shape ``[n, 3, h, w]``: the pooled features, normalised."""
        return F.normalize(self.model(images.to(self.dtype)).float(), dim=-1)


def check_timm(args: RetrieverArgs) -> tuple[str, str | None]:
    """Checks that the settings name a model and weights for it; nothing is loaded.

    Returns:
        tuple[str, str | None]: The model's name for timm, with its tag; and a file of weights, or None.

    Raises:
        UserError: The model is unknown, or its weights are not named.
    """
    import timm

    model = split_prefix(args.model)[1]
    shown = f"retriever.model={args.model}"
    if Path(model).is_dir() or "/" in model:
        includes_weights = (
            f"retriever.pretrained={args.pretrained}: {args.model} includes its own weights; leave it out"
        )
        check(not args.pretrained and not args.tag, includes_weights)
        is_hub = not Path(model).is_dir()
        return (f"hf-hub:{model.removeprefix('hf-hub:')}" if is_hub else f"local-dir:{model}"), None
    architecture, _, tag = model.partition(".")
    known = timm.list_models()
    similar = difflib.get_close_matches(architecture, known, 3)
    hint = f"; similar names are {', '.join(similar)}" if similar else ""
    check(architecture in known, f"{shown}: unknown to timm{hint}; a folder and OWNER/NAME of a hub work too")
    weights = args.pretrained if args.pretrained and Path(args.pretrained).is_file() else None
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    named = _choose_tag(args, tag, tags, weights is not None)
    if named is None:
        _check_agreement(args, architecture, tags)
    return f"{architecture}.{named}" if named else architecture, weights


def _choose_tag(args: RetrieverArgs, tag: str, tags: list[str], has_file: bool) -> str | None:
    """Returns the tag that says how weights were trained; None for a file without one.

    Args:
        args: The settings.
        tag: At the end of the model's name; empty where there is none.
        tags: The model's.
        has_file: Whether ``pretrained`` is a file.

    Raises:
        UserError: No weights are named, or two tags, or one that the model does not have.
    """
    choices = f"one of {', '.join(tags)}, or the path of a weights file" if tags else "the path of a weights file"
    check(has_file or not args.tag, f"retriever.tag={args.tag}: applies only to a file of weights; leave it out")
    given = [name for name in (tag, args.tag, None if has_file else args.pretrained) if name]
    check(has_file or bool(given), f"retriever.model={args.model} needs retriever.pretrained: {choices}")
    unknown = [name for name in given if name not in tags]
    check(not unknown, f"retriever.pretrained={''.join(unknown[:1])}: neither a file nor a tag of it; give {choices}")
    check(
        len(set(given)) <= 1, f"retriever.model={args.model}: two tags are given, {' and '.join(given)}; leave one out"
    )
    return given[0] if given else None


def _check_agreement(args: RetrieverArgs, architecture: str, tags: list[str]) -> None:
    """Checks that the weights of a file can have been trained with one preprocessing alone: all tags' agree."""
    import timm

    setups: dict[str, list[str]] = {}
    for tag in tags:
        config = timm.get_pretrained_cfg(f"{architecture}.{tag}")
        setup = json.dumps([getattr(config, key) for key in _PREPROCESSING])
        setups.setdefault(setup, []).append(tag)
    examples = "; ".join(", ".join(group[:3]) for group in setups.values())
    check(
        len(setups) <= 1,
        f"retriever.pretrained={args.pretrained}: the file does not say how its weights were trained, and the "
        f"preprocessing of {architecture}'s differs. Set retriever.tag to the tag that they are or were tuned from, of "
        f"these groups: {examples}",
    )


@contextmanager
def _no_random_weights(args: RetrieverArgs) -> Iterator[None]:
    """Checks that all weights of a model are loaded: without its classifier, timm ignores what a file lacks.

    Raises:
        UserError: Weights are missing.
    """
    load, missing = nn.Module.load_state_dict, []

    def load_and_record(module: nn.Module, *arguments: Any, **keywords: Any) -> Any:
        result = load(module, *arguments, **keywords)
        missing.extend(key for key in result.missing_keys if key in dict(module.named_parameters()))
        return result

    nn.Module.load_state_dict = load_and_record  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.load_state_dict = load  # type: ignore[method-assign]
    shown = f"retriever.model={args.model} retriever.pretrained={args.pretrained}"
    check(not missing, f"{shown}: {len(missing)} weights are missing there, such as {', '.join(missing[:1])}")


def load_timm_encoder(args: RetrieverArgs, processes: TrainerArgs) -> TimmEncoder:
    """Loads a timm model with pretrained weights, never with random ones.

    Args:
        args: ``model`` is ``timm:`` and a name with or without its tag, a folder that timm's ``save_for_hf`` wrote, or
            OWNER/NAME of a hub. ``pretrained`` is a tag, or a file of weights; ``tag`` says how these were trained.
        processes: Devices and machines to embed on.

    Raises:
        UserError: The model or its weights cannot be loaded.
    """
    import timm
    from timm.data import create_transform, resolve_model_data_config

    name, weights = check_timm(args)
    if weights is None and not name.startswith("local-dir:"):
        check_hub()
    overlay = {"file": weights} if weights else None
    try:
        with _no_random_weights(args):
            model: Any = timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
    except UserError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"retriever.model={args.model} retriever.pretrained={args.pretrained}: could not be loaded "
            f"({type(error).__name__}: {reason}). Without a network, give retriever.pretrained=PATH of the weights "
            "file, or retriever.model=timm:FOLDER with config.json next to model.safetensors"
        ) from None
    model = model.to(getattr(torch, args.dtype)).eval()
    config = resolve_model_data_config(model)
    architecture = model.pretrained_cfg.get("architecture") or name
    metadata = {
        "model": args.model,
        "pretrained": args.pretrained or "",
        "weights": state_hash(model),
        # Weights do not determine the architecture: the number of heads and the activation are not visible in them.
        "architecture": fingerprint([architecture, repr(model)]),
        "transform": f"images-{VERSION} timm {json.dumps(config, sort_keys=True)}",
        "dtype": args.dtype,
    }
    return TimmEncoder(
        model,
        create_transform(**config, is_training=False),
        getattr(torch, args.dtype),
        encoder_id(architecture.partition(".")[0], metadata),
        metadata,
        processes,
        f"retriever.model={args.model}",
    )
