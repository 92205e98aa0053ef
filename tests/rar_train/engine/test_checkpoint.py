"""Checkpoints are complete, small and few, and training resumes from them."""

from __future__ import annotations

import resource
import shutil

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from safetensors import SafetensorError

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, read_json
from data_prep.core.saving import write_errors
from rar_train.engine.checkpoint import AdapterCheckpoints, Checkpoints
from rar_train.engine.checkpoint_files import find_newest_checkpoint
from rar_train.ranker.train import train_ranker


def test_the_last_two_checkpoints_and_the_best_are_kept_each_with_its_adapter(tiny, tmp_path):
    out = train_ranker(tiny(tmp_path / "run", "trainer.checkpoint_every=1"))
    best = read_json(out / "best.json")
    assert best["metric"] == "val/likelihood" and 0 <= best["value"] <= 1
    names = {path.name for path in (out / "checkpoints").iterdir()}
    assert names == {
        f"step-0000000{step}.{kind}" for step in {3, 4, best["step"]} for kind in ("ckpt", "adapter", "json")
    }


def test_a_checkpoint_contains_step_data_position_and_only_lora_weights(finished):
    state = torch.load(finished / "checkpoints" / "step-00000003.ckpt", weights_only=True)
    assert state["global_step"] == 3
    assert state["RankingData"] == {"batches": 3}
    assert state["state_dict"] and all("lora_" in name for name in state["state_dict"])


def test_each_checkpoint_has_its_adapter_and_the_last_is_the_runs(finished):
    folder = finished / "checkpoints"
    early, last = (read_json(folder / f"step-0000000{step}.adapter" / "manifest.json") for step in (3, 4))
    assert (early["step"], last["step"]) == (3, 4)
    assert early["adapter"] == file_hash(folder / "step-00000003.adapter" / "adapter_model.safetensors")
    assert early["adapter"] != last["adapter"] == read_json(finished / "adapter" / "manifest.json")["adapter"]


def make_checkpoints(tiny, tmp_path, *changes: str) -> AdapterCheckpoints:
    return AdapterCheckpoints(tiny(tmp_path / "run", *changes), {})


class FakeTrainer:
    """The attributes of a Trainer that decide on the best step."""

    is_global_zero, should_stop, global_step = True, False, 0
    callback_metrics: dict = {}
    strategy = SingleDeviceStrategy(torch.device("cpu"))


def test_the_best_step_is_the_first_of_the_highest_accuracy_and_patience_counts_from_it(tiny, tmp_path, monkeypatch):
    checkpoints = make_checkpoints(tiny, tmp_path, "trainer.patience=2")
    monkeypatch.setattr(checkpoints, "save", lambda *_: None)
    trainer, stopped = FakeTrainer(), []
    for step, accuracy in enumerate([0.5, 0.75, 0.75, 0.25], 1):
        trainer.global_step, trainer.callback_metrics = step, {"val/likelihood": torch.tensor(accuracy)}
        checkpoints.on_validation_end(trainer, None)
        stopped.append(trainer.should_stop)
    assert (checkpoints.best_step, checkpoints.best_value) == (2, 0.75)
    assert stopped == [False, False, False, True]
    resumed, trainer = make_checkpoints(tiny, tmp_path, "trainer.patience=2"), FakeTrainer()
    resumed.load_state_dict(checkpoints.state_dict())
    resumed.on_train_start(trainer, None)  # killed after it stopped: it stays stopped
    assert trainer.should_stop and resumed.best == checkpoints.best


def test_early_stopping_leaves_the_best_adapter_and_stays_stopped_when_resumed(tiny, tmp_path):
    # A rate of zero changes nothing, so the second validation is no better than the first.
    settings = ("optim.lr=0", "trainer.patience=1", "trainer.checkpoint_every=1", "trainer.adapter=best")
    recipe = tiny(tmp_path / "run", *settings)
    out = train_ranker(recipe)
    assert read_json(out / "adapter" / "manifest.json")["step"] == read_json(out / "best.json")["step"] == 1
    assert find_newest_checkpoint(out / "checkpoints").stem == "step-00000002"
    expected = file_hash(out / "adapter" / "adapter_model.safetensors")
    shutil.rmtree(out / "adapter")
    train_ranker(recipe)
    assert find_newest_checkpoint(out / "checkpoints").stem == "step-00000002"
    assert file_hash(out / "adapter" / "adapter_model.safetensors") == expected


def test_a_manifest_contains_versions_recipe_prompts_and_validation_metrics(finished):
    manifest = read_json(finished / "checkpoints" / "step-00000003.adapter" / "manifest.json")
    assert {"torch", "transformers", "peft"} == set(manifest["versions"])
    assert manifest["recipe"]["optim"]["batch_size"] == 4 and "out" not in manifest["recipe"]
    assert "NAME" in manifest["prompts"]["letters"]
    assert {"loss", "letters", "likelihood", "retriever", "generate"} <= set(manifest["validation"])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            FileNotFoundError(2, "No such file"),
            r"Of its path only .*run is left .* put the folder back, and",
        ),
        (OSError(28, "No space left"), r"Make room \(.* GB are free\), or allow writing to .*run, and give the same"),
        (SafetensorError("I/O error: Read-only file system"), r"\(I/O error: Read-only .*allow writing to .*run, and"),
    ],
)
def test_a_write_error_names_the_file_and_a_remedy(tmp_path, error, message):
    (tmp_path / "run").mkdir()
    refused = pytest.raises(UserError, match=rf"step-1\.ckpt: could not be written .*{message}")
    with refused, write_errors(tmp_path / "run" / "checkpoints" / "step-1.ckpt"):
        raise error


def test_a_run_folder_that_was_removed_is_not_created_again(tiny, tmp_path):
    checkpoints = Checkpoints(tiny(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"put the folder back"):
        checkpoints.save(FakeTrainer(), None, 1)
    assert not (tmp_path / "gone").exists()


def test_a_full_disk_is_an_error_and_the_checkpoint_before_it_stays_valid(tiny, tmp_path, monkeypatch):
    recipe = tiny(tmp_path / "run", "trainer.checkpoint_every=1")
    expected = file_hash(train_ranker(tiny(tmp_path / "undisturbed")) / "adapter" / "adapter_model.safetensors")
    save, sizes = Checkpoints.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(self, trainer, module, step):
        # From the third step on no file may grow beyond 100 kB; the system reports it like a full disk.
        if step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, sizes[1]))
        try:
            save(self, trainer, module, step)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, sizes)

    monkeypatch.setattr(Checkpoints, "save", limited)
    with pytest.raises(UserError, match=r"step-00000003\.ckpt: could not be written .* checkpoints before it are kept"):
        train_ranker(recipe)
    monkeypatch.undo()
    remaining = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert find_newest_checkpoint(tmp_path / "run" / "checkpoints").stem == "step-00000002"
    assert not any(name.endswith(".part") for name in remaining)
    assert train_ranker(recipe) == tmp_path / "run"
    assert file_hash(tmp_path / "run" / "adapter" / "adapter_model.safetensors") == expected
