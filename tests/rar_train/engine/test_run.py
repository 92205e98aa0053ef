"""The life of a run with a stub task: it trains once, is reused, resumes, and ends with a barrier."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from data_prep.core.errors import UserError
from data_prep.core.files import read_json, write_folder
from data_prep.core.manifests import seal_folder
from rar_train.engine.checkpoint_files import checkpoint_path, write_checksums
from rar_train.engine.run import Run, train_run


class Task:
    """A training that records its events, and saves a number as its result."""

    def __init__(self):
        self.events: list[str] = []
        self.starts: list[int] = []

    def train(self, run: Run) -> SimpleNamespace:
        assert (Path(run.recipe.out) / "run.json").is_file(), "not claimed yet"
        self.events.append("train")
        self.starts.append(run.start)
        trainer = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(barrier=self.barrier))
        module = SimpleNamespace(parameters=lambda: ())
        run.save(trainer, module, self.write)
        return trainer

    def write(self, folder: Path) -> None:
        self.events.append("write")
        with write_folder(folder) as part:
            (part / "number").write_text("7")
            seal_folder(part, {})

    def barrier(self) -> None:
        self.events.append("barrier")


def test_a_run_trains_and_saves_before_the_barrier(tiny, tmp_path):
    task = Task()
    assert train_run(tiny(tmp_path / "run"), "model", task.train) == tmp_path / "run" / "model"
    assert task.events == ["train", "write", "barrier"]
    assert read_json(tmp_path / "run" / "model" / "manifest.json")["files"].keys() == {"number"}


def test_a_complete_run_is_repaired_and_reused_but_a_damaged_result_is_trained_again(tiny, tmp_path, caplog):
    caplog.set_level("INFO")
    recipe, task = tiny(tmp_path / "run"), Task()
    result = train_run(recipe, "model", task.train)
    train_run(recipe, "model", task.train, repair=lambda: task.events.append("repair"))
    assert task.events == ["train", "write", "barrier", "repair"]
    assert f"{tmp_path / 'run'} is complete; reusing its model" in caplog.text
    (result / "number").write_text("8")
    train_run(recipe, "model", task.train, repair=lambda: task.events.append("repair"))
    assert task.events[4:] == ["train", "write", "barrier"]


def test_a_run_resumes_from_its_newest_intact_checkpoint(tiny, tmp_path):
    recipe, task = tiny(tmp_path / "run"), Task()
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for step in (2, 4):
        part = folder / ".part"
        part.write_bytes(b"weights")
        write_checksums(checkpoint_path(folder, step), part, [], [])
        part.rename(checkpoint_path(folder, step))
    train_run(recipe, "model", task.train)
    checkpoint_path(folder, 4).write_bytes(b"weighty")
    train_run(recipe, "adapter", task.train)
    assert task.starts == [4, 2]


def test_a_result_that_cannot_be_written_is_an_error_that_says_what_to_do(tiny, tmp_path):
    def write(folder: Path) -> None:
        raise OSError("No space left on device")

    task = Task()
    task.write = write
    with pytest.raises(UserError, match=r"model: could not be written \(No space left on device\).*Make room"):
        train_run(tiny(tmp_path / "run"), "model", task.train)
    assert "barrier" not in task.events
