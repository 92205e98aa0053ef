"""The commands as a user calls them."""

from __future__ import annotations

import importlib
import io
import logging
import os
import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from unittest import mock

from data_prep.core.command import run_command


def command_line(module: str, *arguments: str) -> list[str]:
    """What a user types, with this environment's Python."""
    return [sys.executable, "-m", module, *arguments]


def environment(gpu: bool = False) -> dict[str, str]:
    """A user's environment: no network for models, not the test runner's processes, a GPU only if asked for."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "WANDB", "COV"))}
    return kept | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"} | ({} if gpu else {"CUDA_VISIBLE_DEVICES": ""})


def program_of(module: str) -> ModuleType:
    """The module that ``python -m`` runs: a package's is its ``__main__``."""
    found = importlib.import_module(module)
    return importlib.import_module(f"{module}.__main__") if hasattr(found, "__path__") else found


def call(
    folder: Path, module: str, *arguments: str, fails: bool = False, gpu: bool = False
) -> subprocess.CompletedProcess:
    """Runs a command in a folder; a failure that is not expected shows what it printed."""
    done = subprocess.run(
        command_line(module, *arguments, *(() if fails else ("--debug",))),
        cwd=folder,
        env=environment(gpu),
        capture_output=True,
        text=True,
        timeout=600,
    )
    if (done.returncode != 0) != fails:
        raise AssertionError(f"exit {done.returncode} of {module} {arguments}\n{done.stdout}\n{done.stderr}")
    return done


def call_here(folder: Path, module: str, *arguments: str, fails: bool = False) -> subprocess.CompletedProcess:
    """Runs a command as ``call`` does, but in this process: its libraries are imported already."""
    program = program_of(module)
    out, err = io.StringIO(), io.StringIO()
    log, packages = logging.StreamHandler(err), [logging.getLogger(name) for name in ("data_prep", "rar_train", "eval")]
    levels = [package.level for package in packages]
    for package in packages:
        package.addHandler(log)
        package.setLevel(logging.INFO)
    words = [module, *arguments, *(() if fails else ("--debug",))]
    try:
        # What quiets the libraries would quieten the tests that come after.
        quiet = mock.patch("data_prep.core.command.quiet_libraries")
        with quiet, chdir(folder), mock.patch.object(sys, "argv", words), redirect_stdout(out), redirect_stderr(err):
            code = run_command(program.main, program.__doc__)
    except SystemExit as end:  # argparse
        code = int(end.code or 0)
    finally:
        for package, level in zip(packages, levels, strict=True):
            package.removeHandler(log)
            package.setLevel(level)
    assert (code != 0) == fails, f"exit {code} of {module} {arguments}\n{out.getvalue()}\n{err.getvalue()}"
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


class _Parsed(Exception):
    """Leaves a command where its arguments are read."""


def parsed(module: str, *arguments: str) -> Namespace:
    """What a command reads from its command line; nothing is done.

    Raises:
        SystemExit: It knows no such option.
    """

    def stop(parser: ArgumentParser, own: list[str], read: str) -> None:
        raise _Parsed(originals[read](parser, own))

    names = ("parse_args", "parse_intermixed_args")
    originals = {name: getattr(ArgumentParser, name) for name in names}
    hooks = {name: lambda parser, own, read=name: stop(parser, own, read) for name in names}
    with mock.patch.multiple(ArgumentParser, **hooks):
        try:
            program_of(module).main(list(arguments))
        except _Parsed as found:
            return found.args[0]
    raise AssertionError(f"{module} reads no options")


def shown(page: Path, put_in: dict[str, str]) -> list[list[str]]:
    """The arguments of each ``python -m`` of ours in a page's shell blocks, the module first.

    Args:
        page: Markdown.
        put_in: What stands for the words that the reader replaces.
    """
    blocks = re.findall(r"^```(?:bash|sh)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if "-m" in words and re.fullmatch(r"(data_prep|rar_train|eval)\.\w+", words[words.index("-m") + 1]):
            found.append([put_in.get(word, word) for word in words[words.index("-m") + 1 :]])
    return found
