"""Loads open_clip models with the activation and the preprocessing that their weights were trained with."""

from __future__ import annotations

import difflib
import logging
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.hub import check_hub
from data_prep.core.manifests import check_model_folder
from data_prep.core.paths import NANO_CLIP
from data_prep.settings import RetrieverArgs

log = logging.getLogger(__name__)

LOCAL, HUB = "local-dir:", "hf-hub:"
_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


def open_clip_name(args: RetrieverArgs) -> str:
    """Returns the model's name for open_clip."""
    return f"{LOCAL}{NANO_CLIP}" if args.model == "nano-clip" else args.model


def check_named(args: RetrieverArgs) -> None:
    """Checks that the settings name an open_clip model and weights for it.

    Raises:
        UserError: The model is unknown, its weights are not named, or they are named although it includes its own.
    """
    import open_clip

    name = open_clip_name(args)
    if name.startswith((LOCAL, HUB)):
        if args.pretrained:
            raise UserError(
                f"retriever.pretrained={args.pretrained}: {args.model} includes its own weights; leave it out, or "
                "name the architecture as retriever.model"
            )
        return
    known = open_clip.list_models()
    if name not in known:
        similar = difflib.get_close_matches(name, known, 3)
        raise UserError(
            f"retriever.model={name}: unknown to open_clip"
            + (f"; similar names are {', '.join(similar)}" if similar else "")
            + "; nano-clip, local-dir:FOLDER and hf-hub:OWNER/NAME work too"
        )
    if open_clip.get_pretrained_cfg(name, args.pretrained or "") or Path(args.pretrained or "").is_file():
        return
    tags = open_clip.list_pretrained_tags_by_model(name)
    raise UserError(
        (
            f"retriever.pretrained={args.pretrained}: neither a file nor a tag of {name}; give "
            if args.pretrained
            else f"retriever.model={name} needs retriever.pretrained: "
        )
        + (f"one of {', '.join(tags)}, or the path of a weights file" if tags else "the path of a weights file")
    )


def training_setup(args: RetrieverArgs) -> dict:
    """Returns the activation and preprocessing that weights were trained with, where the model does not include them.

    For a tag they are those of its entry in open_clip. A file does not say where its weights come from: they are those
    of ``retriever.tag``, or of all the model's tags where these agree.

    Returns:
        dict: ``quick_gelu`` where the activation is QuickGELU, and ``mean``, ``std``, ``interpolation`` and
        ``resize_mode``; empty where the model's own configuration decides.

    Raises:
        UserError: The tags of a file's model differ and ``retriever.tag`` is not set, or it is not one of the model's.
    """
    import open_clip

    name = open_clip_name(args)
    tags = {} if name.startswith((LOCAL, HUB)) else _tag_setups(name)
    entry = open_clip.get_pretrained_cfg(name, args.pretrained or "")
    if args.tag and (entry or not args.pretrained):
        raise UserError(f"retriever.tag={args.tag}: applies only to a file of weights; leave it out")
    if entry:
        return _setup(entry)
    if args.tag == "default":
        return {}
    if args.tag:
        entry = open_clip.get_pretrained_cfg(name, args.tag)
        if not entry:
            raise UserError(f"retriever.tag={args.tag}: {name} has {', '.join([*tags, 'default'])}")
        return _setup(entry)
    groups: dict[str, list[str]] = defaultdict(list)
    for tag, setup in tags.items():
        groups[_describe(name, setup)].append(tag)
    if len(groups) > 1 and Path(args.pretrained).is_file():
        raise UserError(
            f"retriever.pretrained={args.pretrained}: the file does not say how its weights were trained, and those of "
            f"{name} differ. Set retriever.tag to the open_clip tag that they are or were tuned from "
            f"({'; '.join(f'{setup}: {_preview(group)}' for setup, group in groups.items())}), or to default for "
            "weights that open_clip trained from scratch. A folder with open_clip_config.json next to the weights does "
            "not need this: retriever.model=local-dir:FOLDER"
        )
    if len(groups) != 1:
        return {}
    ((description, group),) = groups.items()
    log.info(
        "encoder: assuming that %s was trained like %s (%s); see retriever.tag",
        args.pretrained, _preview(group), description,
    )  # fmt: skip
    return tags[group[0]]


def _tag_setups(name: str) -> dict[str, dict]:
    """Returns the training setup of each of a model's tags."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    return {tag: _setup(open_clip.get_pretrained_cfg(name, tag)) for tag in tags}


def _setup(entry: dict) -> dict:
    """Returns the setup of an entry of open_clip's list; without an activation there, the architecture decides."""
    activation = {"quick_gelu": True} if entry.get("quick_gelu") else {}
    return activation | {key: entry[key] for key in _PREPROCESSING}


def _describe(name: str, setup: dict) -> str:
    """Describes a training setup; equal setups have equal descriptions."""
    import open_clip

    quick = setup.get("quick_gelu") or open_clip.get_model_config(name).get("quick_gelu")
    mean, std = (" ".join(f"{value:.3g}" for value in setup[key]) for key in ("mean", "std"))
    activation = "QuickGELU" if quick else "GELU"
    return f"{activation}, mean {mean}, deviation {std}, {setup['interpolation']}, {setup['resize_mode']}"


def _preview(tags: list[str]) -> str:
    return ", ".join(tags[:4]) + (f" and {len(tags) - 4} more" if len(tags) > 4 else "")


def _local_text_tower(name: str) -> dict:
    """Returns settings with which open_clip reads a text tower's configuration from the model's folder, not a hub."""
    import open_clip

    folder = Path(name.removeprefix(LOCAL))
    if not name.startswith(LOCAL) or not (folder / "config.json").is_file():
        return {}
    text = open_clip.get_model_config(name)["text_cfg"]
    if "hf_model_name" not in text:
        return {}
    return {"text_cfg": text | {"hf_model_name": str(folder), "hf_model_pretrained": False}}


def _check_preprocessing(folder: Path) -> None:
    """Checks that a folder states its normalisation; open_clip would silently use OpenAI's.

    Raises:
        UserError: ``mean`` or ``std`` is missing.
    """
    file = folder / "open_clip_config.json"
    config = read_json(file) if file.is_file() else None
    if not isinstance(config, dict) or "model_cfg" not in config:
        return  # open_clip refuses it
    preprocessing = config.get("preprocess_cfg")
    missing = [key for key in ("mean", "std") if not isinstance(preprocessing, dict) or not preprocessing.get(key)]
    if missing:
        raise UserError(
            f"{file}: preprocess_cfg lacks {' and '.join(missing)}, so how the weights were trained is unknown; add "
            '"preprocess_cfg": {"mean": [R, G, B], "std": [R, G, B]}, and interpolation and resize_mode where they are '
            "not bicubic and shortest"
        )


def load_open_clip(args: RetrieverArgs) -> tuple[nn.Module, Callable, Callable, Callable[[list[str]], Tensor]]:
    """Loads a model with pretrained weights; never with random ones.

    Returns:
        tuple: The model in eval mode; functions from a PIL image to pixels ``[3, h, w]`` with open_clip's random crops,
        and without; and one from texts to token ids ``[n, context]``.

    Raises:
        UserError: The model or its weights cannot be loaded; the message says how to point to a local copy.
    """
    import open_clip

    check_named(args)
    name, setup = open_clip_name(args), training_setup(args)
    if name.startswith(LOCAL):
        check_model_folder(Path(name.removeprefix(LOCAL)))
        _check_preprocessing(Path(name.removeprefix(LOCAL)))
    if not name.startswith(LOCAL) and not Path(args.pretrained or "").is_file():
        check_hub()
    try:
        model, augment, preprocess = open_clip.create_model_and_transforms(
            name,
            pretrained=args.pretrained,
            precision={"float32": "fp32", "bfloat16": "bf16"}[args.dtype],
            require_pretrained=True,
            force_quick_gelu=setup.get("quick_gelu", False),
            **{f"image_{key}": setup.get(key) for key in _PREPROCESSING},
            **_local_text_tower(name),
        )
        tokenize = open_clip.get_tokenizer(name)
    except Exception as error:
        by_tag = open_clip.get_pretrained_cfg(name, args.pretrained or "")
        tag_hint = f" with retriever.tag={args.pretrained}" if by_tag else ""
        raise UserError(
            f"retriever.model={args.model} retriever.pretrained={args.pretrained}: could not be loaded "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}). Without a network, give "
            f"retriever.pretrained=PATH of the weights file{tag_hint}, or "
            "retriever.model=local-dir:FOLDER with open_clip_config.json next to the weights."
        ) from None
    return model.eval(), augment, preprocess, tokenize


def architecture(args: RetrieverArgs, model: nn.Module) -> dict:
    """Returns a loaded model's open_clip configuration, with the activation that the model actually has."""
    import open_clip

    quick = any(type(module).__name__ == "QuickGELU" for module in model.modules())
    return open_clip.get_model_config(open_clip_name(args)) | {"quick_gelu": quick}
