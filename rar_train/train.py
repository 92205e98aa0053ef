"""Trains a ranker from a recipe: data, model, Trainer, adapter."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy

from data_prep.devices import accelerator_of
from data_prep.errors import UserError
from data_prep.files import read_json, read_sealed, write_folder
from data_prep.held_out import MINED
from data_prep.manifests import damage
from data_prep.processes import Processes, together
from data_prep.recipe import save_recipe
from data_prep.settings import RankerArgs, Recipe
from rar_train.adapter import parameter_table, save_adapter
from rar_train.backend import load_mllm
from rar_train.checkpoint import AdapterCheckpoints, fit_from, saving
from rar_train.checkpoint_files import newest_whole, steps_done
from rar_train.datamodule import RankingData, make_examples, optimizer_steps
from rar_train.features import cache_features
from rar_train.monitor import Monitor, progress_bar, table_lines
from rar_train.ranker import RankerModule
from rar_train.run_folder import (
    RUN,
    adapter_manifest,
    differences,
    is_complete,
    known_recipe,
    note_file,
    note_recipe,
    noted_files,
)
from rar_train.strategies import gathered, seed_all, strategy_of
from rar_train.tracking import finish_tracking, loggers_of

log = logging.getLogger(__name__)

# What a resumed run may change without becoming another run.
_FREE = (
    "out", "cache", "eval", "discover", "tracking", "trainer.resume", "trainer.log_every", "trainer.checkpoint_every",
    "trainer.progress",
)  # fmt: skip


def claim_run_folder(recipe: Recipe) -> Path:
    """Makes the run's folder, or finds it with the same recipe.

    Raises:
        UserError: The folder holds a run with other settings.
    """
    out = Path(recipe.out)
    saved = out / "recipe.yaml"
    if not recipe.trainer.resume and out.exists():
        if any(out.iterdir()) and not saved.exists() and not (out / RUN).exists():
            raise UserError(f"out={out}: holds files, but no run; choose another folder")
        shutil.rmtree(out)
    known = known_recipe(out)
    if known is not None:
        changed = differences(known, asdict(recipe), _FREE)
        if changed:
            raise UserError(
                f"out={out}: holds a run with other settings ({'; '.join(changed[:4])}); "
                "give another out=FOLDER, or trainer.resume=false to start it anew"
            )
    out.mkdir(parents=True, exist_ok=True)
    save_recipe(saved, recipe)
    note_recipe(out, asdict(recipe))
    return out


def _repair(recipe: Recipe, out: Path) -> None:
    """Makes the list of mined images of a complete run again, where it is missing or damaged.

    Raises:
        UserError: The data are no longer those that the run was trained on.
    """
    noted = noted_files(out)
    if MINED in noted and damage(out, noted) is None:
        return
    log.warning("training: %s is missing or damaged; it is made again", out / MINED)
    make_examples(recipe)
    made = Path(read_sealed(out / "data.json")["tuning"])
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
    with together(recipe) as processes:
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

    strategy = strategy_of(recipe.trainer)  # first: DeepSpeed reads the environment when imported
    mllm = load_mllm(_as_computed(recipe))
    if recipe.trainer.feature_cache:
        cache_features(mllm, Path(recipe.cache), recipe.ranker.lora)
    data = RankingData(recipe, mllm)
    processes.after_first("data", lambda: _prepare(data, out))  # before they wait for each other with a time limit
    data.setup("fit")
    steps = optimizer_steps(recipe, len(data.kept))
    # After the data stages, which may or may not have drawn numbers.
    seed_all(recipe.seed, accelerator_of(recipe.trainer))
    module = RankerModule(recipe, mllm, steps)
    table = parameter_table(module.mllm)
    for line in table_lines(table) if processes.rank == 0 else ():
        log.info("%s", line)
    facts = {
        "data": data.tuning.manifest["files"],
        "encoder": data.tuning.manifest["encoder"],
        "processes": recipe.trainer.devices * recipe.trainer.num_nodes,
    }
    start = steps_done(checkpoint)
    log.info("training: %d examples, %d steps%s", len(data.kept), steps, f", from step {start}" if start else "")
    parameters = {part: {"trainable": trainable, "all": total} for part, trainable, total in table}
    loggers = loggers_of(recipe, start, {"parameters": parameters})
    checkpoints = AdapterCheckpoints(recipe, facts)
    trainer = _trainer(recipe, strategy, steps, loggers, [Monitor(recipe, table[-1][1:]), checkpoints])
    fit_from(checkpoint, trainer, module, data)
    _finish(recipe, trainer, module, checkpoints)
    return out


def _as_computed(recipe: Recipe) -> RankerArgs:
    """Under DeepSpeed weights take the precision's type and buffers keep theirs, so the base is loaded in it."""
    halves = {"bf16-mixed": "bfloat16", "16-mixed": "float16"}
    half = halves.get(recipe.trainer.precision) if recipe.trainer.strategy.startswith("deepspeed") else None
    return replace(recipe.ranker, dtype=half) if half else recipe.ranker


def _trainer(
    recipe: Recipe, strategy: Strategy, steps: int, loggers: list[Logger], callbacks: list[Callback]
) -> L.Trainer:
    bar = progress_bar(recipe.trainer)
    return L.Trainer(
        strategy=strategy,
        accelerator=accelerator_of(recipe.trainer),
        devices=recipe.trainer.devices,
        num_nodes=recipe.trainer.num_nodes,
        precision=recipe.trainer.precision,
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=recipe.optim.accumulate,
        gradient_clip_val=recipe.trainer.grad_clip,
        val_check_interval=recipe.trainer.checkpoint_every * recipe.optim.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=recipe.trainer.log_every,
        logger=loggers,
        callbacks=[*callbacks, LearningRateMonitor("step"), *bar],
        enable_checkpointing=False,
        enable_progress_bar=bool(bar),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _finish(recipe: Recipe, trainer: L.Trainer, module: RankerModule, checkpoints: AdapterCheckpoints) -> None:
    """Leaves the run's adapter: the last weights, or the best checkpoint's, as the recipe says."""
    folder, figures = Path(recipe.out) / "adapter", checkpoints.validation
    best = checkpoints.best if recipe.trainer.adapter == "best" else None
    with gathered(module), saving(folder):
        if trainer.is_global_zero and best is None:
            facts = checkpoints.facts | {"step": trainer.global_step, "validation": figures}
            save_adapter(module.mllm, folder, recipe, facts)
        elif trainer.is_global_zero:
            adapter_manifest(best.with_suffix(".adapter"))
            with write_folder(folder) as part:
                shutil.copytree(best.with_suffix(".adapter"), part, dirs_exist_ok=True)
    if trainer.is_global_zero:
        checkpoints.note_best()
        log.info("training: done, %s; adapter%s in %s", figures, f" of {best.stem}" if best else "", folder)
        finish_tracking(trainer.loggers, folder)
    trainer.strategy.barrier()
