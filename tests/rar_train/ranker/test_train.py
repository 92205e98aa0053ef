"""A training run end to end: trained once, reused, refused, and resumed bit for bit."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, read_json, read_sealed
from data_prep.distributed import processes
from data_prep.settings import RankerArgs
from data_prep.settings.loading import load_recipe
from rar_train.engine.run_folder import claim_run_folder, find_adapter, note_start
from rar_train.models.loading import load_mllm
from rar_train.models.lora import load_adapter
from rar_train.projector.train import train_projector
from rar_train.ranker.train import train_ranker
from rar_train.retriever.train import train_retriever
from tests.damage import contents

CLAIMED = ("recipe.yaml", "run.json")  # written by every call


def adapter_hash(out: Path) -> str:
    return file_hash(out / "adapter" / "adapter_model.safetensors")


def simulate_kill_after(out: Path, step: int) -> None:
    """Removes everything that a run wrote after its checkpoint at a step."""
    shutil.rmtree(out / "adapter", ignore_errors=True)
    for path in (out / "checkpoints").iterdir():
        if int(path.stem.split("-")[1]) > step:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_metrics(out: Path, start_step: int) -> list[dict]:
    with open(out / "log" / f"from-step-{start_step:06d}" / "metrics.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in csv.DictReader(file)]
    # Throughput is in separate rows and differs from run to run.
    return [row for row in rows if any(value for key, value in row.items() if key not in ("step", "epoch"))]


def test_a_run_leaves_an_adapter_that_loads_its_recipe_and_its_metrics(finished):
    loaded = load_adapter(load_mllm(RankerArgs()), finished / "adapter")
    assert any("lora_" in name for name, _ in loaded.model.named_parameters())
    assert (finished / "recipe.yaml").is_file()
    rows = read_metrics(finished, 0)
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [0, 1, 2, 3]
    validated = [row for row in rows if row["val/letters"]]
    assert [int(row["step"]) for row in validated] == [0, 1, 2, 3]
    assert all(0 <= float(row[f"val/{mode}"]) <= 1 for row in validated for mode in ("letters", "likelihood"))


def test_the_manifest_records_what_the_adapter_was_trained_on(finished, nano):
    manifest = read_json(finished / "adapter" / "manifest.json")
    assert manifest["base_model"] == nano.id
    assert (manifest["step"], manifest["processes"]) == (4, 1)
    assert manifest["encoder"].startswith("nano-clip-")
    assert manifest["adapter"] == adapter_hash(finished)
    shards = Path(read_sealed(finished / "data.json")["train"])
    assert manifest["data"] == {name: file_hash(shards / name) for name in manifest["data"]}


def test_a_complete_run_is_reused_untouched(finished, tiny):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.name not in CLAIMED}
    assert train_ranker(tiny(finished)) == finished
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.name not in CLAIMED} == before


def test_another_folder_and_the_same_recipe_give_the_same_adapter(finished, tiny, tmp_path):
    assert adapter_hash(train_ranker(tiny(tmp_path / "again"))) == adapter_hash(finished)


def test_several_threads_give_the_same_bits_each_time(tiny, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = [train_ranker(tiny(tmp_path / name, "optim.batch_size=16")) for name in ("one", "other")]
    finally:
        torch.set_num_threads(threads)
    assert len({adapter_hash(run) for run in runs}) == 1


def test_another_seed_gives_another_adapter(finished, tiny, tmp_path):
    assert adapter_hash(train_ranker(tiny(tmp_path / "other", "seed=1"))) != adapter_hash(finished)


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["ranker.lora.dropout=0.1"],
        ["ranker.lora.dropout=0.1", "optim.epochs=2", "optim.batch_size=8", "optim.max_steps=9"],
        ["ranker.lora.dropout=0.1", "optim.grad_accum_steps=2", "optim.batch_size=2"],
    ],
    ids=["plain", "dropout", "epochs", "accumulate"],
)
def test_a_run_killed_before_its_last_checkpoint_and_resumed_gives_the_same_bits(tiny, tmp_path, changes):
    recipe = tiny(tmp_path / "run", *changes)
    out = train_ranker(recipe)
    expected, all_metrics = adapter_hash(out), read_metrics(out, 0)
    killed = 3 if recipe.optim.max_steps == 4 else 8  # of 9, in the second epoch; validated at 2, 4, 6, 8 and 9
    simulate_kill_after(out, killed)
    train_ranker(recipe)
    assert adapter_hash(out) == expected
    late = [row for row in all_metrics if int(row["step"]) >= killed]
    assert read_metrics(out, killed) == late != []


def test_the_number_of_validations_changes_no_bit_of_the_adapter(tiny, tmp_path):
    adapters = set()
    for every, validated in ((1, [0, 1, 2, 3, 4, 5, 6]), (1000, [1, 3, 5, 6])):
        more = ("optim.max_steps=7", "ranker.lora.dropout=0.1", f"trainer.checkpoint_every={every}")
        out = train_ranker(tiny(tmp_path / str(every), *more))
        adapters.add(adapter_hash(out))
        assert [int(row["step"]) for row in read_metrics(out, 0) if row["val/letters"]] == validated
    assert len(adapters) == 1


def test_workers_and_their_number_change_no_bit_of_a_resumed_run_and_tokenize_silently(finished, tiny, tmp_path, capfd):
    out = train_ranker(tiny(tmp_path / "run", "trainer.num_workers=2"))
    assert adapter_hash(out) == adapter_hash(finished)
    simulate_kill_after(out, 3)
    train_ranker(tiny(out, "trainer.num_workers=1"))
    assert adapter_hash(out) == adapter_hash(finished)
    assert "parallelism" not in capfd.readouterr().err


def test_a_run_killed_twice_after_the_same_step_gives_the_same_bits_with_accumulation(tiny, tmp_path):
    recipe = tiny(tmp_path / "run", "optim.grad_accum_steps=2", "optim.batch_size=2")
    out = train_ranker(recipe)
    expected = adapter_hash(out)
    for _ in range(2):
        simulate_kill_after(out, 3)
        train_ranker(recipe)
        assert adapter_hash(out) == expected


def test_a_run_killed_between_its_last_checkpoint_and_its_adapter_saves_the_adapter(tiny, tmp_path):
    recipe = tiny(tmp_path / "run")
    out = train_ranker(recipe)
    expected = contents(out / "adapter")
    shutil.rmtree(out / "adapter")
    train_ranker(recipe)
    assert contents(out / "adapter") == expected  # its manifest too, with the metrics of the last validation


def test_a_folder_with_other_settings_is_refused_and_the_differences_are_named(tiny, tmp_path):
    out = tmp_path / "run"
    claim_run_folder(tiny(out))
    note_start(tiny(out))
    with pytest.raises(UserError) as caught:
        claim_run_folder(tiny(out, "optim.lr=0.5", "ranker.lora.rank=3"))
    message = str(caught.value)
    assert "optim.lr: 0.001 -> 0.5" in message and "ranker.lora.rank: 16 -> 3" in message
    assert "trainer.resume=false" in message
    claim_run_folder(tiny(out))  # the saved recipe is still the first


def test_a_run_that_was_refused_before_it_trained_leaves_its_folder_to_other_settings(tiny, tmp_path, caplog):
    out, bad = tmp_path / "run", tmp_path / "pets"
    for number in range(8):
        (bad / "cat").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (9 * number, 0, 0)).save(bad / "cat" / f"{number}.png")
    with pytest.raises(UserError, match="has a single class"):
        train_ranker(tiny(out, "data.name=folder", f"data.root={bad}"))
    caplog.set_level("INFO", "rar_train")
    assert train_ranker(tiny(out, "optim.max_steps=1")) == out
    assert f"{out} holds a run that never began to train; its settings are replaced" in caplog.text
    assert find_adapter(out) == (out / "adapter", out)
    with pytest.raises(UserError, match="holds a run with other settings"):
        train_ranker(tiny(out, "optim.max_steps=1", "optim.lr=0.5"))


def test_a_run_that_never_trained_may_be_replaced_again_and_again(tiny, tmp_path):
    out = tmp_path / "run"
    for rate in (1, 2, 3):
        claim_run_folder(tiny(out, f"optim.lr={rate}"))
    assert "lr: 3" in (out / "recipe.yaml").read_text()


def test_of_two_commands_with_one_folder_the_first_to_train_keeps_it(tiny, tmp_path):
    out = tmp_path / "run"
    first, second = tiny(out), tiny(out, "optim.lr=0.5")
    claim_run_folder(first)  # and while it mines, for hours perhaps
    claim_run_folder(second)
    with pytest.raises(UserError, match=r"another command has since begun a run .*optim.lr: 0.5 -> 0.001"):
        note_start(first)
    note_start(second)
    note_start(second)  # a resumed run notes it again


def test_settings_that_do_not_affect_the_run_may_change(tiny, tmp_path):
    out = tmp_path / "run"
    claim_run_folder(tiny(out))
    free = ["trainer.checkpoint_every=1", "trainer.log_every=3", "eval.shots=[1]", "tracking.wandb=offline"]
    claim_run_folder(tiny(out, *free, f"cache={tmp_path / 'elsewhere'}"))
    assert "checkpoint_every: 1" in (out / "recipe.yaml").read_text()


def test_resume_false_starts_over(tiny, tmp_path):
    out = train_ranker(tiny(tmp_path / "run", "optim.max_steps=2"))
    recipe = tiny(out, "optim.max_steps=1", "trainer.resume=false")
    train_ranker(recipe)
    assert read_json(out / "adapter" / "manifest.json")["step"] == 1
    assert {path.stem for path in (out / "checkpoints").iterdir()} == {"step-00000001"}


def test_resume_false_never_empties_a_folder_that_is_not_a_run(tiny, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds files, but no run; choose another folder"):
        claim_run_folder(tiny(tmp_path, "trainer.resume=false"))
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("launcher", [{"RANK": "1", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, {"SLURM_PROCID": "1"}])
@pytest.mark.parametrize(
    ("train", "task"),
    [(train_ranker, "ranker_lora"), (train_retriever, "retriever_clip"), (train_projector, "mllm_lite")],
)
def test_a_launchers_second_process_waits_for_the_first_and_claims_nothing(
    train, task, launcher, monkeypatch, tmp_path
):
    monkeypatch.setattr(processes, "_START_TIMEOUT", 0)
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("seed: 7\n")
    paths = (f"out={run}", f"cache={tmp_path / 'cache'}", "trainer.resume=false", "trainer.accelerator=cpu")
    recipe = load_recipe([f"recipe={task}", *paths, "trainer.strategy=ddp", "trainer.devices=2"])
    with pytest.raises(UserError, match="process 0 of 2 did not start"):
        train(recipe)
    assert (run / "recipe.yaml").read_text() == "seed: 7\n" and len(list(run.iterdir())) == 1


def test_a_run_folder_may_be_moved(tiny, tmp_path):
    claim_run_folder(tiny(tmp_path / "one"))
    (tmp_path / "one").rename(tmp_path / "two")
    claim_run_folder(tiny(tmp_path / "two"))
