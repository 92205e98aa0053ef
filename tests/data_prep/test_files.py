"""Files and folders are whole or as they were, and fingerprints follow contents."""

import json

import pytest

from data_prep.errors import UserError
from data_prep.files import file_hash, fingerprint, folder_hash, read_json, write_folder, write_json, write_text


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_appears_only_when_its_block_ends(tmp_path):
    folder = tmp_path / "made" / "here"
    with write_folder(folder) as part:
        (part / "a.txt").write_text("new")
        assert not folder.exists()
    assert contents(folder) == {"a.txt": "new"}
    assert [path.name for path in folder.parent.iterdir()] == ["here"]


def test_a_block_that_raises_leaves_no_folder_or_the_old_one_whole(tmp_path):
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


def test_what_a_killed_run_left_does_not_get_into_the_next(tmp_path):
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


def test_text_and_json_are_written_whole_and_without_leftovers(tmp_path):
    write_text(tmp_path / "deep" / "a.txt", "é\n")
    write_text(tmp_path / "deep" / "a.txt", "ü\n")
    write_json(tmp_path / "deep" / "a.json", {"name": "bend d’or", "n": [1, 2.5, None]})
    assert (tmp_path / "deep" / "a.txt").read_text(encoding="utf-8") == "ü\n"
    assert read_json(tmp_path / "deep" / "a.json") == {"name": "bend d’or", "n": [1, 2.5, None]}
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["a.json", "a.txt"]


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"path": tmp_path})
    assert read_json(tmp_path / "a.json") == 1


def test_json_errors_name_the_file_and_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"gone\.json: no such file"):
        read_json(tmp_path / "gone.json")
    for bad in (b'{"a": 1', b"\xff\xfe"):
        (tmp_path / "bad.json").write_bytes(bad)
        with pytest.raises(UserError, match=r"bad\.json: not readable as JSON .* delete it"):
            read_json(tmp_path / "bad.json")


def test_fingerprint_follows_values_and_not_the_order_of_keys():
    assert fingerprint({"a": 1, "b": [2, "é"]}) == fingerprint(json.loads('{"b": [2, "é"], "a": 1}'))
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert len(fingerprint(None)) == 16


def test_hashes_follow_names_and_contents(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"one")
    first = folder_hash(tmp_path)
    assert file_hash(tmp_path / "in" / "a") == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    (tmp_path / "in" / "a").write_bytes(b"two")
    second = folder_hash(tmp_path)
    (tmp_path / "in" / "a").rename(tmp_path / "in" / "b")
    assert len({first, second, folder_hash(tmp_path)}) == 3


def test_of_two_that_make_the_same_folder_the_first_to_end_makes_it(tmp_path):
    """The other may be read already, so it is not exchanged."""
    folder = tmp_path / "made"
    with write_folder(folder) as late:
        (late / "who").write_text("late")
        folder.mkdir()
        (folder / "who").write_text("first")
    assert (folder / "who").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
