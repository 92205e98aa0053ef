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
from data_prep.core.ranks import is_first_process
from data_prep.distributed.devices import resolve_accelerator
from data_prep.leakage.contamination import MINED
from data_prep.settings import RankerArgs, Recipe
from rar_train.engine.checkpoint import AdapterCheckpoints
from rar_train.engine.progress import format_metrics, progress_bar
from rar_train.engine.run import Run, train_run
from rar_train.engine.run_folder import read_checksums, record_checksum
from rar_train.engine.strategies import CheckGradients, make_strategy, seed_all
from rar_train.engine.tracking import finish_tracking
from rar_train.models.adapter_manifest import read_adapter_manifest, shortfall
from rar_train.models.feature_cache import cache_features
from rar_train.models.loading import load_mllm
from rar_train.models.lora import parameter_table, save_adapter
from rar_train.ranker.checkpointing import decide_checkpointing
from rar_train.ranker.collate import RankingBatch
from rar_train.ranker.datamodule import RankingData, build_examples, optimizer_steps
from rar_train.ranker.module import RankerModule
from rar_train.ranker.monitor import Monitor, format_parameter_table

log = logging.getLogger(__name__)


def train_ranker(recipe: Recipe) -> Path:
    """Runs or resumes a recipe's training.

    Returns:
        Path: The run's folder with ``adapter/``, ``recipe.yaml``, checkpoints and logs.
    """
    out = Path(recipe.out)
    adapter = train_run(recipe, "adapter", _train, repair=lambda: _repair_mined_list(recipe, out))
    if is_first_process():
        below = shortfall(recipe, read_adapter_manifest(adapter))
        if below:
            log.warning("training: %s", below)
    return out


def _repair_mined_list(recipe: Recipe, out: Path) -> None:
    """Rebuilds the list of mined images of a complete run, where it is missing or damaged.

    Raises:
        UserError: The data are no longer those that the run was trained on.
    """
    checksums = read_checksums(out)
    if MINED in checksums and find_damage(out, checksums) is None:
        return
    log.warning("training: %s is missing or damaged; rebuilding it", out / MINED)
    build_examples(recipe)
    shards = Path(read_sealed(out / "data.json")["train"])
    if read_json(shards / "manifest.json")["files"] != read_adapter_manifest(out / "adapter")["data"]:
        (out / MINED).unlink()
        raise UserError(
            f"{out / MINED}: missing or damaged, and {shards} is not what the run was trained on; restore the data as "
            "they were, and give the same command again"
        )
    record_checksum(out, MINED)


def _prepare_data(data: RankingData, out: Path) -> None:
    data.prepare_data()
    record_checksum(out, MINED)


def _train(run: Run) -> L.Trainer:
    recipe, out, start = run.recipe, Path(run.recipe.out), run.start
    strategy = make_strategy(recipe.trainer)  # before the model: DeepSpeed reads the environment when imported
    mllm = load_mllm(_with_deepspeed_dtype(recipe))
    if recipe.trainer.feature_cache:
        cache_features(mllm, Path(recipe.cache), recipe.ranker.lora)
    data = RankingData(recipe, mllm)
    run.processes.after_first("data", lambda: _prepare_data(data, out))  # before any wait that has a time limit
    data.setup("fit")
    steps = optimizer_steps(recipe, len(data.selected))
    # After the data stages, which use random numbers only where they have something to build.
    seed_all(recipe.seed, resolve_accelerator(recipe.trainer))
    module = RankerModule(recipe, mllm, steps)
    if recipe.trainer.gradient_checkpointing == "auto" and decide_checkpointing(recipe, module.mllm, data):
        module.checkpoint_gradients()
    table = parameter_table(module.mllm)
    for line in format_parameter_table(table) if run.processes.rank == 0 else ():
        log.info("%s", line)
    log.info("training: %d examples, %d steps%s", len(data.selected), steps, f", from step {start}" if start else "")
    if run.processes.rank == 0 and data.val_count:
        log.info(
            "training: a validation has the loss on %d examples, and how often the true class is first: by each mode, "
            "in the retriever's order of the same candidates, and in lists that the model writes (generate, with the "
            "shares of replies that are ok, repaired or unreadable)", data.val_count,
        )  # fmt: skip
    metadata = {
        "data": data.train_set.manifest["files"],
        "encoder": data.train_set.manifest["encoder"],
        "processes": recipe.trainer.devices * recipe.trainer.num_nodes,
        "val_examples": data.val_count,
    }
    checkpoints = AdapterCheckpoints(recipe, metadata)
    callbacks = [Monitor(recipe, table[-1][1:]), checkpoints, LearningRateMonitor("step"), CheckGradients()]
    parameters = {part: {"trainable": trainable, "all": total} for part, trainable, total in table}
    trainer = run.fit(module, data, steps, callbacks, _count_examples, strategy, {"parameters": parameters})
    _save(run, trainer, module, checkpoints)
    return trainer


def _describe_result(best: Path | None, metrics: dict[str, float], recipe: Recipe) -> str:
    """Says of which step the weights are; with their validation, where the last log line has not just shown it."""
    if best is None and metrics and not progress_bar(recipe.trainer):
        return "with the last step's weights"
    return f"validation{f' of {best.stem}' if best else ''}: {format_metrics(metrics)}"


def _count_examples(batch: RankingBatch) -> int:
    return len(batch.examples)


def _with_deepspeed_dtype(recipe: Recipe) -> RankerArgs:
    """Returns ranker settings that load the base in the precision's dtype, under DeepSpeed.

    DeepSpeed casts weights to that dtype but leaves buffers as they were loaded.
    """
    half_dtypes = {"bf16-mixed": "bfloat16", "16-mixed": "float16"}
    half = half_dtypes.get(recipe.trainer.precision) if recipe.trainer.zero_stage else None
    return replace(recipe.ranker, dtype=half) if half else recipe.ranker


def _save(run: Run, trainer: L.Trainer, module: RankerModule, checkpoints: AdapterCheckpoints) -> None:
    """Saves the run's adapter: the last weights, or the best checkpoint's, by ``trainer.adapter``."""
    metrics = dict(checkpoints.validation)
    best = checkpoints.best if run.recipe.trainer.adapter == "best" else None

    def write(folder: Path) -> None:
        if best is None:
            metadata = checkpoints.metadata | {"step": trainer.global_step, "validation": metrics}
            save_adapter(module.mllm, folder, run.recipe, metadata)
            return
        adapter = best.with_suffix(".adapter")
        metrics.update(read_adapter_manifest(adapter)["validation"])  # raises where it is damaged
        with write_folder(folder) as part:
            shutil.copytree(adapter, part, dirs_exist_ok=True)

    run.save(trainer, module, write)
    if trainer.is_global_zero:
        checkpoints.note_best()
        log.info("training: done, %s; adapter in %s", _describe_result(best, metrics, run.recipe), run.result)
        finish_tracking(trainer.loggers, run.result)
