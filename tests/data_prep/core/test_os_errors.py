"""Errors of the operating system in words: the path, what is wrong, what to do; whichever process met them."""

import errno
import os
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from data_prep.core.errors import UserError
from data_prep.core.files import write_folder, write_json
from data_prep.core.os_errors import describe_error, describe_error_text


def failed(action, *given) -> Exception:
    with pytest.raises(Exception) as raised:
        action(*given)
    return raised.value


def opened(path: str) -> None:
    open(path).close()


class Files:
    """A data set of files, for the workers of a DataLoader."""

    def __init__(self, path: str):
        self.path = path

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> str:
        if self.path == "own":
            raise UserError("shard-7.tar: damaged; delete it")
        return Path(self.path).read_text()


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    return {
        "missing": tmp_path / "missing",
        "in a file": tmp_path / "file" / "x.json",
        "folder": tmp_path,
        "loop": tmp_path / "loop",
        "long": tmp_path / ("x" * 300),
    }


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("missing", "no such file or folder"),
        ("in a file", "is a file, not a folder"),
        ("folder", "is a folder where a file is needed"),
        ("loop", "links lead in a circle"),
        ("long", "name is too long"),
    ],
)
def test_the_path_and_the_remedy_are_named_in_every_process(place, said, places):
    path = str(places[place])
    with ProcessPoolExecutor(1) as pool:
        errors = [failed(opened, path), failed(pool.submit(opened, path).result)]
    if place in ("missing", "in a file"):
        errors.append(failed(next, iter(DataLoader(Files(path), num_workers=1))))
    for error in errors:
        words = describe_error(error)
        assert words.startswith(f"{path}: ") and said in words and "\n" not in words


def test_what_a_worker_says_in_our_words_is_kept_alone():
    error = failed(next, iter(DataLoader(Files("own"), num_workers=1)))
    assert describe_error(error) == "shard-7.tar: damaged; delete it"


@pytest.mark.parametrize("kind", ["ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE", "EFBIG"])
def test_a_failing_disk_is_seen_through_what_it_led_to(kind, tmp_path):
    number = getattr(errno, kind)

    def written() -> None:
        try:
            raise OSError(number, os.strerror(number), str(tmp_path / ".run.host-12-0123abcd.part/x"))
        except OSError:
            raise RuntimeError("unexpected position 64 vs 0")  # noqa: B904

    words = describe_error(failed(written))
    assert words.startswith(f"{tmp_path / 'run' / 'x'}: ")
    assert words == describe_error(OSError(number, "", str(tmp_path / "run" / "x")))


def test_a_file_that_nothing_could_be_written_to_is_named_by_its_own_name(tmp_path):
    def fill(folder: Path) -> None:
        with write_folder(folder), open("/dev/full", "w") as full:
            full.write("x")

    assert describe_error(failed(fill, tmp_path / "shards")).startswith(f"{tmp_path / 'shards'}: the disk is full")
    (tmp_path / "file").write_text("x")
    words = describe_error(failed(write_json, tmp_path / "file" / "a.json", {}))
    assert words.startswith(f"{tmp_path / 'file'}") and ".part" not in words


def test_texts_of_other_processes_and_libraries_are_read():
    try:
        opened("/nowhere/a")
    except OSError:
        text = f"-- Process 1 terminated with the following error:\n{traceback.format_exc()}"
    assert describe_error_text(text).startswith("/nowhere/a: no such file")
    rust = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert describe_error_text(
        rust
    ) == f"{rust}: {describe_error_text(rust).rpartition(': ')[2]}" and "disk is full" in describe_error_text(rust)


@pytest.mark.parametrize("error", [KeyError("x"), OSError("the hub says no"), ConnectionRefusedError(111, "refused")])
def test_what_a_user_can_do_nothing_about_stays_unexpected(error):
    assert describe_error(error) is None


def test_an_error_that_was_handled_does_not_hide_what_came_after():
    def confused() -> None:
        try:
            opened("/nowhere/a")
        except OSError:
            raise KeyError("bug")  # noqa: B904

    assert describe_error(failed(confused)) is None


def test_errors_that_name_each_other_as_cause_are_read_once():
    one, other = ValueError("one"), OSError(28, "No space left on device", "out/x")
    one.__cause__, other.__cause__ = other, one
    assert describe_error(one).startswith("out/x: the disk is full")
    other.errno = 1000
    assert describe_error(one) is None
