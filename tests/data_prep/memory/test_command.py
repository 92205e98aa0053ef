"""The memory's command, called in this process: classes come and go, and mistakes are named."""

import re
from pathlib import Path

import pytest

from data_prep.core.errors import UserError
from data_prep.core.files import file_lock
from data_prep.memory.commands import main
from data_prep.memory.kept import KeptMemory

BUILD = (
    "recipe=ranker_lora",
    "data.armory.test_classes=8",
    "data.armory.memory_images=4",
    "data.armory.query_images=2",
    "data.armory.size=48",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def memory(place):
    folder = place / "mem"
    main(["build", str(folder), *BUILD, f"cache={place / 'cache'}"])
    return str(folder)


def times(memory: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path(memory).rglob("*") if path.name != ".memory.lock"}


def checked(memory: str, capsys) -> dict[str, str]:
    capsys.readouterr()
    main(["check", memory, "k=2", "sample=10"])
    return dict(re.findall(r"(\w+): (\d+) entries, flat: recall@2 1\.0000 against exact", capsys.readouterr().out))


def test_a_class_is_added_once_and_removed(memory, place, draw_picture, capsys, caplog):
    assert checked(memory, capsys) == {"images": "32", "names": "8"}
    pictures = place / "new"
    for number in range(3):
        draw_picture(pictures / f"{number}.png", number)
    (pictures / "broken.png").write_bytes(b"no image")
    (pictures / "2.png").rename(pictures / "2")  # a picture by its content
    (pictures / "._0.png").write_bytes(b"left by a Mac")
    caplog.set_level("INFO", "data_prep")
    main(["add", memory, "name=a new one", str(pictures)])
    assert "new class a new one" in caplog.text
    assert "added 3 images of a new one; 1 skipped or there already" in caplog.text
    main(["add", memory, "name=a new one", str(pictures), str(draw_picture(place / "more.png", 9))])
    assert "added 1 images of a new one; 4 skipped" in caplog.text
    assert checked(memory, capsys) == {"images": "36", "names": "9"}
    main(["remove", memory, "name=a  new\u200b one "])
    assert "removed a new one with 4 images" in caplog.text
    assert checked(memory, capsys) == {"images": "32", "names": "8"}


def test_files_whose_names_hold_an_equals_sign_are_files(memory, place, draw_picture, capsys):
    draw_picture(place / "w=800&h=600.png", 20)
    draw_picture(place / "page=3" / "seed=1.png", 21)
    main(["add", memory, "name=equal=ly", str(place / "w=800&h=600.png"), str(place / "page=3"), "trainer.devices=1"])
    assert checked(memory, capsys) == {"images": "34", "names": "9"}
    main(["remove", memory, "name=EQUAL=LY "])  # as a name looks
    assert checked(memory, capsys) == {"images": "32", "names": "8"}


def test_what_changes_a_memory_holds_its_lock_from_reading_to_writing(memory, place, monkeypatch):
    waiting = []

    def read(folder, settings):
        with pytest.raises(UserError, match="another command"), file_lock(folder / "memory", 0.01):
            pass
        waiting.append(folder)
        raise UserError("far enough")

    monkeypatch.setattr(KeptMemory, "load", read)
    for command in ("add", "remove"):
        with pytest.raises(UserError, match="far enough"):
            main([command, memory, "name=x"])
    assert len(waiting) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["remove", "MEM", "name=nobody"], "mem: holds no class nobody"),
        (["add", "MEM", "name=x", "nowhere.png"], "nowhere.png: no such image or folder"),
        (["add", "MEM", "name=x", "seed=1.png"], "seed=1.png: no such image or folder"),
        (["add", "MEM", "name=x", "here/seed=1"], "here/seed=1: no such image or folder"),
        (["add", "MEM", "name=x", "retriever.bach_size=1"], "did you mean retriever.batch_size?"),
        (["add", "nowhere", "name=x"], "nowhere: no memory there"),
        (["add", "MEM"], "give name=CLASS"),
        (["check", "MEM", "k=0"], "k=0"),
        (["check", "nowhere"], "nowhere: no memory there"),
        (["check"], "a FOLDER"),
        (["check", __file__], "test_command.py: is a file; give the memory's folder"),
        (["grow", "MEM"], "build, import, add, remove or check"),
        (["build", "other", *BUILD, "part=tests"], "part=tests: must be one of train"),
        (["add", "MEM", "name=x", "retriever.dtype=bfloat16"], "this memory was made with encoder nano-clip-"),
        (["add", "MEM", "name=x", "retriever.mmap=true"], "retriever.mmap=true"),
    ],
)
def test_mistakes_are_named_and_leave_the_memory_alone(memory, arguments, said, capsys):
    before = times(memory)
    with pytest.raises(UserError) as caught:
        main([memory if argument == "MEM" else argument for argument in arguments])
    assert said in str(caught.value)
    assert times(memory) == before
