"""``rar``: every command under one name, from any folder, and the shell's completion of its command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from data_prep.arguments.completion import DATASETS
from data_prep.core.command import SUBCOMMANDS
from data_prep.core.paths import RECIPES
from data_prep.datasets import READERS
from tests.commands import environment

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a user's folder, whose ``eval/`` and ``data_prep/`` are not ours; beside it is the console script."""
    folder = tmp_path_factory.mktemp("user")
    for package in ("eval", "data_prep", "rar_train", "work/eval", "work/data_prep"):
        (folder / "work" / package).mkdir(parents=True)
        (folder / "work" / package / "__init__.py").write_text("raise SystemExit('the package of the user')")
    script = folder / "rar"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom rar_train.cli import console\n"
        "if __name__ == '__main__':\n    sys.exit(console())\n"
    )
    script.chmod(0o755)
    return folder / "work"


def rar(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Runs the console script as an installation has it: the packages are found, the working directory is not."""
    around = environment() | {"PYTHONPATH": str(ROOT)} | variables
    script = [str(folder.parent / "rar"), *arguments]
    return subprocess.run(script, cwd=folder, env=around, capture_output=True, text=True, timeout=600)


def complete(folder: Path, lines: Iterable[str]) -> list[set[str]]:
    """Returns what bash offers where each line is completed, by the script that ``rar completion bash`` prints."""
    script = "source <(rar completion bash); COMP_TYPE=9"
    for line in lines:
        script += f"; COMP_LINE={line!r}; COMP_POINT={len(line)}; COMPREPLY=(); _python_argcomplete rar"
        script += '; printf "%s|" "${COMPREPLY[@]}"; echo'
    around = environment() | {"PYTHONPATH": str(ROOT), "PATH": f"{folder.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=around, capture_output=True, text=True, check=True)
    return [{word.strip() for word in line.split("|") if word.strip()} for line in done.stdout.splitlines()]


def test_help_names_every_command_in_80_columns(folder: Path):
    done = rar(folder, "--help")
    assert done.returncode == 0 and done.stdout == rar(folder).stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    for name, (_, summary) in SUBCOMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(summary)}$", done.stdout, re.M)


def test_every_command_of_the_packages_has_a_name():
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for package in ("data_prep", "rar_train", "eval")
        for path in (ROOT / package).rglob("*.py")
        if "sys.exit(run_command(main" in path.read_text(encoding="utf-8")
    }
    assert {module for module, _ in SUBCOMMANDS.values()} == modules


def test_every_command_has_its_help_without_torch():
    code = "import sys; from rar_train.cli import dispatch; sys.stdout.reconfigure(errors='replace')\n"
    code += "for name in sys.argv[1:]: print('>>>', dispatch([name, '--help']), 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, *SUBCOMMANDS]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    texts = done.stdout.split(">>> 0 False\n")
    assert [text.split()[:2] for text in texts[:-1]] == [["rar", name] for name in SUBCOMMANDS] and not texts[-1]
    assert not re.search(r"python -m (data_prep|rar_train|eval)\b", done.stdout)


def test_the_version_is_the_projects(folder: Path):
    assert rar(folder, "--version").stdout == "rar-train 0.2.0\n"


def test_a_command_that_does_not_exist_names_the_nearest(folder: Path):
    for wrong, right in (("evl", "eval"), ("train", "fit"), ("eval.detection", "detect")):
        done = rar(folder, wrong)
        assert (done.returncode, done.stderr) == (2, f"error: {wrong}: no such command; did you mean rar {right}?\n")


def test_messages_name_commands_in_the_form_that_was_called(folder: Path):
    assert rar(folder, "keys", "qqqq").stderr == "error: qqqq: no setting has it; rar keys lists all\n"
    assert "see rar eval --help" in rar(folder, "eval").stderr
    module = [sys.executable, "-m", "data_prep.keys", "qqqq"]
    done = subprocess.run(module, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert "python -m data_prep.keys lists all" in done.stderr


def test_recipes_are_listed_and_shown(folder: Path):
    listed = rar(folder, "recipes", COLUMNS="80").stdout
    assert max(map(len, listed.splitlines())) <= 80
    assert [line for line in listed.splitlines() if line[0] != " "] == sorted(path.stem for path in RECIPES.glob("*"))
    assert "    The main recipe: retrieves top-k candidates" in listed
    assert rar(folder, "recipes", "ranker_lora").stdout == (RECIPES / "ranker_lora.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("demo --ckpt nowhere", "demo: nowhere"),
        ("eval --ckpt nowhere", "eval: nowhere"),
        ("predict --ckpt nowhere x.png", "predict: nowhere labels into predictions.jsonl"),
        ("serve --ckpt nowhere", "serve: nowhere"),
        ("discover --ckpt nowhere", "discover: nowhere"),
        ("memory check nowhere", "memory: check nowhere"),
        ("doctor recipe=ranker_lora", "doctor: this machine and recipe=ranker_lora"),
        ("fit recipe=ranker_lora out=x", "fit: ranker into x"),
    ],
)
def test_a_command_says_what_it_does_before_it_loads_torch(folder: Path, words: str, first: str):
    code = """if True:
        import os, sys
        from rar_train.cli import dispatch
        class NoTorch:
            def find_spec(name, path=None, target=None):
                if name == "torch":
                    os._exit(2)
        sys.meta_path.insert(0, NoTorch)
        sys.path.remove("")
        sys.exit(dispatch(sys.argv[1:]))"""
    command, around = [sys.executable, "-c", code, *words.split()], environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=around, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.splitlines()[0].endswith(first), done.stderr


COMPLETED = {
    "rar ev": {"eval"},
    "rar completion ": {"bash", "zsh", "fish"},
    "rar eval --ckpt x --mo": {"--mode"},
    "rar eval --mode l": {"letters", "likelihood"},
    "rar fit recipe=retriever_l": {"retriever_lite"},
    "rar fit recipe=ranker_lora trainer.prec": {"trainer.precision="},
    "rar fit recipe=ranker_lora trainer.precision=": {"32-true", "16-mixed", "bf16-mixed"},
    "rar eval --ckpt x eval.sp": {"eval.split="},
    "rar doctor d": {"data.", "detection.", "discover."},
    "rar memory che": {"check"},
    "rar fit data.name=ca": {"caltech101", "cars196"},
    "rar recipes rar_": {"rar_paper", "rar_paper_data"},
    "rar keys ranker.lora.r": {"ranker.lora.rank", "ranker.lora.rslora"},
}


def test_bash_completes_commands_options_recipes_keys_and_values(folder: Path):
    assert dict(zip(COMPLETED, complete(folder, COMPLETED), strict=True)) == COMPLETED


def test_zsh_and_fish_have_a_script_and_other_shells_an_error(folder: Path):
    assert "compdef _python_argcomplete rar" in rar(folder, "completion", "zsh").stdout
    assert "complete --command rar" in rar(folder, "completion", "fish").stdout
    assert "give the shell: rar completion bash|zsh|fish" in rar(folder, "completion", "csh").stderr


def test_completion_loads_neither_torch_nor_numpy():
    code = "import sys; from rar_train.cli import dispatch; from data_prep.arguments.completion import complete_setting"
    code += "; complete_setting('trainer.'); complete_setting('trainer.precision='); import argcomplete, eval.run"
    code += "; print({'torch', 'numpy', 'PIL', 'lightning'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_the_data_sets_offered_are_those_that_have_a_reader():
    assert set(DATASETS) == set(READERS)


@pytest.mark.slow
def test_processes_that_a_command_starts_find_the_packages_too(folder: Path, small: tuple[str, ...]):
    two = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu", "tracking.wandb=disabled")
    fitted = rar(folder, "fit", "recipe=ranker_lora", "out=run", *small, *two)
    assert fitted.returncode == 0, fitted.stderr
    evaluated = rar(folder, "eval", "--ckpt", "run", "eval.seeds=[1]")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "rar_untuned" in evaluated.stdout and (folder / "run" / "eval").is_dir()
