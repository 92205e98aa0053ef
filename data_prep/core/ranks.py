"""Which of a launcher's processes this is: Lightning's, torchrun's or SLURM's."""

from __future__ import annotations

import os
import time

STARTED = time.time()
"""When this process began, or nearly."""


def is_first_process() -> bool:
    """Whether this is the run's first process, however it was launched."""
    ranks = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
    return all(int(os.environ.get(rank, 0)) == 0 for rank in ranks)


def global_rank(devices: int) -> int:
    """This process's number among all of the run, however it was launched.

    Args:
        devices: Processes per machine.
    """
    told = os.environ
    if "RANK" in told:
        return int(told["RANK"])
    if "LOCAL_RANK" not in told and "SLURM_PROCID" in told:
        return int(told["SLURM_PROCID"])
    return int(told.get("NODE_RANK", 0)) * devices + int(told.get("LOCAL_RANK", 0))


def started_by_srun() -> bool:
    """Whether this is one of srun's tasks, rather than a command in a SLURM job's batch script or shell."""
    return "SLURM_STEP_ID" in os.environ


def leave_slurm_alone() -> None:
    """In a batch script or shell of a SLURM job, lets Lightning start its processes itself.

    SLURM's variables are there too, and Lightning would take each of the job's tasks for a process that is running.
    """
    if "SLURM_NTASKS" in os.environ and not started_by_srun():
        os.environ["SLURM_JOB_NAME"] = "interactive"  # how Lightning is asked to


def local_rank() -> int:
    """This process's number among those of its machine."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
