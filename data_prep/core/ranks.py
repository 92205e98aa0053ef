"""Ranks of this process under Lightning, torchrun or SLURM."""

from __future__ import annotations

import os
import socket
import time

from data_prep.core.errors import UserError

STARTED = time.time()
"""Approximate start time of this process, in seconds since the epoch."""


def is_first_process() -> bool:
    """Tells whether this is the run's first process, however it was launched."""
    ranks = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
    return all(int(os.environ.get(rank, 0)) == 0 for rank in ranks)


def global_rank(devices: int) -> int:
    """Returns the rank of this process among all processes of the run, however it was launched.

    Args:
        devices: Processes per machine.
    """
    env = os.environ
    if "RANK" in env:
        return int(env["RANK"])
    if "LOCAL_RANK" not in env and "SLURM_PROCID" in env:
        return int(env["SLURM_PROCID"])
    return int(env.get("NODE_RANK", 0)) * devices + int(env.get("LOCAL_RANK", 0))


def launched_processes() -> tuple[int, int] | None:
    """Returns how many processes torchrun or srun started on each machine, and on how many machines.

    None where neither started the command, or started it once.

    Raises:
        UserError: The machines have different numbers of processes.
    """
    env = os.environ
    by_machine = ""
    if "TORCHELASTIC_RUN_ID" in env:
        local, world = int(env["LOCAL_WORLD_SIZE"]), int(env["WORLD_SIZE"])
        num_nodes = int(env.get("GROUP_WORLD_SIZE") or world // local)
    elif started_by_srun():
        world = int(env.get("SLURM_STEP_NUM_TASKS") or env["SLURM_NTASKS"])
        num_nodes = int(env.get("SLURM_STEP_NUM_NODES") or env.get("SLURM_NNODES") or 1)
        local = world // num_nodes
        by_machine = env.get("SLURM_STEP_TASKS_PER_NODE", "")  # 4(x2) for 4 and 4; 3,1 for 3 and 1
    else:
        return None
    if world == 1:
        return None
    if local * num_nodes != world or "," in by_machine:
        raise UserError(
            f"a launcher started {world} processes on {num_nodes} machines, not the same number on each; give torchrun "
            "the same --nproc-per-node everywhere, or srun --ntasks-per-node"
        )
    return local, num_nodes


def launch_key(num_nodes: int) -> str:
    """Returns text that is the same in all processes that one torchrun or srun started, and in no others.

    Args:
        num_nodes: Machines of the launch. Launches on one machine each may have the same local address and port.
    """
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_STEP_ID")
    machine = [socket.gethostname()] if num_nodes == 1 else []
    return " ".join([*(os.environ.get(name, "") for name in names), *machine])


def started_by_srun() -> bool:
    """Tells whether this is a task of srun, rather than a command in a SLURM job's batch script or shell."""
    return "SLURM_STEP_ID" in os.environ


def disable_lightning_slurm() -> None:
    """Lets Lightning start its own processes in a batch script or shell of a SLURM job.

    SLURM's variables are set there too, and Lightning would assume that each task of the job is already running.
    """
    if "SLURM_NTASKS" in os.environ and not started_by_srun():
        os.environ["SLURM_JOB_NAME"] = "interactive"  # this name disables Lightning's SLURM support


def local_rank() -> int:
    """Returns the rank of this process among those on its machine."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
