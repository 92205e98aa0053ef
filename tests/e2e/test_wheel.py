"""A built wheel works from an empty folder: commands, console scripts, templates, recipes and embedded models."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.commands import environment

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_an_installed_wheel_fits_and_evaluates_in_an_empty_folder(small, tmp_path: Path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*build, tmp_path / "dist", ROOT], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.startswith(("tests/", "benchmarks/"))]
        archive.extractall(tmp_path / "site")
    scripts = next((tmp_path / "site").glob("*.dist-info")) / "entry_points.txt"
    assert scripts.read_text(encoding="utf-8").split() == ["[console_scripts]", "rar", "=", "rar_train.cli:console"]

    empty = tmp_path / "empty"
    empty.mkdir()
    around = environment() | {"PYTHONPATH": str(tmp_path / "site")}

    def run(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], cwd=empty, env=around, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert Path(run("-c", "import eval; print(eval.__file__)").strip()).is_relative_to(tmp_path / "site")
    settings = [*small, "tracking.wandb=disabled"]
    run("-m", "rar_train.fit", "recipe=ranker_lora", "out=run", *settings)
    run("-m", "data_prep.build", "recipe=ranker_lora", "out=run", *settings)
    assert "rar_untuned" in run("-m", "eval.run", "--ckpt", "run", "eval.seeds=[1]")
    assert (empty / "run" / "eval" / "test-likelihood" / "report.html").is_file()
    run("-m", "rar_train.doctor", "recipe=ranker_lora")
    for command in ("rar_train.lite", "rar_train.export", "eval.demo", "eval.detection", "data_prep.memory"):
        assert run("-m", command, "--help")
