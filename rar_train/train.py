"""Trains a ranker from a recipe: data, model, Trainer, adapter."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import lightning as L
from omegaconf import OmegaConf

from data_prep.errors import UserError
from data_prep.files import write_text
from data_prep.recipe import recipe_yaml
from data_prep.settings import Recipe
from rar_train.adapter import save_adapter
from rar_train.backend import load_mllm
from rar_train.checkpoint import Checkpoints, last_checkpoint
from rar_train.datamodule import RankingData, optimizer_steps
from rar_train.ranker import RankerModule
from rar_train.strategies import accelerator_of, strategy_of
from rar_train.tracking import loggers_of

log = logging.getLogger(__name__)

# What a resumed run may change without becoming another run.
_FREE = ("out", "cache", "eval", "tracking", "trainer.resume", "trainer.log_every", "trainer.checkpoint_every")


def _differences(one: dict, other: dict, prefix: str = "") -> list[str]:
    found = []
    for key in sorted(one.keys() | other.keys()):
        name, a, b = prefix + key, one.get(key), other.get(key)
        if name in _FREE:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{name}.")
        elif a != b:
            found.append(f"{name}: {a} -> {b}")
    return found


def claim_run_folder(recipe: Recipe) -> Path:
    """Makes the run's folder, or finds it with the same recipe.

    Raises:
        UserError: The folder holds a run with other settings.
    """
    out = Path(recipe.out)
    saved = out / "recipe.yaml"
    if not recipe.trainer.resume and out.exists():
        if any(out.iterdir()) and not saved.exists():
            raise UserError(f"out={out}: holds files, but no run; choose another folder")
        shutil.rmtree(out)
    if saved.exists():
        new = OmegaConf.create(recipe_yaml(recipe))
        changed = _differences(OmegaConf.to_container(OmegaConf.load(saved)), OmegaConf.to_container(new))
        if changed:
            raise UserError(
                f"out={out}: holds a run with other settings ({'; '.join(changed[:4])}); "
                "give another out=FOLDER, or trainer.resume=false to start it anew"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_text(saved, recipe_yaml(recipe))
    return out


def train_ranker(recipe: Recipe) -> Path:
    """Runs or resumes a recipe's training.

    Returns:
        Path: The run's folder with ``adapter/``, ``recipe.yaml``, checkpoints and logs.
    """
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0 and int(os.environ.get("NODE_RANK", 0)) == 0
    out = claim_run_folder(recipe) if first else Path(recipe.out)
    if (out / "adapter" / "manifest.json").exists():
        log.info("training: %s is complete; reusing its adapter", out)
        return out
    checkpoint = last_checkpoint(out / "checkpoints")

    strategy = strategy_of(recipe.trainer)  # first: DeepSpeed reads the environment when imported
    mllm = load_mllm(recipe.ranker)
    data = RankingData(recipe, mllm)
    if first:
        data.prepare_data()  # before processes wait for each other with a time limit
    elif not (out / "data.json").exists():
        _wait_for(out / "data.json")
    data.setup("fit")
    steps = optimizer_steps(recipe, len(data.tuning))
    L.seed_everything(recipe.seed, verbose=False)  # after the data stages, which may or may not have drawn numbers
    module = RankerModule(recipe, mllm, steps)
    facts = {
        "data": data.tuning.manifest["files"],
        "encoder": data.tuning.manifest["encoder"],
        "processes": recipe.trainer.devices * recipe.trainer.num_nodes,
    }
    start = int(checkpoint.stem.split("-")[1]) if checkpoint else 0
    log.info("training: %d examples, %d steps%s", len(data.tuning), steps, f", from step {start}" if start else "")
    trainer = L.Trainer(
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
        logger=loggers_of(recipe, start),
        callbacks=[Checkpoints(recipe, facts)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        raise UserError(
            f"interrupted at step {trainer.global_step}; the same command goes on from the last checkpoint"
        ) from None
    if trainer.is_global_zero:
        save_adapter(module.mllm, out / "adapter", recipe, facts | {"step": trainer.global_step})
        figures = {k: round(float(v), 4) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        log.info("training: done, %s; adapter in %s", figures, out / "adapter")
    trainer.strategy.barrier()
    return out


def _wait_for(path: Path, seconds: int = 24 * 3600) -> None:
    """Waits until the first process has made the data."""
    import time

    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            raise UserError(f"{path}: the first process has not made it in {seconds} s")
        time.sleep(0.5)
