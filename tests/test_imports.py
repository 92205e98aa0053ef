"""Imports go down the table of rooms, without circles, and light rooms load no torch."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the bottom up. A room may import the rooms of the lines before its own, and itself. Files at a package's root are
# commands, which may import every room of their package.
ROOMS = {
    "data_prep": [
        "core",
        "extensions",
        "settings prompting",
        "arguments armory distributed",
        "reading",
        "emoji",
        "datasets",
        "embedding",
        "memory",
        "detection leakage adapters",
        "mining",
        "export",
    ],
    "rar_train": [
        "families rerankers",
        "models",
        "engine lite",
        "ranker retriever projector nano export",
        "doctor",
    ],
    "eval": [
        "metrics",
        "calibration clustering",
        "ranking report",
        "recognition detection discover",
        "recognizer",
        "predict demo serve",
    ],
}
# What a package may import of the others; of a package that is not named, nothing.
OTHERS = {
    "data_prep": {},
    "rar_train": {"data_prep": None},
    "eval": {"data_prep": None, "rar_train": {"families", "models", "engine"}},
}
WITHOUT_TORCH = {
    "data_prep": ["core", "prompting", "settings", "arguments"],
    "eval": ["metrics", "calibration", "report"],
}
MOST_FILES = 20

LEVELS = {
    (package, room): level
    for package, lines in ROOMS.items()
    for level, line in enumerate(lines)
    for room in line.split()
}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ROOMS
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imported(tree: ast.Module, nodes: Iterator[ast.AST] | None = None) -> set[str]:
    """Modules that a file imports: anywhere in it, or by some of its nodes."""
    found = set()
    for node in nodes or ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else node.module for name in names}
    return found


def room_of(module: str) -> tuple[str, str | None]:
    """Package and room of a module; the room of a command is None."""
    package, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    return package, room if (package, room) in LEVELS else None


def wrong_imports(module: str, modules: set[str]) -> list[str]:
    """Those of the imported modules that the table forbids."""
    package, room = room_of(module)
    wrong = []
    for other in modules:
        package_there, room_there = room_of(other)
        if package_there not in ROOMS:
            continue
        if package_there != package:
            rooms = OTHERS[package].get(package_there, set())
            allowed = rooms is None or room_there in rooms
        elif room is None:
            allowed = True
        else:
            below = room_there is not None and LEVELS[package, room_there] < LEVELS[package, room]
            allowed = room_there == room or below
        if not allowed:
            wrong.append(other)
    return sorted(wrong)


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_only_from_rooms_below_its_own(module: str):
    assert wrong_imports(module, imported(ast.parse(FILES[module].read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("data_prep.core.files", "from data_prep.settings import Recipe"),
        ("data_prep.memory.search", "import data_prep.mining.mine"),
        ("data_prep.reading.dataset", "def f():\n    from rar_train.models import mllm"),
        ("rar_train.retriever.train", "from rar_train.ranker import collate"),
        ("eval.ranking.modes", "from rar_train.ranker.collate import collate"),
        ("eval.report.page", "from eval.recognition import evaluate"),
        ("eval.metrics.accuracy", "from eval import run"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str):
    assert wrong_imports(module, imported(ast.parse(source)))


def test_no_modules_import_each_other_in_a_circle():
    graph = {}
    for module, path in FILES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[module] = imported(tree, iter(tree.body)) & FILES.keys() - {module}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


def test_every_folder_is_a_room_of_the_table_with_at_most_twenty_files():
    for package in ROOMS:
        folders = {path.parent for path in (ROOT / package).rglob("*.py")} - {ROOT / package}
        assert {folder.name for folder in folders} == {room for there, room in LEVELS if there == package}
        assert all(len(list(folder.glob("*.py"))) <= MOST_FILES for folder in folders)


@pytest.mark.parametrize("module", FILES)
def test_every_module_imports(module: str):
    assert importlib.import_module(module)


def test_light_rooms_load_no_torch():
    rooms = [f"{package}.{room}." for package, rooms in WITHOUT_TORCH.items() for room in rooms]
    modules = [module for module in FILES if module.startswith(tuple(rooms))]
    code = f"import sys\nfor name in {modules}: __import__(name)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_prompts_and_replies_are_pure_text():
    """They serve trainers and services that have neither torch nor NumPy."""
    for name in ("prompting.prompts", "prompting.replies", "core.records"):
        heavy = {"torch", "lightning", "transformers", "faiss", "open_clip", "numpy"}
        assert not imported(ast.parse(FILES[f"data_prep.{name}"].read_text(encoding="utf-8"))) & heavy
