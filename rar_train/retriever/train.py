"""Tunes the retriever from a recipe: contrastively on the training classes, and saves a model that open_clip loads."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from torch import nn

from data_prep.core.files import write_folder
from data_prep.core.manifests import seal_folder
from data_prep.core.saving import write_errors
from data_prep.datasets import read_dataset
from data_prep.distributed.devices import resolve_accelerator
from data_prep.distributed.processes import Processes, process_group
from data_prep.embedding.encoder import Encoder, load_encoder
from data_prep.embedding.name_tokens import name_tokens
from data_prep.embedding.open_clip_models import architecture
from data_prep.memory.memories import with_templates
from data_prep.settings import Recipe, check
from rar_train.engine.checkpoint import Checkpoints, fit_from
from rar_train.engine.checkpoint_files import newest_whole, steps_done
from rar_train.engine.run_folder import claim_run_folder, is_complete
from rar_train.engine.strategies import make_strategy, seed_all
from rar_train.engine.tracking import make_loggers
from rar_train.engine.trainer import make_trainer
from rar_train.models.open_clip_folder import write_open_clip
from rar_train.retriever.datamodule import RetrieverData
from rar_train.retriever.module import RetrieverModule, merge_adapters, prepare_model
from rar_train.retriever.views import Features, Pixels, Projections

log = logging.getLogger(__name__)


def train_retriever(recipe: Recipe) -> Path:
    """Runs or resumes a recipe's tuning of the retriever.

    Returns:
        Path: A folder that ``retriever.model=local-dir:FOLDER`` loads.
    """
    check(
        recipe.trainer.strategy in ("auto", "ddp"),
        f"trainer.strategy={recipe.trainer.strategy}: the retriever is tuned under auto or ddp",
    )
    with process_group(recipe) as processes:
        return _train(recipe, processes)


def _train(recipe: Recipe, processes: Processes) -> Path:
    out = Path(recipe.out)
    processes.after_first("run's folder", lambda: claim_run_folder(recipe))
    if is_complete(out / "model"):
        log.info("training: %s is complete; reusing its model", out)
        return out / "model"
    encoder = load_encoder(replace(recipe.retriever, dtype="float32"))
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("train", "val"))
    checkpoint = newest_whole(out / "checkpoints")
    start = steps_done(checkpoint)
    tuning = recipe.retriever.tuning
    apart = tuning.towers == "projections"
    if not apart:
        name_tokens(
            encoder.tokenize, dataset.texts, with_templates(recipe.retriever, dataset).templates
        )  # warns of cut names
    views = Features(recipe, encoder, dataset) if apart else Pixels(encoder, tuning.augment)
    data = RetrieverData(recipe, views, dataset, start)
    steps = data.steps
    seed_all(recipe.seed, resolve_accelerator(recipe.trainer))
    model = Projections(encoder.model) if apart else prepare_model(encoder.model, tuning)
    module = RetrieverModule(recipe, model, data.name_ids(), steps)
    trainable = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    log.info("training: %s trainable parameters, %d steps%s", f"{trainable:,}", steps, f", from {start}" * bool(start))
    checkpoints = Checkpoints(recipe)
    trainer = make_trainer(recipe, make_strategy(recipe.trainer), steps, make_loggers(recipe, start), [checkpoints])
    fit_from(checkpoint, trainer, module, data)
    metrics = checkpoints.validation
    if trainer.is_global_zero:
        metadata = {"base": encoder.id, "steps": trainer.global_step, "validation": metrics}
        model = encoder.model if apart else merge_adapters(module.model, tuning)
        with write_errors(out / "model"):
            save_open_clip(model, encoder, recipe, out / "model", metadata)
        log.info("training: done, last validation %s; use it with retriever.model=local-dir:%s", metrics, out / "model")
    trainer.strategy.barrier()
    return out / "model"


def save_open_clip(model: nn.Module, encoder: Encoder, recipe: Recipe, folder: Path, metadata: dict) -> None:
    """Writes weights, configuration and tokenizer as open_clip's ``local-dir:`` reads them.

    Args:
        model: A plain open_clip model, adapters merged.
        encoder: What it was tuned from; has the tokenizer.
        recipe: Names the architecture.
        folder: Where to; it is whole or as it was before.
        metadata: For the manifest.
    """
    from open_clip.tokenizer import HFTokenizer

    # Weights bring their activation with them, which the architecture's name does not tell.
    config = architecture(recipe.retriever, model)
    with write_folder(folder) as part:
        tokenizer = encoder.tokenize.tokenizer if isinstance(encoder.tokenize, HFTokenizer) else None
        write_open_clip(part, model, config, dict(model.visual.preprocess_cfg), tokenizer)
        seal_folder(part, {"retriever": recipe.retriever.model} | metadata)
