"""The public names: imported lazily, and the examples of their docstrings run."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import data_prep
import eval as evaluation
from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.settings import RetrieverArgs
from rar_train.ranker.train import train_ranker
from tests.commands import environment
from tests.tiny_recipes import tiny_recipes

PUBLIC = {
    "data_prep": ("Encoder", "Memory", "load_encoder", "read_dataset"),
    "eval": ("Recognizer", "Ranker"),
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run in ``runs/ranker_lora`` and images of three classes in ``photographs``."""
    folder = tmp_path_factory.mktemp("workplace")
    settings = "optim.max_steps=1 trainer.checkpoint_every=1 trainer.val_examples=4 trainer.val_generate_examples=0"
    train_ranker(tiny_recipes(folder / "cache", settings)(folder / "runs" / "ranker_lora"))
    for name, blazon in zip(("bend", "cross", "saltire"), draw_classes("base", 3, 1, 0), strict=True):
        (folder / "photographs" / name).mkdir(parents=True)
        for number in range(6):
            image = render(blazon, 96, np.random.default_rng([number, len(name)]))
            image.save(folder / "photographs" / name / f"{number}.png")
    return folder


@pytest.mark.parametrize("name", [f"{package}.{name}" for package, names in PUBLIC.items() for name in names])
def test_the_docstrings_example_runs(name: str, workplace: Path, monkeypatch):
    monkeypatch.chdir(workplace)
    package, _, attribute = name.partition(".")
    public = getattr({"data_prep": data_prep, "eval": evaluation}[package], attribute)
    module = importlib.import_module(public.__module__)
    examples = [test for test in doctest.DocTestFinder(recurse=False).find(public, attribute, module) if test.examples]
    assert examples, f"{name}: its docstring has no example"
    for test in examples:
        test.globs.update(np=np, Path=Path, RetrieverArgs=RetrieverArgs)
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        said: list[str] = []
        runner.run(test, out=said.append)
        assert not runner.summarize(verbose=False).failed, "".join(said)


@pytest.mark.parametrize("package", PUBLIC)
def test_a_package_lists_its_public_names_and_imports_none_of_them_by_itself(package: str):
    code = f"import sys, {package}; print('torch' in sys.modules, *sorted(dir({package})))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    loaded, *names = done.stdout.split()
    assert loaded == "False" and set(PUBLIC[package]) <= set(names)


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'eval' has no attribute 'Recogniser'"):
        _ = evaluation.Recogniser
