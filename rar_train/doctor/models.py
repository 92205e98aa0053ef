"""Checks of a recipe's models: files on this machine or downloadable, and supported families."""

from __future__ import annotations

from pathlib import Path

import torch

from data_prep.core.errors import UserError
from data_prep.core.hub import check_hub
from data_prep.core.paths import split_prefix
from data_prep.embedding.open_clip_models import NANO_CLIP, check_named, training_setup
from data_prep.embedding.own_encoder import find_own_encoder
from data_prep.embedding.pair import split_settings, to_name_settings
from data_prep.embedding.timm_encoder import check_timm
from data_prep.settings import Recipe, RetrieverArgs, check
from rar_train.doctor.findings import Finding
from rar_train.models.base_checks import refuse_adapter
from rar_train.models.meta import build_on_meta, local_folder, missing_weights
from rar_train.models.mllm import Mllm

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt")
FETCH_ADVICE = "download it once, or point ranker.model to a local folder"


def check_retriever(args: RetrieverArgs) -> list[Finding]:
    """Checks that the weights of the encoder, or of both of a pair, are on this machine or can be downloaded."""
    if args.name_model is None:
        return _check_encoder(args)
    of_images, of_names = split_settings(args)
    with to_name_settings():
        findings = _check_encoder(of_names)
    return _check_encoder(of_images) + findings


def _check_encoder(args: RetrieverArgs) -> list[Finding]:
    import open_clip

    prefix, name = split_prefix(args.model)
    if prefix == "timm:":
        return [_check_timm_weights(args)]
    if prefix in ("hf:", "st:"):
        if not Path(name).is_dir():
            return [_check_repository("retriever", name, f"retriever.model={prefix}FOLDER")]
        is_model = (Path(name) / "config.json").is_file() or (Path(name) / "modules.json").is_file()
        check(is_model, f"retriever.model={args.model}: no config.json there; give the model's folder")
        return [Finding("retriever", "ok", f"in {name}")]
    if args.model == "nano-clip":
        return [Finding("retriever", "ok", f"embedded, {NANO_CLIP}")]
    if args.model.startswith("local-dir:"):
        folder = Path(args.model.removeprefix("local-dir:"))
        if not (folder / "open_clip_config.json").is_file():
            raise UserError(f"retriever.model={args.model}: no open_clip_config.json there; give the model's folder")
        return [Finding("retriever", "ok", f"in {folder}")]
    if args.model.startswith("hf-hub:"):
        return [_check_repository("retriever", args.model.removeprefix("hf-hub:"), "retriever.model=local-dir:FOLDER")]
    if find_own_encoder(args.model) is not None:
        return [Finding("retriever", "ok", f"{args.model}, an encoder of your own, which is not loaded here")]
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
    setting = f"retriever.pretrained=PATH of a local copy with retriever.tag={args.pretrained}"
    if source.get("hf_hub"):
        return [_check_repository("retriever", source["hf_hub"].rstrip("/"), setting)]
    cached = Path("~/.cache/clip").expanduser() / Path(source["url"]).name
    if cached.is_file():
        return [Finding("retriever", "ok", f"in {cached}")]
    text = f"{args.model} {args.pretrained} is downloaded from {source['url']}, which was not contacted"
    return [Finding("retriever", "not checked", text, f"without a network, set {setting}")]


def _check_timm_weights(args: RetrieverArgs) -> Finding:
    import timm

    name, weights = check_timm(args)
    source, _, place = name.partition(":")
    if source == "local-dir" or weights:
        return Finding("retriever", "ok", f"{args.model} with the weights in {weights or place}")
    repository = place if source == "hf-hub" else timm.get_pretrained_cfg(name).hf_hub_id
    repository = f"{repository}{name}" if repository and repository.endswith("/") else repository
    setting = "retriever.pretrained=PATH of a local copy"
    if repository:
        return _check_repository("retriever", repository, setting)
    text = f"{args.model} is downloaded by timm, which was not contacted"
    return Finding("retriever", "not checked", text, f"without a network, set {setting}")


def _check_repository(about: str, repository: str, local_setting: str) -> Finding:
    """Checks that a repository is in the hub's cache, or that the hub answers; nothing is downloaded."""
    folder = local_folder(repository)
    if folder is not None and any(path.suffix in _WEIGHT_SUFFIXES for path in folder.iterdir()):
        return Finding(about, "ok", f"{repository}, in {folder}")
    if check_hub():
        text = f"{repository} is not on this machine; the hub answers, and the first run downloads it"
        return Finding(about, "warning", text, "gated models need huggingface-cli login")
    advice = f"set {local_setting}, or copy the model into the hub's cache"
    return Finding(about, "failure", f"{repository} is not on this machine, and the hub does not answer", advice)


def check_ranker(recipe: Recipe) -> list[Finding]:
    """Checks that the MLLM's weights are on this machine or can be downloaded."""
    model = recipe.ranker.model
    folder = local_folder(model)
    if folder is None:
        return [_check_repository("ranker", model, "ranker.model=FOLDER")]
    refuse_adapter(model, str(folder))
    missing = missing_weights(folder)
    if missing:
        text = f"{folder} lacks {len(missing)} weight files, such as {missing[0]}"
        return [Finding("ranker", "failure", text, "download it again; only safetensors are read")]
    return [Finding("ranker", "ok", f"{model}, in {folder}")]


def check_family(recipe: Recipe, folder: Path | None, models: list[Mllm]) -> list[Finding]:
    """Checks that the MLLM's family is supported, with the recipe's settings for it.

    Args:
        recipe: The ranker's recipe.
        folder: Folder of its files, or None where they are not on this machine.
        models: The model without weights is appended to it.
    """
    if folder is None:
        return [Finding("ranker family", "not checked", "the ranker's files are not on this machine", FETCH_ADVICE)]
    mllm = build_on_meta(recipe.ranker, folder)
    models.append(mllm)
    kind = mllm.base.config.model_type
    if recipe.trainer.feature_cache and not mllm.family.fixed_tower:
        text = f"trainer.feature_cache=true: the tower of {kind} takes images of any size, so features can't be cached"
        return [Finding("ranker family", "failure", text, "set trainer.feature_cache=false")]
    if recipe.ranker.quantize == "4bit" and not torch.cuda.is_available():
        text = "ranker.quantize=4bit needs a CUDA GPU, and torch sees none here"
        return [Finding("ranker family", "failure", text, "set ranker.quantize=none")]
    return [Finding("ranker family", "ok", kind)]
