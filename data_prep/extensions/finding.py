"""Finds readers, encoders and metrics outside the package: by ``module:function``, or by the name of an entry point.

A reference is imported as Python would, and last of all from the working folder, so that nothing there can hide an
installed package. An entry point is declared by an installed package, in one of the groups below.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError

log = logging.getLogger(__name__)

DATASETS, ENCODERS, METRICS = "rar_train.datasets", "rar_train.encoders", "rar_train.metrics"
"""Groups of entry points."""

_REFERENCE = re.compile(r"(?<![\w./-])([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")


def is_reference(text: str) -> bool:
    """Returns whether a text has the form ``module:function``."""
    return _REFERENCE.fullmatch(text) is not None


def find_references(text: str) -> list[str]:
    """Returns the ``module:function`` references in a text, which may be a list written as YAML."""
    return [match.group() for match in _REFERENCE.finditer(text)]


class _FolderFinder:
    """Finds top-level modules in a folder; it is asked after all others.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self.namespaces: set[str] = set()  # folders without __init__.py that were asked for

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Returns the specification of a module in the folder, or None."""
        if path is not None:
            return None
        spec = PathFinder.find_spec(name, [self.folder])
        is_module = spec is not None and (spec.origin is not None or name in self.namespaces)
        return spec if is_module else None


_finders: dict[str, _FolderFinder] = {}


def _search_working_folder(module: str) -> None:
    """Makes modules of the working folder importable, where a console script does not; there they come last."""
    folder = str(Path.cwd())
    if folder not in _finders:
        _finders[folder] = _FolderFinder(folder)
        sys.meta_path.append(_finders[folder])  # type: ignore[arg-type]
    _finders[folder].namespaces.add(module.partition(".")[0])
    importlib.invalidate_caches()


def locate(reference: str) -> str | None:
    """Returns the file or folder of a reference's top-level module, without running it; None if there is none."""
    name = reference.partition(":")[0].partition(".")[0]
    spec = None
    with suppress(ValueError, ImportError):
        spec = importlib.util.find_spec(name)
    spec = spec or PathFinder.find_spec(name, [str(Path.cwd())])
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    return str(Path(spec.origin).resolve() if spec.has_location and spec.origin else folders[0] if folders else name)


def _load_reference(key: str, reference: str) -> Callable:
    """Imports a reference; ``key`` is the setting that has it, for messages."""
    module_name, _, attribute = reference.partition(":")
    shown = f"{key}={reference}"
    _search_working_folder(module_name)
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"{shown}: importing {module_name} failed: {error}") from error
        raise UserError(
            f"{shown}: there is no module {error.name}, neither installed nor in the working folder {Path.cwd()}"
        ) from None
    except UserError:
        raise
    except Exception as error:  # anything can happen there
        raise UserError(f"{shown}: importing {module_name} failed: {describe_failure(error)}") from error
    file = getattr(value, "__file__", None) or module_name
    for name in attribute.split("."):
        if not hasattr(value, name):
            raise UserError(f"{shown}: {file} has no {name}")
        value = getattr(value, name)
    if not callable(value):
        raise UserError(f"{shown}: {attribute} in {file} is {type(value).__name__}, not a function")
    return value


def describe_failure(error: BaseException) -> str:
    """Describes an error that somebody else's code raised: its type, first line, and where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})" if trace is not None else ""
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


def call_extension(function: Callable, *arguments: Any, failure: str) -> Any:
    """Calls a function of somebody else's code.

    Args:
        function: The function.
        arguments: Its arguments.
        failure: What a message begins with, such as ``data.name=NAME: it failed``.

    Raises:
        UserError: The function raised one, which is passed on, or any other error.
    """
    try:
        return function(*arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{failure}: {describe_failure(error)}") from error


def list_entry_points(group: str) -> dict[str, list[EntryPoint]]:
    """Returns a group's entry points by name; each is several where several packages declare the name."""
    by_name: dict[str, dict[tuple[str, str], EntryPoint]] = {}
    for point in entry_points(group=group):
        by_name.setdefault(point.name, {})[point.value, _package(point)] = point
    return {name: list(points.values()) for name, points in sorted(by_name.items())}


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "?"


def load_extension(key: str, text: str, group: str) -> Callable | None:
    """Loads the function that a setting names.

    Args:
        key: The setting, for messages.
        text: ``module:function``, or the name of an entry point.
        group: Group of the entry points.

    Returns:
        Callable | None: None if the text is neither.

    Raises:
        UserError: The module cannot be imported, it has no such function, or several packages declare the name.
    """
    if is_reference(text):
        return _load_reference(key, text)
    points = list_entry_points(group).get(text, [])
    if not points:
        return None
    if len(points) > 1:
        packages = ", ".join(sorted(f"{_package(point)} ({point.value})" for point in points))
        raise UserError(f"{key}={text}: several installed packages have an entry point of that name: {packages}")
    (point,) = points
    try:
        function = point.load()
    except Exception as error:
        failure = describe_failure(error)
        raise UserError(f"{key}={text}: {point.value} of {_package(point)} can't be loaded: {failure}") from error
    if not callable(function):
        raise UserError(f"{key}={text}: {point.value} of {_package(point)} is {type(function).__name__}, no function")
    log.info("%s=%s: %s of %s", key, text, point.value, _package(point))
    return function
