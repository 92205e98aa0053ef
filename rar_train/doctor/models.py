"""Checks of a recipe's models: whether their files are here or can be had, and whether they are supported."""

from __future__ import annotations

from pathlib import Path

import torch

from data_prep.core.errors import UserError
from data_prep.core.hub import settle_hub
from data_prep.embedding.open_clip_models import NANO_CLIP, check_named, training_setup
from data_prep.settings import Recipe, RetrieverArgs
from rar_train.doctor.findings import Finding
from rar_train.models.base_checks import refuse_adapter
from rar_train.models.meta import build_on_meta, local_folder, missing_weights
from rar_train.models.mllm import Mllm

_WEIGHTS = (".safetensors", ".bin", ".pt")
FETCH = "download it once, or point ranker.model to a local folder"


def check_retriever(args: RetrieverArgs) -> list[Finding]:
    """Whether the encoder's weights are here, or can be fetched."""
    import open_clip

    if args.model == "nano-clip":
        return [Finding("retriever", "ok", f"embedded, {NANO_CLIP}")]
    if args.model.startswith("local-dir:"):
        folder = Path(args.model.removeprefix("local-dir:"))
        if not (folder / "open_clip_config.json").is_file():
            raise UserError(f"retriever.model={args.model}: no open_clip_config.json there; give the model's folder")
        return [Finding("retriever", "ok", f"in {folder}")]
    if args.model.startswith("hf-hub:"):
        return [_fetchable("retriever", args.model.removeprefix("hf-hub:"), "retriever.model=local-dir:FOLDER")]
    check_named(args)
    training_setup(args)
    source = open_clip.get_pretrained_cfg(args.model, args.pretrained)
    if not source and Path(args.pretrained).is_file():
        return [Finding("retriever", "ok", f"{args.model} with the weights in {args.pretrained}")]
    if not source:
        raise UserError(
            f"retriever.pretrained={args.pretrained}: no file, and no weights of {args.model}; there are "
            f"{', '.join(open_clip.list_pretrained_tags_by_model(args.model))}"
        )
    place = f"retriever.pretrained=PATH of a local copy with retriever.tag={args.pretrained}"
    if source.get("hf_hub"):
        return [_fetchable("retriever", source["hf_hub"].rstrip("/"), place)]
    kept = Path("~/.cache/clip").expanduser() / Path(source["url"]).name
    if kept.is_file():
        return [Finding("retriever", "ok", f"in {kept}")]
    said = f"{args.model} {args.pretrained} is fetched from {source['url']}, which was not asked"
    return [Finding("retriever", "not checked", said, f"without a network, set {place}")]


def _fetchable(about: str, repository: str, instead: str) -> Finding:
    """Whether a repository lies in the hub's cache, or the hub answers; nothing is downloaded."""
    folder = local_folder(repository)
    if folder is not None and any(path.suffix in _WEIGHTS for path in folder.iterdir()):
        return Finding(about, "ok", f"{repository}, in {folder}")
    if settle_hub():
        said = f"{repository} is not on this machine; the hub answers, and the first run downloads it"
        return Finding(about, "warning", said, "gated models need huggingface-cli login")
    advice = f"set {instead}, or copy the model into the hub's cache"
    return Finding(about, "failure", f"{repository} is not on this machine, and the hub does not answer", advice)


def check_ranker(recipe: Recipe) -> list[Finding]:
    """Whether the MLLM's weights are here, or can be fetched."""
    model = recipe.ranker.model
    folder = local_folder(model)
    if folder is None:
        return [_fetchable("ranker", model, "ranker.model=FOLDER")]
    refuse_adapter(model, str(folder))
    missing = missing_weights(folder)
    if missing:
        said = f"{folder} lacks {len(missing)} files of weights, such as {missing[0]}"
        return [Finding("ranker", "failure", said, "download it again; only safetensors are read")]
    return [Finding("ranker", "ok", f"{model}, in {folder}")]


def check_family(recipe: Recipe, folder: Path | None, found: list[Mllm]) -> list[Finding]:
    """Whether the MLLM's family is supported, with the recipe's settings of it.

    Args:
        recipe: Of the ranker.
        folder: Its files, or None where they are not here.
        found: Takes the model's outline.
    """
    if folder is None:
        return [Finding("ranker family", "not checked", "the ranker's files are not on this machine", FETCH)]
    mllm = build_on_meta(recipe.ranker, folder)
    found.append(mllm)
    kind = mllm.base.config.model_type
    if recipe.trainer.feature_cache and not mllm.family.fixed_tower:
        said = f"trainer.feature_cache=true: the tower of {kind} takes images of any size, so features can't be kept"
        return [Finding("ranker family", "failure", said, "set trainer.feature_cache=false")]
    if recipe.ranker.quantize == "4bit" and not torch.cuda.is_available():
        said = "ranker.quantize=4bit needs a CUDA GPU, and torch sees none here"
        return [Finding("ranker family", "failure", said, "set ranker.quantize=none")]
    return [Finding("ranker family", "ok", kind)]
