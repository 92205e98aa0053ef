"""Messages of operating system errors: the path, what is wrong, what to do; whichever process raised them."""

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


def error_of(action, *arguments) -> Exception:
    with pytest.raises(Exception) as raised:
        action(*arguments)
    return raised.value


def open_file(path: str) -> None:
    open(path).close()


class Files:
    """A data set of files, for the workers of a DataLoader."""

    def __init__(self, path: str):
        self.path = path

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> str:
        if self.path == "user error":
            raise UserError("shard-7.tar: damaged; delete it")
        return Path(self.path).read_text()


@pytest.fixture
def bad_paths(tmp_path: Path) -> dict[str, Path]:
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
    ("kind", "expected"),
    [
        ("missing", "no such file or folder"),
        ("in a file", "is a file, not a folder"),
        ("folder", "is a folder where a file is needed"),
        ("loop", "links form a loop"),
        ("long", "name is too long"),
    ],
)
def test_errors_in_any_process_name_the_path_and_the_remedy(kind, expected, bad_paths):
    path = str(bad_paths[kind])
    with ProcessPoolExecutor(1) as pool:
        errors = [error_of(open_file, path), error_of(pool.submit(open_file, path).result)]
    if kind in ("missing", "in a file"):
        errors.append(error_of(next, iter(DataLoader(Files(path), num_workers=1))))
    for error in errors:
        message = describe_error(error)
        assert message.startswith(f"{path}: ") and expected in message and "\n" not in message


def test_a_user_error_in_a_worker_is_reported_without_the_traceback():
    error = error_of(next, iter(DataLoader(Files("user error"), num_workers=1)))
    assert describe_error(error) == "shard-7.tar: damaged; delete it"


@pytest.mark.parametrize("kind", ["ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE", "EFBIG"])
def test_a_disk_failure_is_reported_even_if_it_caused_another_error(kind, tmp_path):
    code = getattr(errno, kind)

    def write() -> None:
        try:
            raise OSError(code, os.strerror(code), str(tmp_path / ".run.host-12-0123abcd.part/x"))
        except OSError:
            raise RuntimeError("unexpected position 64 vs 0")  # noqa: B904

    message = describe_error(error_of(write))
    assert message.startswith(f"{tmp_path / 'run' / 'x'}: ")
    assert message == describe_error(OSError(code, "", str(tmp_path / "run" / "x")))


def test_a_failed_write_is_reported_with_the_final_name_of_the_file(tmp_path):
    def fill(folder: Path) -> None:
        with write_folder(folder), open("/dev/full", "w") as full:
            full.write("x")

    assert describe_error(error_of(fill, tmp_path / "shards")).startswith(f"{tmp_path / 'shards'}: the disk is full")
    (tmp_path / "file").write_text("x")
    message = describe_error(error_of(write_json, tmp_path / "file" / "a.json", {}))
    assert message.startswith(f"{tmp_path / 'file'}") and ".part" not in message


def test_error_texts_of_other_processes_and_libraries_are_understood():
    try:
        open_file("/nowhere/a")
    except OSError:
        text = f"-- Process 1 terminated with the following error:\n{traceback.format_exc()}"
    assert describe_error_text(text).startswith("/nowhere/a: no such file")
    rust = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert describe_error_text(
        rust
    ) == f"{rust}: {describe_error_text(rust).rpartition(': ')[2]}" and "disk is full" in describe_error_text(rust)


@pytest.mark.parametrize("error", [KeyError("x"), OSError("the hub says no"), ConnectionRefusedError(111, "refused")])
def test_an_error_that_a_user_cannot_fix_has_no_message(error):
    assert describe_error(error) is None


def test_an_error_that_was_handled_does_not_hide_a_later_one():
    def fail_after_handling() -> None:
        try:
            open_file("/nowhere/a")
        except OSError:
            raise KeyError("bug")  # noqa: B904

    assert describe_error(error_of(fail_after_handling)) is None


def test_errors_that_name_each_other_as_cause_do_not_loop():
    value_error, disk_error = ValueError("bad"), OSError(28, "No space left on device", "out/x")
    value_error.__cause__, disk_error.__cause__ = disk_error, value_error
    assert describe_error(value_error).startswith("out/x: the disk is full")
    disk_error.errno = 1000
    assert describe_error(value_error) is None
