"""Every command that the documents show can be called, and every file is named in the README."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from data_prep.memory.commands import COMMANDS
from data_prep.settings.loading import load_recipe
from eval.metrics.elsewhere import CHOICE_SETS, ELSEWHERE
from eval.metrics.published import FEW_SHOT, FEW_SHOT_ORDER, FINE_GRAINED, LVIS, V3DET
from tests.commands import parsed, shown

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What the reader puts in.
PUT_IN = {"FORMAT": "rar", "NAME": "product"}
OF_A_RECIPE = ("rar_train.fit", "data_prep.build", "rar_train.doctor")


COMMANDS_SHOWN = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)}") for page in PAGES for words in shown(page, PUT_IN)
]


def helps() -> dict[str, str]:
    """What each command prints for ``--help``."""
    folders = [ROOT / package for package in ("data_prep", "rar_train", "eval")]
    files = {f"{folder.name}.{file.stem}": file for folder in folders for file in folder.glob("*.py")}
    files |= {f"{folder.name}.{file.parent.name}": file for folder in folders for file in folder.glob("*/__main__.py")}
    texts = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
    return {name: ast.get_docstring(ast.parse(text)) for name, text in texts.items() if "sys.exit(run_command(" in text}


EXAMPLES = [
    pytest.param(shlex.split(line)[2:], id=f"{name}: {line}")
    for name, text in helps().items()
    for line in re.findall(r"^    (python -m \S+ .*)$", text.replace("\\\n", " "), re.M)
]


def test_each_command_helps_with_examples():
    assert {words.values[0][0] for words in EXAMPLES} >= set(helps())


def test_the_pages_show_commands():
    assert {words.values[0][0] for words in COMMANDS_SHOWN} > {"rar_train.fit", "eval.run", "data_prep.memory"}


@pytest.mark.parametrize("words", COMMANDS_SHOWN + EXAMPLES)
def test_a_command_of_the_pages_is_understood(words: list[str]):
    module, *arguments = words
    if module in OF_A_RECIPE:
        settings = [word for word in arguments if not word.startswith("--")]
        assert load_recipe(settings or ["recipe=ranker_lora"]).task
    elif module == "data_prep.memory":
        assert parsed(module, *arguments).command in COMMANDS
    else:
        args = parsed(module, *arguments)
        settings = [str(word) for words in vars(args).values() if isinstance(words, list) for word in words]
        own = [word for word in settings if "=" in word and not word.startswith("recipe=")]
        assert load_recipe(["recipe=ranker_lora", *own]).task


def test_the_readme_names_every_room_and_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for package in ("data_prep", "rar_train", "eval"):
        rooms = [file.parent.name for file in (ROOT / package).glob("*/__init__.py")]
        commands = [file.stem for file in (ROOT / package).glob("*.py") if file.stem != "__init__"]
        wanted = [f"`{package}/{room}`" for room in rooms] + [f"`{command}`" for command in commands]
        missing = [name for name in wanted if name not in text]
        assert not missing, f"{package}: not in the README: {missing}"


def test_the_figures_to_expect_are_the_published_ones():
    lines = (ROOT / "docs" / "reproducing.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    for (shots, method), metrics in FEW_SHOT.items():
        assert [str(shots), f"`{method}`", *(str(metrics[name]) for name in FEW_SHOT_ORDER)] in rows
    for method, pairs in FINE_GRAINED.items():
        assert [method, *(f"{cacc}/{sacc}" for cacc, sacc in pairs.values())] in rows
    for table in (LVIS, V3DET):
        for method, metrics in table.items():
            assert [method, *map(str, metrics.values())] in rows
    for row in ELSEWHERE:
        if row.task != "choice":
            figures = ", ".join(f"{name} {value:g}" for name, value in row.metrics.items())
            protocol = row.task.replace("_", " ") + (f", {row.shots} shots" if row.shots else "")
            assert [protocol, row.dataset, row.method, figures, row.read] in rows
    choices = {row.method: {} for row in ELSEWHERE if row.task == "choice"}
    for row in ELSEWHERE:
        if row.task == "choice":
            choices[row.method][row.dataset] = "/".join(f"{value:g}" for value in row.metrics.values())
    for method, cells in choices.items():
        assert [method, *(cells.get(name, "") for name in CHOICE_SETS)] in rows


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_a_page_points_at_what_there_is(page: Path):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target
