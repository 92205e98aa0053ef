"""The commands, and running one with help, logging, readable errors and exit statuses."""

from __future__ import annotations

import io
import logging
import os
import re
import select
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

from data_prep.core.errors import Interrupted, UserError
from data_prep.core.memory_budget import keep_freed_memory
from data_prep.core.os_errors import describe_error
from data_prep.core.paths import expand_home_in_word
from data_prep.core.progress import is_interactive
from data_prep.core.ranks import disable_lightning_slurm, is_first_process

log = logging.getLogger(__name__)

SUBCOMMANDS = {
    "fit": ("rar_train.fit", "prepares what is missing and trains a recipe"),
    "eval": ("eval.run", "evaluates a run: retriever, untuned and tuned ranker"),
    "predict": ("eval.predict", "labels any number of images"),
    "detect": ("eval.detection", "names the boxes of a detection data set and scores them"),
    "discover": ("eval.discover", "recognises classes whose names are not given"),
    "serve": ("eval.serve", "the recognizer as an HTTP service"),
    "demo": ("eval.demo", "the recognizer as a web page"),
    "report": ("eval.report", "writes report pages, and compares runs"),
    "doctor": ("rar_train.doctor", "checks machine, data, models and recipe before a run"),
    "recipes": ("data_prep.recipes", "lists the recipes, or shows one"),
    "keys": ("data_prep.keys", "lists the settings with type, default and meaning"),
    "data": ("data_prep.build", "runs the data stages of a recipe alone"),
    "memory": ("data_prep.memory", "builds, imports, changes and checks class memories"),
    "export": ("rar_train.export", "writes a tuned ranker as a plain transformers model"),
    "export-data": ("data_prep.export", "writes ranking examples for another trainer"),
    "import-data": ("data_prep.import_examples", "reads ranking examples of RAR's code and of other trainers"),
    "clustering": ("eval.clustering", "scores guessed class names: cACC, sACC, NMI, ARI"),
    "emoji": ("data_prep.emoji", "fetches and renders the emoji data set"),
    "lite": ("rar_train.lite", "builds lite-clip and lite-mllm from Python packages"),
}
"""Module and summary of each subcommand, in the order of the help."""

_NAMES = {module: name for name, (module, _) in SUBCOMMANDS.items()}
_MODULE_FORM = re.compile(rf"python -m ({'|'.join(sorted(map(re.escape, _NAMES), key=len, reverse=True))})(?![\w.])")
_called = {"by_script": False}


def set_called_by_script() -> None:
    """Notes that this process was started as ``rar COMMAND``."""
    _called["by_script"] = True


def as_called(text: str) -> str:
    """Rewrites ``python -m MODULE`` to ``rar NAME`` where the command was called in that form.

    Args:
        text: Help, an error message or a log line.
    """
    return _MODULE_FORM.sub(lambda match: f"rar {_NAMES[match[1]]}", text) if _called["by_script"] else text


class _Formatter(logging.Formatter):
    """Shows the time and the message, whose hints name commands in the form in which this one was called."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line of a record."""
        return as_called(super().format(record))


def _is_worth_showing(record: logging.LogRecord) -> bool:
    """Leaves out DeepSpeed's line about a machine without a GPU, which peft has it print to standard output."""
    return not record.getMessage().startswith("Setting accelerator to CPU")


_CHATTY = ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")


def quiet_libraries() -> None:
    """Shows this project's log lines, one per stage, and only warnings of the libraries."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for package in ("data_prep", "rar_train", "eval", "__main__"):
        logging.getLogger(package).setLevel(logging.INFO)
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
        logging.getLogger(chatty).propagate = False
    logging.getLogger("DeepSpeed").addFilter(_is_worth_showing)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns about renames in newer releases
    if not is_interactive():
        os.environ.setdefault("TQDM_DISABLE", "1")  # for the libraries' own bars, such as those of transformers
    _ignore_library_warnings()


def _ignore_library_warnings() -> None:
    """Ignores warnings of calls that other libraries make, or that this project makes to support older releases."""
    libraries = "lightning|torch|faiss|webdataset|peft|transformers"
    for category in (UserWarning, FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=libraries)


def announce(work: str) -> None:
    """Logs what a command is going to do, before it imports the libraries that take seconds to load.

    Args:
        work: The command's name, and what it works on, such as ``fit: ranker into runs/mine``.
    """
    if is_first_process():
        log.info("%s", work)


@contextmanager
def _quiet_settings() -> Iterator[None]:
    """Sets libraries to silence, and then back to what they were."""
    from transformers.utils import logging as transformers_logging

    levels = {name: logging.getLogger(name).level for name in _CHATTY}
    verbosity, shows_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    parallelism = os.environ.get("TOKENIZERS_PARALLELISM")
    with warnings.catch_warnings():
        _ignore_library_warnings()
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # or tokenizers write about worker processes
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            transformers_logging.set_verbosity(verbosity)
            if shows_bars:
                transformers_logging.enable_progress_bar()
            del os.environ["TOKENIZERS_PARALLELISM"]
            os.environ |= {} if parallelism is None else {"TOKENIZERS_PARALLELISM": parallelism}


_quiet_lock = Lock()
_quiet_calls: list[ExitStack] = []  # one element per call that is running; the first restores the settings


@contextmanager
def quiet_calls() -> Iterator[None]:
    """Keeps libraries silent while a program calls this project, in any number of threads.

    The settings belong to the whole process; after the last call they are what they were before the first.
    """
    with _quiet_lock:
        stack = ExitStack()
        if not _quiet_calls:
            stack.enter_context(_quiet_settings())
        _quiet_calls.append(stack)
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_calls.pop().close()


def escape_unencodable_output() -> None:
    """Prints characters that the output cannot encode as escapes, for ASCII terminals and undecodable file names."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_arguments() -> None:
    """Checks that every command line argument is decodable text.

    Raises:
        UserError: An argument is not.
    """
    encoding = sys.getfilesystemencoding()
    remedy = "rename it, or link to it by another name" if encoding == "utf-8" else "set PYTHONUTF8=1"
    for argument in sys.argv[1:]:
        if any("\ud800" <= character <= "\udfff" for character in argument):  # Python decodes bad bytes to surrogates
            raise UserError(
                f"{argument.encode('utf-8', 'backslashreplace').decode()}: not {encoding.upper()}; {remedy}"
            )


def flush_output() -> None:
    """Flushes standard output; the rest is discarded if the reader has closed the pipe."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would report it again at exit
        if not isinstance(error, BrokenPipeError):
            raise


def _is_reader_gone() -> bool:
    """Tells whether standard output is a pipe whose other end was closed, as ``head`` does."""
    if not hasattr(select, "poll"):  # Windows, where only standard output is written to
        return True
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def run_command(main: Callable[[list[str]], None], help_text: str, arguments: list[str] | None = None) -> int:
    """Runs a command's main function on the command line arguments.

    Args:
        main: Takes the arguments after the program name.
        help_text: Printed for ``--help``.
        arguments: The arguments; by default those of this process.

    Returns:
        int: Exit status: 0 on success; 2 after a ``UserError`` or an error of the operating system that a user can fix
        (a full disk, a file in place of a folder), 1 after any other error, 130 after Ctrl-C or SIGTERM. The error is
        printed to standard error in one line; with ``--debug`` the traceback is shown instead.
    """
    escape_unencodable_output()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Lightning's own handler would finish predicting first
    given = sys.argv[1:] if arguments is None else arguments
    arguments = [expand_home_in_word(argument) for argument in given if argument != "--debug"]
    if {"-h", "--help"} & set(arguments):
        print(as_called(help_text.strip()).replace("``", ""))
        return 0
    quiet_libraries()
    keep_freed_memory()
    disable_lightning_slurm()
    if "--debug" in given:
        main(arguments)
        return 0
    try:
        check_arguments()
        main(arguments)
        flush_output()
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning turns KeyboardInterrupt into SystemExit.
        if not isinstance(stop, KeyboardInterrupt) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        default = "interrupted; the same command resumes from what is done"
        print(f"\n{stop if isinstance(stop, Interrupted) else default}", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_reader_gone():
            return 1
        message = describe_error(error)
        if message is not None:
            print(as_called(f"error: {message}"), file=sys.stderr)
            return 2
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        print(f"unexpected error: {message}\nRun it again with --debug to see the traceback.", file=sys.stderr)
        return 1
    return 0
