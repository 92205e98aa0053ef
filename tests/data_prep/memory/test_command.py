"""The memory command, called in this process: classes are added and removed, and errors are clear."""

import re
from pathlib import Path

import pytest

from data_prep.core.errors import UserError
from data_prep.core.files import file_lock
from data_prep.memory.__main__ import main
from data_prep.memory.stored import StoredMemory

BUILD = (
    "recipe=ranker_lora",
    "data.armory.test_classes=8",
    "data.armory.memory_images=4",
    "data.armory.query_images=2",
    "data.armory.size=48",
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def memory(workspace):
    folder = workspace / "mem"
    main(["build", str(folder), *BUILD, f"cache={workspace / 'cache'}"])
    return str(folder)


def modification_times(memory: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path(memory).rglob("*") if path.name != ".memory.lock"}


def entry_counts(memory: str, capsys) -> dict[str, str]:
    capsys.readouterr()
    main(["check", memory, "k=2", "sample=10"])
    return dict(re.findall(r"(\w+): (\d+) entries, flat: recall@2 1\.0000 against exact", capsys.readouterr().out))


def test_a_class_is_added_once_and_removed(memory, workspace, draw_picture, capsys, caplog):
    assert entry_counts(memory, capsys) == {"images": "32", "names": "8"}
    images = workspace / "new"
    for number in range(3):
        draw_picture(images / f"{number}.png", number)
    (images / "broken.png").write_bytes(b"no image")
    (images / "2.png").rename(images / "2")  # recognised as an image by its content
    (images / "._0.png").write_bytes(b"left by macOS")
    caplog.set_level("INFO", "data_prep")
    main(["add", memory, "name=a new one", str(images)])
    assert "new class a new one" in caplog.text
    assert "added 3 images of a new one; 1 skipped or already in it" in caplog.text
    main(["add", memory, "name=a new one", str(images), str(draw_picture(workspace / "more.png", 9))])
    assert "added 1 images of a new one; 4 skipped" in caplog.text
    assert entry_counts(memory, capsys) == {"images": "36", "names": "9"}
    main(["remove", memory, "name=a  new\u200b one "])
    assert "removed a new one with 4 images" in caplog.text
    assert entry_counts(memory, capsys) == {"images": "32", "names": "8"}


def test_an_existing_file_with_an_equals_sign_in_its_name_is_not_a_setting(memory, workspace, draw_picture, capsys):
    draw_picture(workspace / "w=800&h=600.png", 20)
    draw_picture(workspace / "page=3" / "seed=1.png", 21)
    paths = [str(workspace / "w=800&h=600.png"), str(workspace / "page=3")]
    main(["add", memory, "name=equal=ly", *paths, "trainer.devices=1"])
    assert entry_counts(memory, capsys) == {"images": "34", "names": "9"}
    main(["remove", memory, "name=EQUAL=LY "])  # names match regardless of case
    assert entry_counts(memory, capsys) == {"images": "32", "names": "8"}


def test_commands_that_change_a_memory_hold_its_lock_from_reading_to_writing(memory, workspace, monkeypatch):
    locked_folders = []

    def load_while_locked(folder, settings):
        with pytest.raises(UserError, match="another command"), file_lock(folder / "memory", 0.01):
            pass
        locked_folders.append(folder)
        raise UserError("far enough")

    monkeypatch.setattr(StoredMemory, "load", load_while_locked)
    for command in ("add", "remove"):
        with pytest.raises(UserError, match="far enough"):
            main([command, memory, "name=x"])
    assert len(locked_folders) == 2


def test_classes_are_listed_and_the_class_of_an_added_image_is_found_first(memory, workspace, draw_picture, capsys):
    new, damaged = draw_picture(workspace / "searched.png", 40), workspace / "damaged.png"
    damaged.write_bytes(b"no image")
    main(["add", memory, "name=searched", str(new)])
    capsys.readouterr()
    main(["list", memory])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and "1\tsearched" in lines and sum(line.startswith("4\t") for line in lines) == 8
    main(["search", memory, str(new), str(damaged), "k=3"])
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{new}: searched \d\.\d{{3}}(, .* -?\d\.\d{{3}}){{2}}", line)
    main(["search", memory, str(new), "k=100", "source=image"])
    assert "searched 1.000, " in capsys.readouterr().out
    main(["remove", memory, "name=searched"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["remove", "MEM", "name=nobody"], "mem: contains no class nobody"),
        (["add", "MEM", "name=x", "nowhere.png"], "nowhere.png: no such image or folder"),
        (["add", "MEM", "name=x", "seed=1.png"], "seed=1.png: no such image or folder"),
        (["add", "MEM", "name=x", "here/seed=1"], "here/seed=1: no such image or folder"),
        (["add", "MEM", "name=x", "retriever.bach_size=1"], "did you mean retriever.batch_size?"),
        (["add", "nowhere", "name=x"], "nowhere: no memory there"),
        (["add", "MEM"], "give name=CLASS"),
        (["check", "MEM", "k=0"], "k=0"),
        (["check", "nowhere"], "nowhere: no memory there"),
        (["check"], "arguments are required: folder"),
        (["check", __file__], "test_command.py: is a file; give the memory's folder"),
        (["grow", "MEM"], "invalid choice: 'grow'"),
        (["search", "MEM", "k=2"], "give images, or folders of them"),
        (["search", "MEM", __file__, "source=texts"], "source=texts: must be one of"),
        (["search", "MEM", __file__, "k=0"], "k=0: give a whole number above 0"),
        (["list", "MEM", "k=2"], "k=2: list takes the folder alone"),
        (["list", "nowhere"], "nowhere: no memory there"),
        (["build", "other", *BUILD, "part=tests"], "part=tests: must be one of train"),
        (["add", "MEM", "name=x", "retriever.dtype=bfloat16"], "this memory was made with encoder nano-clip-"),
        (["add", "MEM", "name=x", "retriever.mmap=true"], "retriever.mmap=true"),
    ],
)
def test_wrong_arguments_are_refused_and_leave_the_memory_unchanged(memory, arguments, message, capsys):
    before = modification_times(memory)
    with pytest.raises(UserError) as caught:
        main([memory if argument == "MEM" else argument for argument in arguments])
    assert message in str(caught.value)
    assert modification_times(memory) == before
