"""Commands that torchrun or srun started on several processes: the first runs the command, the others join it.

The first process reads, embeds, retrieves and writes the results. Where it has work for all of them, such as ranking,
it hands the others a task; they wait for it, for hours if necessary, and return to waiting until the command ends. A
process that fails, is killed or is lost ends the others (``data_prep.distributed.processes``).
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint, part_path
from data_prep.core.ranks import global_rank, is_first_process, launch_key, launched_processes
from data_prep.distributed.processes import Processes, monitored

log = logging.getLogger(__name__)


@dataclass
class _Launch:
    """The launch that a command shares its tasks with.

    Attributes:
        devices: Processes on each machine.
        num_nodes: Machines.
        processes: All of them.
        tasks: Number of tasks handed out so far.
    """

    devices: int
    num_nodes: int
    processes: Processes
    tasks: int = 0


_launch: ContextVar[_Launch | None] = ContextVar("launch", default=None)


def run_on_first(command: Callable[[], object], cache: Path | None = None) -> None:
    """Runs a command on the first process, however many a launcher has started.

    Args:
        command: What to run.
        cache: Folder on a disk that all processes share, through which the others receive tasks. None for a command
            that has none: the others return at once.

    Raises:
        UserError: Of the command; another process failed, was killed or stopped sending heartbeats; or the launcher
            started more processes on some machines than on others.
    """
    launched = launched_processes() if cache else None
    if launched is None:
        if is_first_process():
            command()
        else:
            log.warning("started several times by a launcher: the first process does the work, this one exits")
        return
    devices, num_nodes = launched
    folder = cache / "processes" / fingerprint(launch_key(num_nodes))
    processes = Processes(folder, global_rank(devices), devices * num_nodes)
    with monitored(processes):
        if processes.rank:
            _join(processes)
        else:
            with _shared(_Launch(devices, num_nodes, processes)):
                command()


@contextmanager
def _shared(launch: _Launch) -> Iterator[None]:
    token = _launch.set(launch)
    try:
        yield
    finally:
        _launch.reset(token)


def _task_file(processes: Processes, number: int) -> Path:
    return processes.folder / f"task-{number}.pickle"


def _join(processes: Processes) -> None:
    """Runs the first process's tasks until it ends."""
    for number in count():
        if not processes.await_first(f"task {number}"):
            return
        read_task(_task_file(processes, number))()


def read_task(path: Path) -> Callable[[], None]:
    """Reads a task that the first process of this launch has written.

    Raises:
        UserError: Another user wrote the file, or may have: unpickling it could run any code. Windows, which has
            neither user ids nor such modes, is not checked.
    """
    with open(path, "rb") as file:
        if sys.platform != "win32":
            status = os.fstat(file.fileno())
            if status.st_uid != os.getuid() or status.st_mode & 0o022:
                raise UserError(
                    f"{path}: not written by this user alone; give cache=FOLDER, one that others cannot write to"
                )
        return pickle.loads(file.read())


def shared_processes() -> tuple[int, int] | None:
    """Returns how many processes ``run_on_all`` runs on, by machine, and on how many machines; None for this one."""
    launch = _launch.get()
    return (launch.devices, launch.num_nodes) if launch else None


def run_on_all(task: Callable[[], None]) -> None:
    """Runs a task on every process of the launch; on this one alone where the command does not run on a launch.

    Args:
        task: Picklable. It must end on all processes together, as one that ends with a barrier does.
    """
    launch = _launch.get()
    if launch is None:
        task()
        return
    number, launch.tasks = launch.tasks, launch.tasks + 1
    path = _task_file(launch.processes, number)
    part = part_path(path)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(pickle.dumps(task))
    part.replace(path)
    launch.processes.announce(f"task {number}")
    try:
        task()
    finally:
        path.unlink()
