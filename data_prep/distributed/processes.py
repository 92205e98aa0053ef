"""Coordinates the processes of one run: rank-0-only work, heartbeats, and failure propagation.

Each process keeps a small state file in the cache, which all of them share: its identity, what it has finished and how
it failed. A thread updates the file's time as a heartbeat and monitors the others: rank 0 monitors all of them, the
others monitor rank 0. Where one has failed, was killed or stopped sending heartbeats, the others exit with its error,
and none waits for a process that is gone.
"""

from __future__ import annotations

import _thread
import json
import logging
import os
import shutil
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint, write_json
from data_prep.core.ranks import STARTED, global_rank
from data_prep.settings import Recipe, check

log = logging.getLogger(__name__)

_POLL_INTERVAL = 0.5  # seconds between checks of the other processes
_SILENCE_TIMEOUT = 300  # seconds of checks without a heartbeat after which a process on another machine counts as gone
_START_TIMEOUT = 1800  # seconds in which rank 0 must have started; process groups wait as long
_EXIT_TIMEOUT = 3  # seconds for a process to exit on its own: the failure of another often reaches it by other ways too
_KEPT = 86_400  # seconds after the last heartbeat in a launch's folder until another launch removes it
_INTERRUPT_TIMEOUT = 15  # seconds to exit after an interrupt


def _machine_id() -> str:
    """Identifies the scope in which a process id is unique: the machine, and the container on it.

    Host names may repeat, and the id of the first PID namespace is the same on all machines.
    """
    try:
        identity = (
            f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
        )
    except OSError:  # not Linux
        identity = f"{uuid.getnode():x}"
    return f"{socket.gethostname()} {identity}"


def _is_alive(pid: int) -> bool:
    """Returns whether a process of this machine is running; a zombie (ended but not yet reaped) is not."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
    except (psutil.AccessDenied, OSError):  # another user's process
        return True


def _error_text(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted"
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


class Processes:
    """One process's view of the processes of its run.

    Args:
        folder: Folder of the state files; on a disk that all processes share.
        rank: Rank of this process.
        world: Number of processes.
    """

    def __init__(self, folder: Path, rank: int, world: int):
        self.folder, self.rank, self.world = folder, rank, world
        self._own_file, self._first_file = folder / f"{rank}.json", folder / "0.json"
        # The other ranks adopt rank 0's launch id, so that files left by an earlier launch are ignored.
        launch = None if rank else uuid.uuid4().hex
        self._state = {
            "launch": launch, "pid": os.getpid(), "machine": _machine_id(), "done": [], "ended": False, "failed": None
        }  # fmt: skip
        self._lost: str | None = None  # what happened to another process
        self._interrupting = False
        self._heartbeats: dict[Path, tuple[int, int]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="processes", daemon=True)

    def start(self) -> None:
        """Writes this process's state file, and starts monitoring the others."""
        if self.rank == 0:
            for pattern in ("*.json", "*task-*"):  # tasks are left where a launch was killed
                for stale_file in self.folder.glob(pattern):
                    stale_file.unlink(missing_ok=True)
        self._update_state()
        # By the file system's clock. Files older than this process belong to an earlier launch.
        now = self._own_file.stat().st_mtime
        self._launched = now - (time.time() - STARTED)
        if self.rank == 0:
            self._remove_ended(now - _KEPT)
        self._thread.start()

    def _remove_ended(self, before: float) -> None:
        """Removes the folders of other launches without a heartbeat since a time: of a launch, each has its own."""
        for folder in self.folder.parent.iterdir():
            try:
                files = list(folder.iterdir())
                is_launch = all(path.suffix == ".json" or "task-" in path.name for path in files)
                has_ended = max(path.stat().st_mtime for path in (folder, *files)) < before
            except OSError:  # no folder, or another launch is changing it
                continue
            if is_launch and has_ended and folder != self.folder:
                shutil.rmtree(folder, ignore_errors=True)

    def after_first(self, name: str, work: Callable[[], object]) -> None:
        """Runs a task on rank 0; the other ranks wait for it, for hours if necessary.

        Args:
            name: Identifies the task; a noun for messages, such as ``data``.
            work: The task; leaves its result in files that all processes share.

        Raises:
            UserError: Rank 0 failed, was killed, or never started.
        """
        if self.rank == 0:
            work()
            if self.world > 1:
                self.announce(name)
        elif not self.await_first(name):
            raise UserError(f"process 0 of {self.world} ended before it made the {name}")

    def announce(self, name: str) -> None:
        """Tells the other ranks that rank 0 has done a task; only rank 0 may call it."""
        self._update_state(done=[*self._state["done"], name])

    def await_first(self, name: str) -> bool:
        """Waits until rank 0 has done a task.

        Returns:
            bool: False where rank 0 has ended well without doing it.

        Raises:
            UserError: Rank 0 failed, was killed, or never started.
        """
        began = time.monotonic()
        while True:
            first = self._read(self._first_file)
            if first and name in first["done"]:
                self._update_state(launch=first["launch"])  # rank 0 may have cleared this file only now
                return True
            if self._lost:
                raise UserError(self._lost)
            if first and first["ended"]:
                return False
            if first is None and time.monotonic() - began > _START_TIMEOUT:
                raise UserError(
                    f"process 0 of {self.world} did not start within {_START_TIMEOUT} s; start all processes"
                )
            time.sleep(_POLL_INTERVAL)

    def end(self, error: BaseException | None = None) -> BaseException | None:
        """Stops monitoring, and records for the other processes how this one ended.

        Args:
            error: The error that this process ends with, if any.

        Returns:
            BaseException | None: The error to raise; not ``error`` where another process failed first.
        """
        is_own_end = error is None or (isinstance(error, KeyboardInterrupt) and not self._interrupting)
        if not is_own_end:
            # The failure of another process often shows first as an error here, such as a closed connection.
            until = time.monotonic() + (0 if isinstance(error, UserError) else _EXIT_TIMEOUT)
            while not self._lost and time.monotonic() < until:
                time.sleep(_POLL_INTERVAL / 5)
            try:
                self._lost = self._lost or self._check_others()
            except OSError as check_error:
                log.warning("%s: %s", self.folder, check_error)
        self._over.set()
        self._thread.join(_EXIT_TIMEOUT)
        if error is not None:
            self._record_failure(_error_text(error) if is_own_end or not self._lost else self._lost)
        elif self.rank == 0:
            self._update_state(ended=True)  # the file stays: others may not have read yet which tasks are done
        else:
            self._own_file.unlink(missing_ok=True)
        return error if is_own_end or not self._lost else UserError(self._lost)

    def _update_state(self, **changes) -> None:
        self._state |= changes
        write_json(self._own_file, self._state)

    def _record_failure(self, message: str) -> None:
        try:
            self._update_state(failed=message)
        except OSError as error:  # the others will notice that this process is gone
            log.warning("%s: could not be written (%s)", self._own_file, error)

    def _read(self, path: Path) -> dict | None:
        """Reads the state of a process of this launch; None where there is none."""
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.stat().st_mtime >= self._launched else None
        except (OSError, ValueError):  # not written yet, or being replaced right now
            return None

    def _check_others(self) -> str | None:
        """Returns what happened to another process, or None where all are well."""
        for path in self.folder.glob("*.json") if self.rank == 0 else [self._first_file]:
            other = self._read(path) if path != self._own_file else None
            if other is None:
                continue
            if self.rank and not self._state["launch"]:
                self._update_state(launch=other["launch"])
            if other["launch"] not in (self._state["launch"], None):
                if self.rank:
                    return f"process 0 of {self.world} was started again, and this one belongs to the previous launch"
                continue
            if other["ended"]:
                continue
            name = f"process {path.stem} of {self.world} (number {other['pid']} on {other['machine'].split()[0]})"
            if other["failed"]:
                is_forwarded = other["failed"].startswith("process ")
                return other["failed"] if is_forwarded else f"{name} ended: {other['failed']}"
            if other["machine"] != self._state["machine"]:
                if self._is_silent(path):
                    return f"{name} has sent no heartbeat for {_SILENCE_TIMEOUT} s; check whether its machine is up"
            elif not _is_alive(other["pid"]):
                return (
                    f"{name} was killed or crashed; if memory ran out, lower optim.batch_size, "
                    "retriever.batch_size or eval.batch_size"
                )
        return None

    def _is_silent(self, path: Path) -> bool:
        """Returns whether many checks found no new heartbeat; time without a check does not count."""
        try:
            heartbeat = path.stat().st_mtime_ns
        except OSError:  # the process has just ended, or the disk is unavailable
            return False
        previous, checks = self._heartbeats.get(path, (None, 0))
        self._heartbeats[path] = (heartbeat, checks + 1 if heartbeat == previous else 0)
        return self._heartbeats[path][1] > _SILENCE_TIMEOUT / _POLL_INTERVAL

    def _watch(self) -> None:
        while not (self._lost or self._over.wait(_POLL_INTERVAL)):
            try:
                if self._own_file.exists():
                    os.utime(self._own_file)
                elif not self._over.is_set():  # rank 0 has cleared the folder since
                    self._update_state()
                self._lost = self._check_others()
            except OSError as error:  # a shared disk may be unavailable for a while
                log.warning("%s: %s", self.folder, error)
        if self._over.is_set():
            return
        log.error("%s; this process, %d, ends too", self._lost, self.rank)
        self._record_failure(self._lost)
        if not self._over.wait(_EXIT_TIMEOUT):
            self._interrupting = True
            if hasattr(signal, "pthread_kill"):  # it also ends a system call that waits
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            else:
                _thread.interrupt_main()
        if not self._over.wait(_INTERRUPT_TIMEOUT):
            os._exit(1)  # the main thread hangs in a call that waits for the others


@contextmanager
def process_group(recipe: Recipe) -> Iterator[Processes]:
    """Coordinates the processes of a training run for the duration of the block.

    Raises:
        UserError: A launcher started more processes than the recipe asks for; or another process failed, was killed or
            stopped sending heartbeats: the message says which, and its error.
    """
    trainer = recipe.trainer
    rank, world = global_rank(trainer.devices), trainer.devices * trainer.num_nodes
    check(
        rank < world,
        f"a launcher started this as process {rank}, but trainer.devices={trainer.devices} with "
        f"trainer.num_nodes={trainer.num_nodes} asks for {world} in all; set both to what the launcher starts",
    )
    run = fingerprint(str(Path(recipe.out).resolve()))
    processes = Processes(Path(recipe.cache) / "processes" / run, rank, world)
    with monitored(processes):
        yield processes


@contextmanager
def monitored(processes: Processes) -> Iterator[None]:
    """Has processes monitor each other for the duration of the block.

    Raises:
        UserError: Another process failed, was killed or stopped sending heartbeats: the message says which, and its
            error.
    """
    if processes.world == 1:
        yield
        return
    processes.start()
    try:
        yield
    except BaseException as error:
        final_error = processes.end(error)
        if final_error is error:
            raise
        raise final_error from error
    processes.end()
