"""Trains a ranker from a recipe: data, model, Trainer, adapter."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import LearningRateMonitor

from data_prep.core.errors import UserError
from data_prep.core.files import read_json, read_sealed, write_folder
from data_prep.core.manifests import find_damage
from data_prep.core.saving import write_errors
from data_prep.distributed.devices import resolve_accelerator
from data_prep.distributed.processes import Processes, process_group
from data_prep.leakage.contamination import MINED
from data_prep.settings import RankerArgs, Recipe
from rar_train.engine.checkpoint import AdapterCheckpoints, fit_from
from rar_train.engine.checkpoint_files import newest_whole, steps_done
from rar_train.engine.run_folder import (
    claim_run_folder,
    is_complete,
    note_file,
    read_noted_files,
)
from rar_train.engine.strategies import gather_weights, make_strategy, seed_all
from rar_train.engine.tracking import finish_tracking, make_loggers
from rar_train.engine.trainer import make_trainer
from rar_train.models.adapter_manifest import adapter_manifest
from rar_train.models.feature_cache import cache_features
from rar_train.models.lora import parameter_table, save_adapter
from rar_train.models.mllm import load_mllm
from rar_train.ranker.datamodule import RankingData, make_examples, optimizer_steps
from rar_train.ranker.module import RankerModule
from rar_train.ranker.monitor import Monitor, table_lines

log = logging.getLogger(__name__)


def _repair(recipe: Recipe, out: Path) -> None:
    """Makes the list of mined images of a complete run again, where it is missing or damaged.

    Raises:
        UserError: The data are no longer those that the run was trained on.
    """
    noted = read_noted_files(out)
    if MINED in noted and find_damage(out, noted) is None:
        return
    log.warning("training: %s is missing or damaged; it is made again", out / MINED)
    make_examples(recipe)
    made = Path(read_sealed(out / "data.json")["train"])
    if read_json(made / "manifest.json")["files"] != adapter_manifest(out / "adapter")["data"]:
        (out / MINED).unlink()
        raise UserError(
            f"{out / MINED}: missing or damaged, and {made} is not what the run was trained on; put the data back as "
            "they were, and give the same command again"
        )
    note_file(out, MINED)


def _prepare(data: RankingData, out: Path) -> None:
    data.prepare_data()
    note_file(out, MINED)


def train_ranker(recipe: Recipe) -> Path:
    """Runs or resumes a recipe's training.

    Returns:
        Path: The run's folder with ``adapter/``, ``recipe.yaml``, checkpoints and logs.
    """
    with process_group(recipe) as processes:
        return _train(recipe, processes)


def _train(recipe: Recipe, processes: Processes) -> Path:
    out = Path(recipe.out)
    processes.after_first("run's folder", lambda: claim_run_folder(recipe))
    if is_complete(out / "adapter"):
        if processes.rank == 0:
            _repair(recipe, out)
        log.info("training: %s is complete; reusing its adapter", out)
        return out
    checkpoint = newest_whole(out / "checkpoints")

    strategy = make_strategy(recipe.trainer)  # first: DeepSpeed reads the environment when imported
    mllm = load_mllm(_as_computed(recipe))
    if recipe.trainer.feature_cache:
        cache_features(mllm, Path(recipe.cache), recipe.ranker.lora)
    data = RankingData(recipe, mllm)
    processes.after_first("data", lambda: _prepare(data, out))  # before they wait for each other with a time limit
    data.setup("fit")
    steps = optimizer_steps(recipe, len(data.kept))
    # After the data stages, which may or may not have drawn numbers.
    seed_all(recipe.seed, resolve_accelerator(recipe.trainer))
    module = RankerModule(recipe, mllm, steps)
    table = parameter_table(module.mllm)
    for line in table_lines(table) if processes.rank == 0 else ():
        log.info("%s", line)
    metadata = {
        "data": data.train_set.manifest["files"],
        "encoder": data.train_set.manifest["encoder"],
        "processes": recipe.trainer.devices * recipe.trainer.num_nodes,
    }
    start = steps_done(checkpoint)
    log.info("training: %d examples, %d steps%s", len(data.kept), steps, f", from step {start}" if start else "")
    parameters = {part: {"trainable": trainable, "all": total} for part, trainable, total in table}
    loggers = make_loggers(recipe, start, {"parameters": parameters})
    checkpoints = AdapterCheckpoints(recipe, metadata)
    callbacks = [Monitor(recipe, table[-1][1:]), checkpoints, LearningRateMonitor("step")]
    trainer = make_trainer(recipe, strategy, steps, loggers, callbacks)
    fit_from(checkpoint, trainer, module, data)
    _finish(recipe, trainer, module, checkpoints)
    return out


def _as_computed(recipe: Recipe) -> RankerArgs:
    """Under DeepSpeed weights take the precision's type and buffers keep theirs, so the base is loaded in it."""
    halves = {"bf16-mixed": "bfloat16", "16-mixed": "float16"}
    half = halves.get(recipe.trainer.precision) if recipe.trainer.strategy.startswith("deepspeed") else None
    return replace(recipe.ranker, dtype=half) if half else recipe.ranker


def _finish(recipe: Recipe, trainer: L.Trainer, module: RankerModule, checkpoints: AdapterCheckpoints) -> None:
    """Leaves the run's adapter: the last weights, or the best checkpoint's, as the recipe says."""
    folder, metrics = Path(recipe.out) / "adapter", checkpoints.validation
    best = checkpoints.best if recipe.trainer.adapter == "best" else None
    with gather_weights(module), write_errors(folder):
        if trainer.is_global_zero and best is None:
            metadata = checkpoints.metadata | {"step": trainer.global_step, "validation": metrics}
            save_adapter(module.mllm, folder, recipe, metadata)
        elif trainer.is_global_zero:
            adapter_manifest(best.with_suffix(".adapter"))
            with write_folder(folder) as part:
                shutil.copytree(best.with_suffix(".adapter"), part, dirs_exist_ok=True)
    if trainer.is_global_zero:
        checkpoints.note_best()
        log.info("training: done, %s; adapter%s in %s", metrics, f" of {best.stem}" if best else "", folder)
        finish_tracking(trainer.loggers, folder)
    trainer.strategy.barrier()
