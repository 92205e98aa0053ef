"""Which processes share a job: those that a launcher started, those of several machines, or those spawned here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_prep.core.files import fingerprint
from data_prep.core.ranks import global_rank, launched_processes
from data_prep.distributed.processes import Processes, monitored
from data_prep.settings import TrainerArgs, check


@dataclass(frozen=True)
class Sharing:
    """How this command shares a job with others of its kind, and with processes that it spawns.

    Processes of several commands form no process group, so none waits for another.

    Attributes:
        command: Index of this command among those that share the job.
        commands: Number of these commands.
        devices: Processes of this command; with more than one they are spawned.
        on_machine: Processes on this machine.
    """

    command: int
    commands: int
    devices: int
    on_machine: int

    @classmethod
    def find(cls, args: TrainerArgs) -> Sharing:
        """Finds how the command was started.

        Under torchrun and srun every process is a command with one device, however many ``trainer`` asks for. Otherwise
        each of ``trainer.num_nodes`` machines runs the command once, with ``NODE_RANK`` set, and spawns
        ``trainer.devices`` processes.
        """
        launched = launched_processes()
        if launched:
            on_machine, machines = launched
            return cls(global_rank(on_machine), on_machine * machines, 1, on_machine)
        node = int(os.environ.get("NODE_RANK", 0))
        check(
            node < args.num_nodes,
            f"NODE_RANK={node}, but trainer.num_nodes={args.num_nodes}; set it to the number of machines",
        )
        return cls(node, args.num_nodes, args.devices, args.devices)

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
