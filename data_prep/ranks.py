"""Which of a launcher's processes this is: Lightning's, torchrun's or SLURM's."""

from __future__ import annotations

import os


def is_first_process() -> bool:
    """Whether this is the run's first process, however it was launched."""
    ranks = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
    return all(int(os.environ.get(rank, 0)) == 0 for rank in ranks)


def local_rank() -> int:
    """This process's number among those of its machine."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
