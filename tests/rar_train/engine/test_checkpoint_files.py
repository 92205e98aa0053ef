"""A checkpoint is whole with all that belongs to it, or it is passed over and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from rar_train.engine.checkpoint_files import checkpoint_path, newest_whole, steps_done, tidy, write_note
from tests.damage import KINDS, damage


def saved(folder: Path, step: int, split: bool = False, needed: tuple[int, ...] = ()) -> Path:
    """A checkpoint with an adapter, as a training leaves it; split over files as DeepSpeed does."""
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
        part.write_bytes(b"state of the whole")
    write_note(final, part, [adapter], needed)
    part.rename(final)
    return final


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_without_checkpoints_there_is_no_newest(tmp_path):
    assert newest_whole(tmp_path / "nowhere") is None
    assert newest_whole(tmp_path) is None
    assert steps_done(None) == 0


@pytest.mark.parametrize("split", [False, True], ids=["file", "folder"])
def test_the_newest_is_taken_and_what_a_kill_left_is_not(tmp_path, split, caplog):
    saved(tmp_path, 900, split)
    last = saved(tmp_path, 1000, split)
    (tmp_path / ".step-00001100.ckpt.host-1-abcdef12.part").touch()
    assert newest_whole(tmp_path) == last and steps_done(last) == 1000
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
def test_damage_to_any_file_is_named_and_the_one_before_is_taken(tmp_path, shape, file, kind, caplog):
    before = saved(tmp_path, 4, shape == "folder")
    saved(tmp_path, 6, shape == "folder")
    damage(tmp_path / file, kind)
    found = newest_whole(tmp_path)
    if file.endswith(".ckpt") and kind == "removed":  # it was never there, as far as anyone can see
        assert not caplog.records
    else:
        assert str(tmp_path / file) in caplog.text and "goes on from step-00000004.ckpt" in caplog.text
    assert found == before


def test_where_none_is_whole_it_begins_again_and_says_so(tmp_path, caplog):
    for step in (2, 4):
        damage(saved(tmp_path, step), "flipped")
    assert newest_whole(tmp_path) is None
    assert all(f"step-0000000{step}.ckpt: damaged" in caplog.text for step in (2, 4))
    assert "goes on from the beginning" in caplog.text


def test_an_adapter_that_the_end_needs_belongs_to_every_later_checkpoint(tmp_path):
    first = saved(tmp_path, 1)
    saved(tmp_path, 2)
    saved(tmp_path, 4, needed=(2,))
    last = saved(tmp_path, 6, needed=(2,))
    damage(checkpoint_path(tmp_path, 2), "flipped")  # its state is not needed any more
    assert newest_whole(tmp_path) == last
    damage(tmp_path / "step-00000002.adapter" / "weights", "flipped")
    assert newest_whole(tmp_path) == first


def test_tidying_keeps_the_newest_and_the_chosen_whole_and_takes_what_was_passed_over(tmp_path):
    for step in (2, 4, 6, 8, 12):
        saved(tmp_path, step, split=step == 6)
    tidy(tmp_path, 8, 2, [2])
    assert names(tmp_path) == {
        f"step-0000000{step}.{kind}" for step in (2, 6, 8) for kind in ("ckpt", "adapter", "json")
    }
