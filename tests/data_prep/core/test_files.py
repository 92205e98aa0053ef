"""Files and folders are written atomically, damage is detected, and fingerprints depend on contents."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.core.files import (
    file_hash,
    file_lock,
    fingerprint,
    folder_hash,
    part_path,
    read_json,
    read_manifest,
    read_sealed,
    read_sealed_line,
    sealed_line,
    write_folder,
    write_json,
    write_manifest,
    write_sealed,
    write_text,
)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_appears_only_when_its_block_ends(tmp_path):
    folder = tmp_path / "parent" / "here"
    with write_folder(folder) as part:
        (part / "a.txt").write_text("new")
        assert not folder.exists()
    assert contents(folder) == {"a.txt": "new"}
    assert [path.name for path in folder.parent.iterdir()] == ["here"]


def test_a_block_that_raises_leaves_no_folder_or_the_old_one_intact(tmp_path):
    folder = tmp_path / "here"

    def fail(text):
        with write_folder(folder) as part:
            (part / "a.txt").write_text(text)
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail("half")
    assert not folder.exists()
    with write_folder(folder) as part:
        (part / "b.txt").write_text("old")
    with pytest.raises(RuntimeError, match="killed"):
        fail("half")
    assert contents(folder) == {"b.txt": "old"}


def test_leftovers_of_a_failed_write_do_not_get_into_the_next_one(tmp_path):
    folder = tmp_path / "here"
    with pytest.raises(RuntimeError), write_folder(folder) as part:
        (part / "stale.txt").write_text("half")
        raise RuntimeError
    with write_folder(folder) as part:
        (part / "a.txt").write_text("new")
    assert contents(folder) == {"a.txt": "new"}


def test_an_existing_folder_is_replaced_not_mixed(tmp_path):
    folder = tmp_path / "here"
    for name in ("old.txt", "new.txt"):
        with write_folder(folder) as part:
            (part / name).write_text(name)
    assert contents(folder) == {"new.txt": "new.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_text_and_json_are_written_completely_and_without_leftovers(tmp_path):
    write_text(tmp_path / "deep" / "a.txt", "é\n")
    write_text(tmp_path / "deep" / "a.txt", "ü\n")
    write_json(tmp_path / "deep" / "a.json", {"name": "bend d’or", "n": [1, 2.5, None]})
    assert (tmp_path / "deep" / "a.txt").read_text(encoding="utf-8") == "ü\n"
    assert read_json(tmp_path / "deep" / "a.json") == {"name": "bend d’or", "n": [1, 2.5, None]}
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["a.json", "a.txt"]


def test_a_value_that_is_not_serialisable_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"path": tmp_path})
    assert read_json(tmp_path / "a.json") == 1


def test_json_errors_name_the_file_and_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"gone\.json: no such file"):
        read_json(tmp_path / "gone.json")
    for bad in (b'{"a": 1', b"\xff\xfe", b"[" * 100_000):
        (tmp_path / "bad.json").write_bytes(bad)
        with pytest.raises(UserError, match=r"bad\.json: not readable as JSON .*; fetch it again"):
            read_json(tmp_path / "bad.json", "fetch it again")


def test_a_changed_character_in_a_sealed_file_is_an_error(tmp_path):
    path = tmp_path / "a.json"
    write_sealed(path, {"scores": [1.25, -3.5e-7], "name": "é"})
    assert read_sealed(path) == {"scores": [1.25, -3.5e-7], "name": "é"}
    intact = path.read_text()
    for damaged in (intact.replace("1.25", "1.35"), '{"scores": []}', "[]", intact[:-5]):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"a\.json: .*; delete it to have it made again"):
            read_sealed(path)


def test_a_changed_character_in_a_manifest_is_an_error_and_its_keys_are_at_the_top_level(tmp_path):
    path = tmp_path / "manifest.json"
    metadata = {"name": "é", "counts": {10: 1, 9: 2}, "files": ("a", "b")}
    write_manifest(path, metadata)
    assert read_manifest(path) == {"name": "é", "counts": {"10": 1, "9": 2}, "files": ["a", "b"]}
    assert read_json(path)["name"] == "é"
    intact = path.read_text()
    for damaged in (intact.replace('"9": 2', '"9": 3'), '{"name": "é"}', "[]", "1", intact[:-5]):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"manifest\.json: .*; put it back"):
            read_manifest(path, "put it back")


@given(st.dictionaries(st.text(), st.lists(st.floats(allow_nan=False) | st.text())), st.data())
def test_a_sealed_line_is_read_back_or_rejected(record, data):
    record.pop("sha256", None)
    line = sealed_line(record)
    assert line.count("\n") == 1 and read_sealed_line(line, "here", "ask again") == record
    position = data.draw(st.integers(0, len(line) - 2))
    changed = line[:position] + data.draw(st.characters(codec="utf-8")) + line[position + 1 :]
    try:
        assert read_sealed_line(changed, "here", "ask again") == record
    except UserError as error:
        assert str(error).startswith("here: damaged") and str(error).endswith("ask again")


def test_a_lock_has_one_holder_and_others_wait_or_time_out(tmp_path):
    seen = []

    def hold(thread_id):
        with file_lock(tmp_path / "memory"):
            seen.append(thread_id)
            assert len(seen) % 2 == 1
            time.sleep(0.01)
            seen.append(thread_id)

    threads = [threading.Thread(target=hold, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8 and seen[::2] == seen[1::2]
    with (
        file_lock(tmp_path / "memory"),
        pytest.raises(UserError, match="memory: another command"),
        file_lock(tmp_path / "memory", 0.05),
    ):
        pass


def test_temporary_names_are_unique(tmp_path):
    assert len({part_path(tmp_path / "a") for _ in range(100)}) == 100


def test_a_fingerprint_depends_on_values_and_not_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": [2, "é"]}) == fingerprint(json.loads('{"b": [2, "é"], "a": 1}'))
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert len(fingerprint(None)) == 16


def test_hashes_depend_on_names_and_contents(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"one")
    first = folder_hash(tmp_path)
    assert file_hash(tmp_path / "in" / "a") == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    (tmp_path / "in" / "a").write_bytes(b"two")
    second = folder_hash(tmp_path)
    (tmp_path / "in" / "a").rename(tmp_path / "in" / "b")
    assert len({first, second, folder_hash(tmp_path)}) == 3


def test_if_two_processes_write_the_same_folder_the_first_to_finish_wins(tmp_path):
    """The first folder may be in use already, so it is not replaced."""
    folder = tmp_path / "made"
    with write_folder(folder) as late:
        (late / "who").write_text("late")
        folder.mkdir()
        (folder / "who").write_text("first")
    assert (folder / "who").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_if_two_processes_finish_at_the_same_moment_one_of_them_wins(tmp_path, monkeypatch):
    """The other folder appears after the last check and before the rename."""
    folder, rename = tmp_path / "made", Path.rename

    def create_folder_then_rename(part, target):
        folder.mkdir()
        (folder / "who").write_text("first")
        return rename(part, target)

    monkeypatch.setattr(Path, "rename", create_folder_then_rename)
    with write_folder(folder) as late:
        (late / "who").write_text("late")
    assert contents(folder) == {"who": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("moment", ["while writing", "at the end"])
def test_a_cache_removed_during_a_write_is_an_error_that_names_it(tmp_path, moment):
    with (
        pytest.raises(UserError, match=r"cache: was removed or moved while entry was being written there"),
        write_folder(tmp_path / "cache" / "entry") as part,
    ):
        shutil.rmtree(tmp_path / "cache")
        if moment == "while writing":
            (part / "a.txt").write_text("x")
