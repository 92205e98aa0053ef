"""Which processes share a job: those that a launcher started, those of several machines, or those spawned here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import SingleDeviceStrategy

from data_prep.core.files import fingerprint
from data_prep.core.ranks import global_rank, started_by_srun
from data_prep.distributed.devices import local_gpu_index, resolve_accelerator
from data_prep.distributed.processes import Processes, monitored
from data_prep.distributed.spawning import make_predict_trainer
from data_prep.settings import TrainerArgs, check


@dataclass(frozen=True)
class Sharing:
    """How this command shares a job with others of its kind, and with processes that it spawns.

    Attributes:
        command: Index of this command among those that share the job.
        commands: Number of these commands.
        devices: Processes of this command; with more than one they are spawned.
        on_machine: Processes on this machine.
        launched: Whether a launcher started the commands of this machine, each for a device of its own.
    """

    command: int
    commands: int
    devices: int
    on_machine: int
    launched: bool

    @classmethod
    def find(cls, args: TrainerArgs) -> Sharing:
        """Finds how the command was started.

        Under torchrun and srun every process is a command with one device, however many ``trainer`` asks for. Otherwise
        each of ``trainer.num_nodes`` machines runs the command once, with ``NODE_RANK`` set, and spawns
        ``trainer.devices`` processes.
        """
        env = os.environ
        if int(env.get("WORLD_SIZE", 1)) > 1 and "RANK" in env:
            return cls(global_rank(1), int(env["WORLD_SIZE"]), 1, int(env.get("LOCAL_WORLD_SIZE", 1)), True)
        if started_by_srun() and int(env.get("SLURM_NTASKS", 1)) > 1:
            tasks = env.get("SLURM_NTASKS_PER_NODE", "1")
            return cls(int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"]), 1, int(tasks), True)
        node = int(env.get("NODE_RANK", 0))
        check(
            node < args.num_nodes,
            f"NODE_RANK={node}, but trainer.num_nodes={args.num_nodes}; set it to the number of machines",
        )
        return cls(node, args.num_nodes, args.devices, args.devices, False)

    @property
    def processes(self) -> int:
        """Number of processes that share the job, on all machines."""
        return self.commands * self.devices

    @contextmanager
    def coordinate(self, cache: Path, output: Path) -> Iterator[Processes]:
        """Has this command wait for the first one, and end when another one fails.

        Args:
            cache: Folder of caches, on a disk that all commands share.
            output: The file that the job writes.
        """
        folder = cache / "processes" / fingerprint(["predict", str(output.resolve())])
        processes = Processes(folder, self.command, self.commands)
        with monitored(processes):
            yield processes

    def make_trainer(self, args: TrainerArgs) -> L.Trainer:
        """Makes this command's Trainer; processes of several commands form no process group, so none waits."""
        kind = resolve_accelerator(args)
        if not self.launched:
            return make_predict_trainer(kind, self.devices)
        device = torch.device(kind, local_gpu_index()) if kind == "cuda" else torch.device(kind)
        return L.Trainer(
            strategy=SingleDeviceStrategy(device),
            accelerator=kind,
            devices=1,
            plugins=[LightningEnvironment()],  # or Lightning would read the launcher's variables
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
