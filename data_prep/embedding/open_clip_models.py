"""open_clip's models with weights, under the activation and the preprocessing that these were trained with."""

from __future__ import annotations

import difflib
import logging
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.hub import settle_hub
from data_prep.core.manifests import check_model_folder
from data_prep.core.paths import NANO_CLIP
from data_prep.settings import RetrieverArgs

log = logging.getLogger(__name__)

LOCAL, HUB = "local-dir:", "hf-hub:"
_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


def open_clip_name(args: RetrieverArgs) -> str:
    """The model's name for open_clip."""
    return f"{LOCAL}{NANO_CLIP}" if args.model == "nano-clip" else args.model


def check_named(args: RetrieverArgs) -> None:
    """Refuses settings that name no model of open_clip, or no weights.

    Raises:
        UserError: The model is unknown, its weights are not named, or named where it brings its own.
    """
    import open_clip

    name = open_clip_name(args)
    if name.startswith((LOCAL, HUB)):
        if args.pretrained:
            raise UserError(
                f"retriever.pretrained={args.pretrained}: {args.model} brings its own weights; leave it out, or name "
                "the architecture as retriever.model"
            )
        return
    known = open_clip.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, 3)
        raise UserError(
            f"retriever.model={name}: unknown to open_clip"
            + (f"; near it are {', '.join(near)}" if near else "")
            + "; nano-clip, local-dir:FOLDER and hf-hub:OWNER/NAME work too"
        )
    if open_clip.get_pretrained_cfg(name, args.pretrained or "") or Path(args.pretrained or "").is_file():
        return
    tags = open_clip.list_pretrained_tags_by_model(name)
    raise UserError(
        (
            f"retriever.pretrained={args.pretrained}: no file, and no tag of {name}; give "
            if args.pretrained
            else f"retriever.model={name} needs retriever.pretrained: "
        )
        + (f"one of {', '.join(tags)}, or a path of weights" if tags else "a path of weights")
    )


def training_setup(args: RetrieverArgs) -> dict:
    """The activation and the preprocessing that weights were trained with, where they do not lie beside them.

    Weights of a tag have those of its entry in open_clip. A file does not say where its weights come from: it has those
    of ``retriever.tag``, or of all the model's tags where they agree.

    Returns:
        dict: ``quick_gelu`` where the activation is QuickGELU, and ``mean``, ``std``, ``interpolation`` and
        ``resize_mode``; empty where the model's own configuration decides.

    Raises:
        UserError: A file may follow several tags that differ, or ``retriever.tag`` is none of the model's.
    """
    import open_clip

    name = open_clip_name(args)
    tags = {} if name.startswith((LOCAL, HUB)) else _entries(name)
    entry = open_clip.get_pretrained_cfg(name, args.pretrained or "")
    if args.tag and (entry or not args.pretrained):
        raise UserError(f"retriever.tag={args.tag}: says how a file of weights was trained; leave it out")
    if entry:
        return _how(entry)
    if args.tag == "default":
        return {}
    if args.tag:
        entry = open_clip.get_pretrained_cfg(name, args.tag)
        if not entry:
            raise UserError(f"retriever.tag={args.tag}: {name} has {', '.join([*tags, 'default'])}")
        return _how(entry)
    groups: dict[str, list[str]] = defaultdict(list)
    for tag, how in tags.items():
        groups[_words(name, how)].append(tag)
    if len(groups) > 1 and Path(args.pretrained).is_file():
        raise UserError(
            f"retriever.pretrained={args.pretrained}: the file does not say how its weights were trained, and those of "
            f"{name} differ. Set retriever.tag to the open_clip tag that they are or were tuned from "
            f"({'; '.join(f'{words}: {_some(own)}' for words, own in groups.items())}), or to default for weights that "
            "open_clip trained from scratch. A folder with open_clip_config.json beside the weights needs none of "
            "this: retriever.model=local-dir:FOLDER"
        )
    if len(groups) != 1:
        return {}
    ((words, own),) = groups.items()
    log.info("encoder: %s is taken for weights like %s (%s); see retriever.tag", args.pretrained, _some(own), words)
    return tags[own[0]]


def _entries(name: str) -> dict[str, dict]:
    """How the weights of each of a model's tags were trained."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    return {tag: _how(open_clip.get_pretrained_cfg(name, tag)) for tag in tags}


def _how(entry: dict) -> dict:
    """What an entry of open_clip's list says; one that is silent on the activation leaves it to the architecture."""
    activation = {"quick_gelu": True} if entry.get("quick_gelu") else {}
    return activation | {key: entry[key] for key in _PREPROCESSING}


def _words(name: str, how: dict) -> str:
    """How weights were trained, in words; equal where they were trained alike."""
    import open_clip

    quick = how.get("quick_gelu") or open_clip.get_model_config(name).get("quick_gelu")
    mean, std = (" ".join(f"{value:.3g}" for value in how[key]) for key in ("mean", "std"))
    activation = "QuickGELU" if quick else "GELU"
    return f"{activation}, mean {mean}, deviation {std}, {how['interpolation']}, {how['resize_mode']}"


def _some(tags: list[str]) -> str:
    return ", ".join(tags[:4]) + (f" and {len(tags) - 4} more" if len(tags) > 4 else "")


def _own_text_tower(name: str) -> dict:
    """Has open_clip read a Hugging Face text tower's configuration where it lies beside the weights, not on a hub."""
    import open_clip

    folder = Path(name.removeprefix(LOCAL))
    if not name.startswith(LOCAL) or not (folder / "config.json").is_file():
        return {}
    text = open_clip.get_model_config(name)["text_cfg"]
    if "hf_model_name" not in text:
        return {}
    return {"text_cfg": text | {"hf_model_name": str(folder), "hf_model_pretrained": False}}


def _check_preprocessing(folder: Path) -> None:
    """Refuses a folder that leaves out what its weights were trained with; open_clip would take OpenAI's."""
    file = folder / "open_clip_config.json"
    config = read_json(file) if file.is_file() else None
    if not isinstance(config, dict) or "model_cfg" not in config:
        return  # open_clip refuses it
    how = config.get("preprocess_cfg")
    lacking = [key for key in ("mean", "std") if not isinstance(how, dict) or not how.get(key)]
    if lacking:
        raise UserError(
            f"{file}: preprocess_cfg lacks {' and '.join(lacking)}, so how the weights were trained is not known; add "
            '"preprocess_cfg": {"mean": [R, G, B], "std": [R, G, B]}, and interpolation and resize_mode where they are '
            "not bicubic and shortest"
        )


def load_open_clip(args: RetrieverArgs) -> tuple[nn.Module, Callable, Callable, Callable[[list[str]], Tensor]]:
    """Loads a model with weights; never with random ones.

    Returns:
        tuple: The model in eval mode; from a PIL image to pixels ``[3, h, w]`` with open_clip's random crops, and
        without; and from texts to token ids ``[n, context]``.

    Raises:
        UserError: The model or its weights cannot be had; the message says how to point to a local copy.
    """
    import open_clip

    check_named(args)
    name, trained = open_clip_name(args), training_setup(args)
    if name.startswith(LOCAL):
        check_model_folder(Path(name.removeprefix(LOCAL)))
        _check_preprocessing(Path(name.removeprefix(LOCAL)))
    if not name.startswith(LOCAL) and not Path(args.pretrained or "").is_file():
        settle_hub()
    try:
        model, augment, preprocess = open_clip.create_model_and_transforms(
            name,
            pretrained=args.pretrained,
            precision={"float32": "fp32", "bfloat16": "bf16"}[args.dtype],
            require_pretrained=True,
            force_quick_gelu=trained.get("quick_gelu", False),
            **{f"image_{key}": trained.get(key) for key in _PREPROCESSING},
            **_own_text_tower(name),
        )
        tokenize = open_clip.get_tokenizer(name)
    except Exception as error:
        by_tag = open_clip.get_pretrained_cfg(name, args.pretrained or "")
        follows = f" with retriever.tag={args.pretrained}" if by_tag else ""
        raise UserError(
            f"retriever.model={args.model} retriever.pretrained={args.pretrained}: could not be loaded "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}). Without a network, give "
            f"retriever.pretrained=PATH of the weights' file{follows}, or "
            "retriever.model=local-dir:FOLDER with open_clip_config.json beside the weights."
        ) from None
    return model.eval(), augment, preprocess, tokenize


def architecture(args: RetrieverArgs, model: nn.Module) -> dict:
    """A loaded model's configuration as open_clip reads it, with the activation that the model has."""
    import open_clip

    quick = any(type(module).__name__ == "QuickGELU" for module in model.modules())
    return open_clip.get_model_config(open_clip_name(args)) | {"quick_gelu": quick}
