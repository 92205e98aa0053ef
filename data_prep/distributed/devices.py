"""Device selection for this process, and the number of its data-loading workers."""

from __future__ import annotations

import torch

from data_prep.core.errors import UserError
from data_prep.core.pools import available_cores
from data_prep.core.ranks import local_rank, started_by_srun
from data_prep.settings import TrainerArgs

_MAX_WORKERS = 8  # per device; each keeps batches in memory


def resolve_accelerator(args: TrainerArgs) -> str:
    """Returns ``cpu``, ``cuda`` or ``mps``: the recipe's accelerator, or for ``auto`` the machine's.

    ``mps`` is one device, so ``auto`` takes it only for a single process.

    Raises:
        UserError: This machine does not have the accelerator.
    """
    if args.accelerator == "auto":
        if torch.cuda.is_available():
            return "cuda"
        single = args.devices * args.num_nodes == 1
        return "mps" if single and torch.backends.mps.is_available() else "cpu"
    kind = {"gpu": "cuda"}.get(args.accelerator, args.accelerator)
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError("trainer.accelerator=gpu, but torch sees no GPU here; use auto or cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError(
            "trainer.accelerator=mps, but torch sees no Apple GPU here (MPS needs macOS on Apple silicon); use auto or "
            "cpu"
        )
    return kind


def local_gpu_index() -> int:
    """Returns the index of this process's GPU among those that it sees."""
    return local_rank() % max(1, torch.cuda.device_count())


def resolve_workers(args: TrainerArgs) -> int:
    """Returns the number of data-loading workers of each process: ``trainer.num_workers``, or for ``auto`` by device.

    With a CUDA GPU the cores that the machine's processes share are divided among them, less one core for each process
    itself. Without one it is 0: the model uses all cores already, and on an Apple GPU each worker, started by spawn,
    would import all libraries again.
    """
    if isinstance(args.num_workers, int):
        return args.num_workers
    if resolve_accelerator(args) != "cuda":
        return 0
    processes = 1 if started_by_srun() else args.devices  # srun gives each process its own cores
    return max(0, min(available_cores() // processes - 1, _MAX_WORKERS))
