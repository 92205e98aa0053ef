"""Reuse of complete evaluations: only where nothing that they depend on has changed, and no file of theirs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from eval.recognition import reuse
from eval.run import main

FEW = ("eval.shots=[1]", "eval.seeds=[1]", "eval.zero_shot=false", "eval.ranker_only_images=0", "--name", "few")


@pytest.fixture(scope="module")
def run(finished: Path, tmp_path_factory) -> Path:
    """A run with a complete evaluation."""
    run = shutil.copytree(finished, tmp_path_factory.mktemp("reuse") / "run")
    main(["--ckpt", str(run), *FEW])
    return run


@pytest.fixture
def again(run, caplog, capsys):
    """Evaluates again; returns whether the evaluation was reused, and what was printed."""

    def evaluate(*settings: str) -> tuple[bool, str]:
        caplog.clear()
        capsys.readouterr()
        with caplog.at_level("INFO"):
            main(["--ckpt", str(run), *FEW, *settings])
        return "reusing" in caplog.text and "ranking by" not in caplog.text, capsys.readouterr().out

    return evaluate


def contents(run: Path) -> dict[Path, bytes]:
    """The files of all evaluations, apart from their index, which names the minute of each."""
    files = (path for path in (run / "eval").rglob("*") if path.is_file() and path.name != "index.html")
    return {path: path.read_bytes() for path in files}


def test_the_same_command_prints_the_same_and_leaves_all_files_as_they_are(run, again):
    (run / "eval" / "few" / "complete.json").unlink()  # as if it had been killed when only the note was missing
    is_reused, printed = again()
    before = contents(run)
    assert not is_reused
    assert again() == (True, printed)
    assert contents(run) == before


@pytest.mark.parametrize(
    "name", ["results.json", "predictions.jsonl.gz", "pictures.json", "report.html", "predictions.csv", "classes.csv"]
)
def test_a_file_that_is_missing_or_damaged_is_written_again(name, run, again):
    before, path = contents(run), run / "eval" / "few" / name
    path.unlink() if name == "report.html" else path.write_bytes(path.read_bytes()[:-20])
    assert not again()[0]
    assert contents(run) == before
    assert again()[0]


def test_other_code_and_an_evaluation_that_the_tracker_has_not_had_are_evaluated(run, again, monkeypatch):
    assert again("tracking.project=other")[0], "nothing is tracked"
    for settings, is_reused in (((), False), ((), True), (("tracking.project=other",), False)):
        assert again("tracking.wandb=offline", *settings)[0] == is_reused
    assert again()[0], "the tracker is off"
    monkeypatch.setattr("eval.recognition.evaluate.hash_code", lambda: "other")
    assert not again()[0]
    assert again()[0]


def test_the_hash_of_the_code_changes_with_a_line_or_a_template(monkeypatch, tmp_path):
    for name in reuse._PACKAGES:
        shutil.copytree(reuse.PACKAGES / name, tmp_path / name, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    monkeypatch.setattr(reuse, "PACKAGES", tmp_path)
    hashes = []
    for name in (None, "eval/metrics/accuracy.py", "eval/report/templates/page.css"):
        if name:
            (tmp_path / name).write_text((tmp_path / name).read_text() + "\n")
        reuse.hash_code.cache_clear()
        hashes.append(reuse.hash_code())
    reuse.hash_code.cache_clear()
    assert len(set(hashes)) == 3
