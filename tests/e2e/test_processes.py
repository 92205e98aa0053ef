"""Real DeepSpeed and DDP on CPU processes and on a GPU: train, save only the adapter, resume, evaluate."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.damage import damage
from tests.launchers import launch, srun, start, torchrun

FULL, HALF = "trainer.precision=32-true", "trainer.precision=bf16-mixed"


def adapter(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def resume_from_step_3(run_command, folder: Path, arguments: tuple[str, ...]) -> None:
    """Copies ``run`` to ``resumed`` without the adapter, damages its last checkpoint, and resumes from step 3."""
    shutil.copytree(folder / "run", folder / "resumed")
    shutil.rmtree(folder / "resumed" / "adapter")
    last = folder / "resumed" / "checkpoints" / "step-00000004.ckpt"
    file = last if last.is_file() else max(path for path in last.rglob("*") if path.is_file())
    damage(file, "flipped" if file == last else "removed")
    done = run_command("rar_train.fit", *arguments, "out=resumed", gpu="trainer.accelerator=gpu" in arguments)
    assert f"{file.name}: {'damaged' if file == last else 'missing'}" in done.stderr and "from step 3" in done.stderr


@dataclass(frozen=True)
class Setup:
    """How a run is trained: strategy, processes, offloading, accelerator, and one more setting."""

    strategy: str
    devices: int
    offload: str
    accelerator: str
    setting: str

    def __str__(self) -> str:
        return "-".join(map(str, astuple(self)))


@pytest.mark.parametrize(
    "setup",
    [
        Setup("deepspeed_stage_2", 2, "none", "cpu", FULL),
        # Half a minute per command.
        pytest.param(Setup("deepspeed_stage_1", 2, "none", "cpu", "mining.streaming=true"), marks=pytest.mark.slow),
        pytest.param(Setup("deepspeed_stage_2", 1, "none", "cpu", HALF), marks=pytest.mark.slow),
        pytest.param(Setup("deepspeed_stage_2", 2, "optimizer", "cpu", FULL), marks=pytest.mark.slow),
        pytest.param(Setup("deepspeed_stage_3", 2, "none", "cpu", FULL), marks=pytest.mark.slow),
        pytest.param(Setup("deepspeed_stage_3", 2, "all", "cpu", FULL), marks=pytest.mark.slow),
        pytest.param(Setup("deepspeed_stage_3", 2, "all", "cpu", HALF), marks=pytest.mark.slow),
        pytest.param(Setup("ddp", 2, "none", "cpu", FULL), marks=pytest.mark.slow),
        pytest.param(Setup("auto", 1, "none", "gpu", FULL), marks=pytest.mark.gpu),
        pytest.param(Setup("deepspeed_stage_2", 1, "none", "gpu", FULL), marks=pytest.mark.gpu),
        pytest.param(Setup("deepspeed_stage_2", 1, "optimizer", "gpu", FULL), marks=pytest.mark.gpu),
        pytest.param(Setup("deepspeed_stage_3", 1, "none", "gpu", FULL), marks=pytest.mark.gpu),
        pytest.param(Setup("deepspeed_stage_3", 1, "all", "gpu", FULL), marks=pytest.mark.gpu),
        pytest.param(Setup("deepspeed_stage_2", 1, "optimizer", "gpu", HALF), marks=pytest.mark.gpu),
    ],
    ids=str,
)
def test_a_run_trains_evaluates_and_resumes_only_with_the_same_number_of_processes(
    setup: Setup, run_command, run_here, small, shared_cache, tmp_path: Path
):
    arguments = (
        "recipe=ranker_lora",
        f"cache={shared_cache}",
        *small,
        "tracking.wandb=disabled",
        f"trainer.accelerator={setup.accelerator}",
        f"trainer.strategy={setup.strategy}",
        f"trainer.offload={setup.offload}",
        setup.setting,
        f"trainer.devices={setup.devices}",
        "optim.batch_size=2",
        "optim.max_steps=4",
        "trainer.val_generate_examples=0",
    )
    run_command("rar_train.fit", *arguments, "out=run", gpu=setup.accelerator == "gpu")
    trained = adapter(tmp_path / "run")
    assert any(value.abs().sum() > 0 for name, value in trained.items() if "lora_B" in name), "nothing was learned"
    for checkpoint in (tmp_path / "run" / "checkpoints").glob("step-*.ckpt"):
        files = [checkpoint] if checkpoint.is_file() else [f for f in checkpoint.rglob("*") if f.is_file()]
        # Weights and two AdamW moments of the adapter; the full model alone is 7 MB.
        assert sum(file.stat().st_size for file in files) < 6_000_000

    if setup.accelerator == "cpu":
        refused = run_here("rar_train.fit", *arguments, "out=run", f"trainer.devices={setup.devices + 1}", fails=True)
        assert "trainer.devices" in refused.stderr
        assert "trainer.resume=false" in refused.stderr

    resume_from_step_3(run_command, tmp_path, arguments)
    resumed = adapter(tmp_path / "resumed")
    for name, value in trained.items():
        if setup.accelerator == "cpu":
            torch.testing.assert_close(resumed[name], value, rtol=1e-4, atol=1e-6)
        else:  # sums are in any order there; on a CPU OMP_NUM_THREADS=2 instead of 1 changes 0.0005 of a norm
            assert (resumed[name].float() - value.float()).norm() <= 0.02 * value.float().norm()
    if setup.strategy == "deepspeed_stage_2":  # the adapter's file is the same for all strategies
        run_here("eval.run", "--ckpt", "run", "eval.seeds=[1]", "eval.ranker_only_images=0", "eval.zero_shot=false")


@pytest.mark.slow
def test_a_step_gives_the_same_weights_for_any_number_of_processes_and_accumulated_passes(
    run_command, small, shared_cache, tmp_path: Path
):
    # Steps of 8 or 7 examples: in one pass, or on two processes in two passes of 2 or 1. Clipping reveals
    # the gradient's norm, to which AdamW is invariant.
    arguments = (
        "recipe=ranker_lora", f"cache={shared_cache}", *small, "tracking.wandb=disabled", "trainer.accelerator=cpu",
        "trainer.val_generate_examples=0", "optim.max_steps=4", "trainer.grad_clip_norm=3",
        "optim.group_by_length=false", "ranker.objectives.list=1", "ranker.objectives.listwise=1",
    )  # fmt: skip
    run_command("rar_train.fit", *arguments, "out=single", "optim.batch_size=8")
    expected = torch.cat([value.flatten() for _, value in sorted(adapter(tmp_path / "single").items())])
    split = ("trainer.devices=2", "optim.batch_size=2", "optim.grad_accum_steps=2")
    for strategy in ("ddp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3"):
        run_command("rar_train.fit", *arguments, *split, f"trainer.strategy={strategy}", f"out={strategy}")
        weights = torch.cat([value.flatten() for _, value in sorted(adapter(tmp_path / strategy).items())])
        # All weights together: where a gradient is nearly 0, AdamW amplifies its rounding error.
        assert (weights - expected).norm() < 1e-3 * expected.norm(), strategy


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [torchrun, srun])
def test_processes_of_a_launcher_tune_like_two_of_one_command(
    launcher: Callable, run_command, small, shared_cache, tmp_path: Path
):
    arguments = (
        "recipe=ranker_lora",
        *small,
        "retriever.batch_size=2",  # enough batches to embed in several processes
        "tracking.wandb=disabled",
        "trainer.accelerator=cpu",
        "trainer.strategy=ddp",
        "optim.batch_size=2",
        "optim.max_steps=4",
        "trainer.val_generate_examples=0",
    )
    launch(launcher, tmp_path, "rar_train.fit", *arguments, "cache=cache", "out=two")
    run_command("rar_train.fit", *arguments, f"cache={shared_cache}", "trainer.devices=2", "out=one")
    expected = adapter(tmp_path / "one")
    for name, value in adapter(tmp_path / "two").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_a_process_is_killed_in_training_the_other_ends_soon_and_names_it(
    killed: int, small, shared_cache, tmp_path: Path
):
    arguments = (
        "recipe=ranker_lora", f"cache={shared_cache}", *small, "tracking.wandb=disabled", "trainer.accelerator=cpu",
        "trainer.strategy=ddp", "optim.batch_size=2", "optim.epochs=1000", "optim.max_steps=-1", "out=run",
        "trainer.val_generate_examples=0",
    )  # fmt: skip
    processes = start(srun, tmp_path, "rar_train.fit", *arguments)
    end = time.monotonic() + 600
    while not list(tmp_path.glob("run/checkpoints/step-*.ckpt")) and time.monotonic() < end:
        time.sleep(0.5)
    processes[killed].kill()
    stderr = processes[1 - killed].communicate(timeout=90)[1]
    processes[killed].communicate()
    assert processes[1 - killed].returncode == 2
    assert f"error: process {killed} of 2 (number {processes[killed].pid} on" in stderr.splitlines()[-1]
    assert "was killed or crashed" in stderr


@pytest.mark.slow
def test_when_the_first_process_has_no_data_the_others_do_not_wait(tmp_path: Path):
    arguments = ("recipe=ranker_lora", "data.name=folder", "data.root=nowhere", "tracking.wandb=disabled", "out=run")
    processes = start(srun, tmp_path, "rar_train.fit", *arguments, "trainer.accelerator=cpu", "trainer.strategy=ddp")
    first, second = [process.communicate(timeout=300)[1].splitlines()[-1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert "nowhere" in first and "error: process 0 of 2" in second
    assert first.removeprefix("error: ") in second
