"""Merging of an adapter into its base, verified against the two, and written as a plain transformers model."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_prep.core.errors import UserError
from data_prep.core.files import write_folder, write_text
from data_prep.core.manifests import seal_folder
from data_prep.core.saving import write_errors
from data_prep.prompting.prompts import NAMING, letters_prompt
from data_prep.settings import Recipe
from rar_train.export.cross_encoder import name_template, write_cross_encoder_files
from rar_train.export.model_card import model_card
from rar_train.export.serving import serving_limits
from rar_train.models.adapter_manifest import read_adapter_manifest
from rar_train.models.loading import load_mllm
from rar_train.models.lora import load_adapter
from rar_train.models.mllm import Mllm

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""The largest difference of two log-probabilities, in float32, at which a merge counts as exact."""
ROUNDING = {"float32": TOLERANCE, "bfloat16": 0.5, "float16": 0.1}
"""The same after casting; larger differences do not come from rounding of weights."""

_RUN_UNCHANGED = "the run is as it was"


def log_probabilities(mllm: Mllm) -> Tensor:
    """Computes next-token log-probabilities for two noise images and prompts, ``[2, vocabulary]``, in float32."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    inputs = mllm.inputs(images, [NAMING, letters_prompt(["one", "another"])])
    dtype = mllm.base.dtype
    inputs = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
    with torch.no_grad():
        return mllm.model.eval()(**inputs, logits_to_keep=1).logits[:, -1].float().log_softmax(-1)


def check_same(expected: Tensor, actual: Tensor, tolerance: float, subject: str) -> float:
    """Returns the largest difference of two models' log-probabilities among the likelier half of the tokens.

    Raises:
        UserError: It exceeds the tolerance.
    """
    likely = expected > expected.median()
    difference = (expected - actual)[likely].abs().max().item()
    if not difference <= tolerance:  # also True for NaN
        raise UserError(
            f"{subject}: its log-probabilities differ by {difference:.2g} from those of base and adapter, more than "
            f"{tolerance:g}; nothing was written"
        )
    return difference


def merge_adapter(recipe: Recipe, adapter: Path, dtype: str) -> tuple[Mllm, float]:
    """Merges in float32, checks, casts, and checks again.

    Args:
        recipe: The run's recipe.
        adapter: The adapter's folder.
        dtype: Dtype of the result.

    Returns:
        tuple: The plain model, and the largest difference of a log-probability to base and adapter.

    Raises:
        UserError: The merged model's log-probabilities differ from those of base and adapter.
    """
    # Never merged into a four-bit base, whose weights are rounded.
    tuned = load_adapter(load_mllm(replace(recipe.ranker, dtype="float32", quantize="none")), adapter)
    expected = log_probabilities(tuned)
    plain = tuned.wrap(tuned.model.merge_and_unload())
    difference = check_same(expected, log_probabilities(plain), TOLERANCE, "the merged model")
    if dtype != "float32":
        plain.model.to(getattr(torch, dtype))
        difference = check_same(expected, log_probabilities(plain), ROUNDING[dtype], f"the merged model in {dtype}")
    return plain, difference


def write_merged(recipe: Recipe, adapter: Path, run: Path, to: Path, dtype: str) -> None:
    """Writes the merged model with processor and card into a folder, atomically; a reranker's loads as CrossEncoder."""
    plain, difference = merge_adapter(recipe, adapter, dtype)
    if plain.reranker is not None and plain.reranker.head is not None:
        raise UserError(
            f"--merge: {recipe.ranker.model} has a head of its own, which a plain model of its family does not have; "
            "export the adapter alone (without --merge)"
        )
    manifest = read_adapter_manifest(adapter)
    needs_import = plain.model.config.vision_config.model_type == "timm_tower"
    card = model_card(recipe, manifest, run, dtype, difference, needs_import)
    with write_errors(to, kept=_RUN_UNCHANGED), write_folder(to) as part:
        plain.model.save_pretrained(part, safe_serialization=True)
        if plain.reranker is not None:
            name_template(plain, plain.reranker)
            write_cross_encoder_files(plain.reranker, part)
        plain.processor.save_pretrained(part)
        seal_folder(part, {"base_model": manifest["base_model"], "adapter": manifest["adapter"], "dtype": dtype})
        write_text(part / "README.md", card)  # not in the manifest, since publishers edit it
    log.info(
        "export: merged model in %s (%s, log-probabilities within %.2g of base and adapter); %s says how to load it",
        to, dtype, difference, to / "README.md",
    )  # fmt: skip


def write_adapter(recipe: Recipe, adapter: Path, run: Path, to: Path) -> None:
    """Copies the adapter and writes a model card; warns of what servers do not take of it."""
    manifest = read_adapter_manifest(adapter)
    limits = serving_limits(adapter, manifest["adapted"])
    for limit in limits:
        log.warning("export: %s Serve the merged model instead (--merge; docs/serving.md)", limit)
    card = model_card(recipe, manifest, run, limits=limits)
    with write_errors(to, kept=_RUN_UNCHANGED), write_folder(to) as part:
        shutil.copytree(adapter, part, dirs_exist_ok=True)
        write_text(part / "README.md", card)
    log.info("export: adapter in %s; %s says how to load it", to, to / "README.md")
