"""Starts commands in two processes, as torchrun on two machines or srun does."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.commands import command_line, environment


def torchrun(rank: int, module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Returns command line and environment of a launch on one of two machines."""
    launch = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "train"]
    launch += ["--rdzv-endpoint", "127.0.0.1:29655", "--local-addr", "127.0.0.1", "-m", module]
    return command_line("torch.distributed.run", *launch, *arguments, "trainer.num_nodes=2"), environment()


def srun(rank: int, module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Returns command line and environment of one of two tasks on one machine, as SLURM starts them."""
    variables = {
        "JOB_ID": "7", "JOB_NAME": "train", "STEP_ID": "0", "NNODES": "1", "NODEID": "0", "NODELIST": "127.0.0.1",
        "JOB_NODELIST": "127.0.0.1", "NTASKS": "2", "NTASKS_PER_NODE": "2", "PROCID": rank, "LOCALID": rank,
    }  # fmt: skip
    slurm = {f"SLURM_{key}": str(value) for key, value in variables.items()}
    return command_line(module, *arguments, "trainer.devices=2"), environment() | slurm


def start(launcher: Callable, folder: Path, module: str, *arguments: str) -> list[subprocess.Popen]:
    """Starts a command as a launcher does, in two processes."""
    lines = [launcher(rank, module, *arguments) for rank in range(2)]
    return [
        subprocess.Popen(line, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line, env in lines
    ]


def launch(launcher: Callable, folder: Path, module: str, *arguments: str) -> None:
    """Runs a command as a launcher does, in two processes."""
    processes = start(launcher, folder, module, *arguments)
    errors = [process.communicate(timeout=900)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
