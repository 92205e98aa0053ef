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


def local_rank() -> int:
    """This process's number among those of its machine."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
