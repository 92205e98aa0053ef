"""A checkpoint is complete with all its files, or it is skipped and reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from rar_train.engine.checkpoint_files import (
    checkpoint_path,
    find_newest_checkpoint,
    remove_old_checkpoints,
    steps_done,
    write_checksums,
)
from tests.damage import KINDS, damage


def save_checkpoint(folder: Path, step: int, split: bool = False, needed: tuple[int, ...] = ()) -> Path:
    """Writes a checkpoint with an adapter, as training does; with ``split``, over several files as DeepSpeed does."""
    final = checkpoint_path(folder, step)
    adapter = final.with_suffix(".adapter")
    adapter.mkdir(parents=True)
    (adapter / "weights").write_bytes(bytes(range(200)))
    part = folder / ".part"
    if split:
        (part / "checkpoint").mkdir(parents=True)
        for rank in range(2):
            (part / "checkpoint" / f"rank-{rank}.pt").write_bytes(b"state of one rank")
        (part / "latest").write_text("checkpoint")
    else:
        part.write_bytes(b"state of all ranks")
    write_checksums(final, part, [adapter], needed)
    part.rename(final)
    return final


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_without_checkpoints_there_is_no_newest(tmp_path):
    assert find_newest_checkpoint(tmp_path / "nowhere") is None
    assert find_newest_checkpoint(tmp_path) is None
    assert steps_done(None) == 0


@pytest.mark.parametrize("split", [False, True], ids=["file", "folder"])
def test_the_newest_checkpoint_is_used_and_a_partial_one_is_not(tmp_path, split, caplog):
    save_checkpoint(tmp_path, 900, split)
    last = save_checkpoint(tmp_path, 1000, split)
    (tmp_path / ".step-00001100.ckpt.host-1-abcdef12.part").touch()
    assert find_newest_checkpoint(tmp_path) == last and steps_done(last) == 1000
    assert not caplog.records


FILES = {
    "file": ("step-00000006.ckpt", "step-00000006.json", "step-00000006.adapter/weights"),
    "folder": (
        "step-00000006.ckpt/latest", "step-00000006.ckpt/checkpoint/rank-1.pt", "step-00000006.json",
        "step-00000006.adapter/weights",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "file"), [(shape, file) for shape, files in FILES.items() for file in files])
def test_damage_to_any_file_is_reported_and_the_checkpoint_before_is_used(tmp_path, shape, file, kind, caplog):
    before = save_checkpoint(tmp_path, 4, shape == "folder")
    save_checkpoint(tmp_path, 6, shape == "folder")
    damage(tmp_path / file, kind)
    newest = find_newest_checkpoint(tmp_path)
    if file.endswith(".ckpt") and kind == "removed":  # indistinguishable from one that never existed
        assert not caplog.records
    else:
        assert str(tmp_path / file) in caplog.text and "goes on from step-00000004.ckpt" in caplog.text
    assert newest == before


def test_where_no_checkpoint_is_intact_training_starts_over_and_logs_it(tmp_path, caplog):
    for step in (2, 4):
        damage(save_checkpoint(tmp_path, step), "flipped")
    assert find_newest_checkpoint(tmp_path) is None
    assert all(f"step-0000000{step}.ckpt: damaged" in caplog.text for step in (2, 4))
    assert "goes on from the beginning" in caplog.text


def test_an_adapter_that_the_end_needs_belongs_to_every_later_checkpoint(tmp_path):
    first = save_checkpoint(tmp_path, 1)
    save_checkpoint(tmp_path, 2)
    save_checkpoint(tmp_path, 4, needed=(2,))
    last = save_checkpoint(tmp_path, 6, needed=(2,))
    damage(checkpoint_path(tmp_path, 2), "flipped")  # its state is no longer needed
    assert find_newest_checkpoint(tmp_path) == last
    damage(tmp_path / "step-00000002.adapter" / "weights", "flipped")
    assert find_newest_checkpoint(tmp_path) == first


def test_removal_keeps_the_newest_and_the_protected_and_removes_skipped_later_ones(tmp_path):
    for step in (2, 4, 6, 8, 12):
        save_checkpoint(tmp_path, step, split=step == 6)
    remove_old_checkpoints(tmp_path, 8, 2, [2])
    assert names(tmp_path) == {
        f"step-0000000{step}.{kind}" for step in (2, 6, 8) for kind in ("ckpt", "adapter", "json")
    }
