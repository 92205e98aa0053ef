"""A small run shared by the tests of the commands: fitted and evaluated once, by the commands."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from tests.commands import call


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory, small: tuple[str, ...]) -> Path:
    """A folder with ``run``, its ``cache``, and the commands' output; tests must not modify it.

    ``fit.txt`` and ``eval-log.txt`` have standard error, ``eval.txt`` has standard output.

    The first of the test processes creates it, and the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, part = base / "evaluated", base / "evaluated.part"
    with FileLock(base / "evaluated.lock"):
        if not folder.exists():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            fit = call(part, "rar_train.fit", "recipe=ranker_lora", "out=run", "cache=cache", *small)
            (part / "fit.txt").write_text(fit.stderr)
            evaluation = call(part, "eval.run", "--ckpt", "run")
            (part / "eval.txt").write_text(evaluation.stdout)
            (part / "eval-log.txt").write_text(evaluation.stderr)
            part.rename(folder)
    return folder


@pytest.fixture
def fitted(evaluated: Path, tmp_path: Path) -> Path:
    """The run's folder in the test's own copy of run and cache, without the evaluation."""
    shutil.copytree(evaluated / "cache", tmp_path / "cache")
    shutil.copytree(evaluated / "run", tmp_path / "run", ignore=shutil.ignore_patterns("eval"))
    return tmp_path / "run"
