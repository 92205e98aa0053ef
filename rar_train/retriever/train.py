"""Fine-tunes the retriever from a recipe: contrastively on the training classes; saves a model that open_clip loads."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import lightning as L
from torch import nn

from data_prep.core.errors import UserError
from data_prep.core.files import write_folder
from data_prep.core.manifests import seal_folder
from data_prep.datasets import read_dataset
from data_prep.distributed.devices import resolve_accelerator
from data_prep.embedding.encoder import load_encoder
from data_prep.embedding.name_tokens import tokenize_names
from data_prep.embedding.open_clip_encoder import OpenClipEncoder
from data_prep.embedding.open_clip_models import architecture
from data_prep.memory.memories import with_templates
from data_prep.settings import Recipe, check
from rar_train.engine.checkpoint import Checkpoints
from rar_train.engine.progress import format_metrics
from rar_train.engine.run import Run, train_run
from rar_train.engine.strategies import seed_all
from rar_train.models.open_clip_folder import write_open_clip
from rar_train.retriever.datamodule import RetrieverData
from rar_train.retriever.module import RetrieverModule, merge_adapters, prepare_model
from rar_train.retriever.views import Features, Pixels, Projections

log = logging.getLogger(__name__)


def train_retriever(recipe: Recipe) -> Path:
    """Runs or resumes the tuning of a recipe's retriever.

    Returns:
        Path: A folder that ``retriever.model=local-dir:FOLDER`` loads.
    """
    check(
        recipe.trainer.strategy in ("auto", "ddp"),
        f"trainer.strategy={recipe.trainer.strategy}: the retriever is tuned under auto or ddp",
    )
    return train_run(recipe, "model", _train)


def _train(run: Run) -> L.Trainer:
    recipe, tuning = run.recipe, run.recipe.retriever.tuning
    encoder = load_encoder(replace(recipe.retriever, dtype="float32"))
    if not isinstance(encoder, OpenClipEncoder):
        raise UserError(f"retriever.model={recipe.retriever.model}: only open_clip models can be tuned")
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("train", "val"))
    start = run.start
    projections_only = tuning.towers == "projections"
    if projections_only:
        views = Features(recipe, encoder, dataset)
    else:
        templates = with_templates(recipe.retriever, dataset).templates
        tokenize_names(encoder.tokenize, dataset.texts, templates)  # warns of truncated names
        views = Pixels(encoder, tuning)
    data = RetrieverData(recipe, views, dataset, start)
    seed_all(recipe.seed, resolve_accelerator(recipe.trainer))
    model = Projections(encoder.model) if projections_only else prepare_model(encoder.model, tuning)
    module = RetrieverModule(recipe, model, data.name_ids(), data.steps)
    trainable = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    resumed = f", from {start}" if start else ""
    log.info("training: %s trainable parameters, %d steps%s", f"{trainable:,}", data.steps, resumed)
    checkpoints = Checkpoints(recipe)
    trainer = run.fit(module, data, data.steps, [checkpoints], lambda batch: len(batch[0]))
    metrics = checkpoints.validation
    metadata = {"base": encoder.id, "steps": trainer.global_step, "validation": metrics}
    merged = encoder.model if projections_only else merge_adapters(module.model, tuning)
    run.save(trainer, module, lambda folder: save_open_clip(merged, encoder, recipe, folder, metadata))
    if trainer.is_global_zero:
        log.info("training: done, last validation: %s; model in %s", format_metrics(metrics), run.result)
    return trainer


def save_open_clip(model: nn.Module, encoder: OpenClipEncoder, recipe: Recipe, folder: Path, metadata: dict) -> None:
    """Writes weights, configuration and tokenizer as open_clip's ``local-dir:`` reads them.

    Args:
        model: A plain open_clip model, adapters merged.
        encoder: The encoder it was tuned from; gives the tokenizer.
        recipe: Names the architecture.
        folder: Destination; written atomically, so it is complete or unchanged.
        metadata: For the manifest.
    """
    from open_clip.tokenizer import HFTokenizer

    # The model is given too, because pretrained weights may use an activation that the architecture's name omits.
    config = architecture(recipe.retriever, model)
    with write_folder(folder) as part:
        tokenizer = encoder.tokenize.tokenizer if isinstance(encoder.tokenize, HFTokenizer) else None
        write_open_clip(part, model, config, dict(model.visual.preprocess_cfg), tokenizer)
        seal_folder(part, {"retriever": recipe.retriever.model} | metadata)
