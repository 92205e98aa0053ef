"""The processes of one run: the first does what one alone may do, and none waits for another that is gone.

Each process keeps a small file in the cache, which all of them share: who it is, what it has done and how it failed. A
thread says now and then that it lives, and looks at the others: the first process at all of them, the others at the
first. Where one has failed, was killed or fell silent, the others end with its words.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint, write_json
from data_prep.core.ranks import STARTED, global_rank
from data_prep.settings import Recipe, check

log = logging.getLogger(__name__)

_LOOK = 0.5  # seconds between looks at the others
_SILENT = 300  # seconds of looks without a sign after which a process of another machine counts as gone
_START = 1800  # seconds until the first process must have given a sign; process groups wait as long
_ROOM = 3  # seconds for a process to end by itself, since the failure of another often reaches it by other ways too
_GRACE = 15  # seconds to end after an interrupt


def _machine() -> str:
    """Where a process's number counts: the machine, and within it the container.

    Machines may share a name, and the number of their first namespace is the same on all of them.
    """
    try:
        own = f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        own = f"{uuid.getnode():x}"
    return f"{socket.gethostname()} {own}"


def _alive(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended but was not yet taken note of does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in b"ZX"
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's, or this is not Linux
        return True


def _words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted"
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


class Processes:
    """One process's view of those that it works with.

    Args:
        folder: Of the processes' files; on a disk that all of them share.
        rank: This one's number.
        world: How many there are.
    """

    def __init__(self, folder: Path, rank: int, world: int):
        self.folder, self.rank, self.world = folder, rank, world
        self._own, self._first = folder / f"{rank}.json", folder / "0.json"
        # The others take the first one's launch for theirs, so that what is left of an earlier one does not count.
        launch = None if rank else uuid.uuid4().hex
        self._state = {
            "launch": launch, "pid": os.getpid(), "machine": _machine(), "done": [], "ended": False, "failed": None
        }  # fmt: skip
        self._lost: str | None = None  # what happened to another
        self._interrupting = False
        self._signs: dict[Path, tuple[int, int]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="processes", daemon=True)

    def start(self) -> None:
        """Takes part, and begins to look at the others."""
        if self.rank == 0:
            for left in self.folder.glob("*.json"):
                left.unlink(missing_ok=True)
        self._note()
        # By the clock of the disk. What is older than this process is of an earlier launch.
        self._launched = self._own.stat().st_mtime - (time.time() - STARTED)
        self._thread.start()

    def after_first(self, what: str, work: Callable[[], object]) -> None:
        """Does a piece of work on the first process; the others wait for it, hours if need be.

        Args:
            what: Names it.
            work: Leaves its result in files that all processes share.

        Raises:
            UserError: The first process failed, was killed, or never started.
        """
        if self.rank == 0:
            work()
            if self.world > 1:
                self._note(done=[*self._state["done"], what])
            return
        began = time.monotonic()
        while True:
            first = self._read(self._first)
            if first and what in first["done"]:
                self._note(launch=first["launch"])  # the first may have cleared the folder of it only now
                return
            if self._lost or (first and first["ended"]):
                raise UserError(self._lost or f"process 0 of {self.world} ended before it had made the {what}")
            if first is None and time.monotonic() - began > _START:
                raise UserError(f"process 0 of {self.world} has not started within {_START} s; start all of them")
            time.sleep(_LOOK)

    def end(self, error: BaseException | None = None) -> BaseException | None:
        """Leaves the others, and tells them how.

        Args:
            error: What this process ends with.

        Returns:
            BaseException | None: What it is to end with; not ``error`` where another process failed first.
        """
        own = error is None or (isinstance(error, KeyboardInterrupt) and not self._interrupting)
        if not own:
            # The end of another often shows first in what it does to this one, such as a closed connection.
            until = time.monotonic() + (0 if isinstance(error, UserError) else _ROOM)
            while not self._lost and time.monotonic() < until:
                time.sleep(_LOOK / 5)
            try:
                self._lost = self._lost or self._look()
            except OSError as failed:
                log.warning("%s: %s", self.folder, failed)
        self._over.set()
        self._thread.join(_ROOM)
        if error is not None:
            self._note_failure(_words(error) if own or not self._lost else self._lost)
        elif self.rank == 0:
            self._note(ended=True)  # stays: others may not have read yet what is done
        else:
            self._own.unlink(missing_ok=True)
        return error if own or not self._lost else UserError(self._lost)

    def _note(self, **changes) -> None:
        self._state |= changes
        write_json(self._own, self._state)

    def _note_failure(self, said: str) -> None:
        try:
            self._note(failed=said)
        except OSError as error:  # the others will see that this process is gone
            log.warning("%s: could not be written (%s)", self._own, error)

    def _read(self, path: Path) -> dict | None:
        """What a process of this launch says of itself."""
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.stat().st_mtime >= self._launched else None
        except (OSError, ValueError):  # not there yet, or just being replaced
            return None

    def _look(self) -> str | None:
        """What happened to another process, if something did."""
        for path in self.folder.glob("*.json") if self.rank == 0 else [self._first]:
            other = self._read(path) if path != self._own else None
            if other is None:
                continue
            if self.rank and not self._state["launch"]:
                self._note(launch=other["launch"])
            if other["launch"] not in (self._state["launch"], None):
                if self.rank:
                    return f"process 0 of {self.world} was started again, and this one belongs to the launch before"
                continue
            if other["ended"]:
                continue
            name = f"process {path.stem} of {self.world} (number {other['pid']} on {other['machine'].split()[0]})"
            if other["failed"]:
                passed_on = other["failed"].startswith("process ")
                return other["failed"] if passed_on else f"{name} ended: {other['failed']}"
            if other["machine"] != self._state["machine"]:
                if self._silent(path):
                    return f"{name} has given no sign for {_SILENT} s; see whether its machine is up"
            elif not _alive(other["pid"]):
                return (
                    f"{name} was killed or crashed; if memory ran out, lower optim.batch_size or retriever.batch_size"
                )
        return None

    def _silent(self, path: Path) -> bool:
        """Whether many looks found no new sign; time in which this process could not look does not count."""
        try:
            sign = path.stat().st_mtime_ns
        except OSError:  # it has just ended, or the disk is away
            return False
        before, looks = self._signs.get(path, (None, 0))
        self._signs[path] = (sign, looks + 1 if sign == before else 0)
        return self._signs[path][1] > _SILENT / _LOOK

    def _watch(self) -> None:
        while not (self._lost or self._over.wait(_LOOK)):
            try:
                if self._own.exists():
                    os.utime(self._own)
                elif not self._over.is_set():  # the first process has cleared the folder since
                    self._note()
                self._lost = self._look()
            except OSError as error:  # a shared disk may be away for a while
                log.warning("%s: %s", self.folder, error)
        if self._over.is_set():
            return
        log.error("%s; this one, %d, ends too", self._lost, self.rank)
        self._note_failure(self._lost)
        if not self._over.wait(_ROOM):
            self._interrupting = True
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        if not self._over.wait(_GRACE):
            os._exit(1)  # it hangs in a call that waits for the others


@contextmanager
def process_group(recipe: Recipe) -> Iterator[Processes]:
    """Surrounds what the processes of a training run do together.

    Raises:
        UserError: A launcher started more processes than the recipe asks for; or another process failed, was killed or
            fell silent: says which, and what it met.
    """
    trainer = recipe.trainer
    rank, world = global_rank(trainer.devices), trainer.devices * trainer.num_nodes
    check(
        rank < world,
        f"this is process {rank} of a launcher, and trainer.devices={trainer.devices} with "
        f"trainer.num_nodes={trainer.num_nodes} asks for {world} in all; give both as the launcher starts them",
    )
    run = fingerprint(str(Path(recipe.out).resolve()))
    processes = Processes(Path(recipe.cache) / "processes" / run, rank, world)
    if world == 1:
        yield processes
        return
    processes.start()
    try:
        yield processes
    except BaseException as error:
        instead = processes.end(error)
        if instead is error:
            raise
        raise instead from error
    processes.end()
