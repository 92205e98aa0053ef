"""Tunes an encoder on each draw of few-shot images that an evaluation has; each draw is a run of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning as L

from data_prep.adapters.draws import DRAWS, Draw, load_draw
from data_prep.core.errors import UserError
from data_prep.datasets import Dataset, read_dataset
from data_prep.distributed.devices import resolve_accelerator
from data_prep.embedding.encoder import load_encoder
from data_prep.embedding.name_tokens import tokenize_names
from data_prep.embedding.open_clip_encoder import OpenClipEncoder
from data_prep.leakage.contamination import drop_evaluated
from data_prep.settings import Recipe, check
from rar_train.engine.checkpoint import Checkpoints
from rar_train.engine.run import Run, train_run
from rar_train.engine.strategies import seed_all
from rar_train.retriever.few_shot import FewShotModule, trained_parameters
from rar_train.retriever.few_shot_data import FewShotData
from rar_train.retriever.module import merge_adapters, prepare_model
from rar_train.retriever.train import save_open_clip
from rar_train.retriever.views import Pixels

log = logging.getLogger(__name__)


def train_draws(recipe: Recipe) -> Path:
    """Runs or resumes the tuning on each of the recipe's draws.

    Returns:
        Path: Folder of the draws; each one's ``model`` is a folder that ``retriever.model=local-dir:FOLDER`` loads.

    Raises:
        UserError: There are no draws, more processes than one, or an image that is evaluated too.
    """
    args, trainer = recipe.eval, recipe.trainer
    check(bool(args.shots), "eval.shots=[]: retriever.tuning.loss=cross_entropy tunes on few-shot images; give numbers")
    check(
        trainer.devices * trainer.num_nodes == 1 and trainer.strategy == "auto",
        "retriever.tuning.loss=cross_entropy: each draw is tuned in one process; set trainer.devices=1 "
        "trainer.num_nodes=1 trainer.strategy=auto, and give commands with different eval.shots or eval.seeds at once",
    )
    dataset = read_draws(recipe)
    for draw in list_draws(recipe, dataset):
        folder = draw.folder(Path(recipe.out))
        log.info("draw: %d shots, seed %d, %d images, %s", draw.shots, draw.seed, len(draw.samples), folder)
        train_run(replace(recipe, out=str(folder)), "model", partial(_train, draw=draw))
    return Path(recipe.out) / DRAWS


def read_draws(recipe: Recipe) -> Dataset:
    """Reads the evaluated split and its memory pool, without images of the pool that are evaluated, as ``eval.run``.

    Raises:
        UserError: There are such images, byte for byte, and ``eval.leaks`` is ``error``.
    """
    split, part = recipe.eval.split, f"{recipe.eval.split}_memory"
    dataset = read_dataset(recipe.data, Path(recipe.cache), (part, split))
    policy = "skip" if recipe.mining.evaluated_copies == "skip" else recipe.eval.leaks
    return dataset if recipe.eval.leaks == "allow" else drop_evaluated(dataset, part, policy, "eval.leaks")


def list_draws(recipe: Recipe, dataset: Dataset) -> Iterator[Draw]:
    """Yields the draw of each of ``eval.shots`` and ``eval.seeds``."""
    part = f"{recipe.eval.split}_memory"
    for shots in recipe.eval.shots:
        for seed in recipe.eval.seeds:
            yield load_draw(recipe, dataset, part, shots, seed)


def _train(run: Run, draw: Draw) -> L.Trainer:
    recipe, tuning = run.recipe, run.recipe.retriever.tuning
    encoder = load_encoder(replace(recipe.retriever, dtype="float32"))
    if not isinstance(encoder, OpenClipEncoder):
        raise UserError(f"retriever.model={recipe.retriever.model}: only open_clip models can be tuned")
    tokenize_names(encoder.tokenize, draw.texts, [draw.template])  # warns of truncated names
    views = Pixels(encoder, tuning)
    data = FewShotData(recipe, views, draw, run.start)
    seed_all(recipe.seed, resolve_accelerator(recipe.trainer))
    module = FewShotModule(recipe, prepare_model(encoder.model, tuning), views.texts(draw.prompts), data.steps)
    resumed = f", from {run.start}" if run.start else ""
    count = trained_parameters(module)
    log.info("training: %s trainable parameters, %d steps%s", f"{count:,}", data.steps, resumed)
    checkpoints = Checkpoints(recipe)
    trainer = run.fit(module, data, data.steps, [checkpoints], lambda batch: len(batch[0]))
    metadata = {"base": encoder.id, "steps": trainer.global_step, "validation": checkpoints.validation}
    metadata |= {"part": f"{recipe.eval.split}_memory", "draw": draw.describe()}
    merged = merge_adapters(module.model, tuning)
    run.save(trainer, module, lambda folder: save_open_clip(merged, encoder, recipe, folder, metadata))
    log.info("training: done, model in %s", run.result)
    return trainer
